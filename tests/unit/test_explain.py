"""What `inv explain` prints."""

import re
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import Finding, Verdict
from pipeline.explain import explain
from tests.unit import values

INFO = Finding(rule="loop", level="info", where="model.py:7", message="a loop over x.shape[0]", fix="")
WARNING = Finding(rule="device-literal", level="warning", where="model.py:9", message="on the CPU", fix="Use x.device.")


def test_method_reason_and_trials_come_first(tmp_path: Path) -> None:
    lines = list(explain(values.archive(tmp_path)))
    assert lines[:3] == [
        "tiny 1.0.0 is traced (torch.jit.trace); model.yaml asks for `auto`.",
        "  nothing depends on the input's values",
        "  Tried on 7 samples of held-out data and 20 random probes.",
    ]
    assert not any("Never reached" in line or "ACCEPTED" in line for line in lines)


def test_then_how_far_it_can_be_trusted(tmp_path: Path) -> None:
    smoked = Verdict(
        gate="smoke", digest="", against="", findings=(), measured={"wire.y.max_abs": 3e-6, "wire.y.max_rel": 1e-6}
    )
    text = "\n".join(explain(values.archive(tmp_path), [smoked]))
    assert "model.yaml allows 1e-05 + 1e-05 * |expected|" in text
    assert re.search(r"^  program +y +0 +0 +yes", text, re.MULTILINE)
    assert re.search(r"^  wire +y +3e-06 +1e-06", text, re.MULTILINE)
    assert "  accuracy: 0.9 of the trained model, 0.9 of the archive" in text
    assert "  fp32 contiguous: p50 1 ms; taken: the only one that fits model.yaml" in text
    assert "  At most 8 rows in one run: 27 got the same answers.\n  batches of 1: 2 ms a row" in text
    assert re.search(r"^  \[.*\]: first .* ms, second .* ms, steady .* ms; 3 runs$", text, re.MULTILINE)


def test_warnings_come_before_what_is_only_worth_knowing(tmp_path: Path) -> None:
    plain = values.archive(tmp_path)
    archive = replace(
        plain,
        evidence=replace(
            plain.evidence, findings=(INFO, WARNING), unvisited=("model.py:12: `if`",), accepted="one size only"
        ),
    )
    text = "\n".join(explain(archive))
    order = [
        "one size only",
        "device-literal",
        "model.py:9",
        "-> Use x.device.",
        "loop",
        "model.py:7",
        "model.py:12: `if`",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_places_of_one_rule_share_its_advice(tmp_path: Path) -> None:
    plain = values.archive(tmp_path)
    findings = (WARNING, replace(WARNING, where="model.py:11"), WARNING)
    lines = list(explain(replace(plain, evidence=replace(plain.evidence, findings=findings))))
    start = lines.index("  warning  device-literal")
    assert [line.strip() for line in lines[start + 1 : start + 4]] == [
        "model.py:9: on the CPU",
        "model.py:11: on the CPU",
        "-> Use x.device.",
    ]


def test_long_text_is_wrapped_and_code_keeps_its_lines(tmp_path: Path) -> None:
    plain = values.archive(tmp_path)
    message = "the branch " + "was taken " * 30 + "\n>>> if x.sum() > 0:"
    findings = (replace(INFO, message=message),)
    lines = list(explain(replace(plain, evidence=replace(plain.evidence, findings=findings))))
    assert max(map(len, lines)) <= 110
    assert "           >>> if x.sum() > 0:" in lines
