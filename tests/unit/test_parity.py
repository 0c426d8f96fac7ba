"""The parity table: which stages are in it, and that it never rounds a disagreement away."""

from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import Deviation, Verdict
from pipeline.parity import table
from tests.unit import values


def _verdict(gate: str, **measured: float) -> Verdict:
    figures = {name.replace("__", "."): value for name, value in measured.items()}
    return Verdict(gate=gate, digest="sha256:1", against="", findings=(), measured=figures)


def test_every_stage_has_a_row(tmp_path: Path) -> None:
    check = _verdict("check", samples=7, y__max_abs=3e-7, y__max_rel=2e-6)
    smoke = _verdict(
        "smoke", max_abs=1, wire__y__max_abs=4e-7, wire__y__max_rel=3e-6, wire__y__equal=0, wire__y__agreement=1
    )
    assert table(values.archive(tmp_path), (check, smoke)) == [
        "stage      output  max abs  max rel  bit-equal  same answer",
        "program    y       0        0        yes        100 %",
        "frozen     y       2.5e-07  1e-06    no         100 %",
        "optimised  y       2.5e-07  1e-06    no         100 %",
        "runtime    y       2.5e-07  1e-06    no         100 %",
        "check      y       3e-07    2e-06    -          -",
        "wire       y       4e-07    3e-06    no         100 %",
    ]


def test_one_row_that_disagrees_among_many_is_seen(tmp_path: Path) -> None:
    off = Deviation(absolute=1.0, relative=1.0, equal=False, agreement=1 - 1e-6)
    archive = replace(values.archive(tmp_path), parity={"frozen": {"y": off, "n": replace(off, agreement=None)}})
    assert [line.split()[-2:] for line in table(archive)[1:]] == [["99.99", "%"], ["no", "-"]]


def test_a_gate_that_measured_nothing_adds_nothing(tmp_path: Path) -> None:
    archive = values.archive(tmp_path)
    assert table(archive, (_verdict("audit", layers=2),)) == table(archive)
