"""Candidates tried and profiled: what is compared, what is measured, and what a plan is made from."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server import cpu, profile, trial
from server.model.answers import Answer
from server.model.contract import Tensor, Tolerance
from server.model.datatypes import DATATYPES
from server.model.deviations import Deviations
from server.model.samples import Expected
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine where the image has the C++ one, and an environment that is put back."""
    monkeypatch.setitem(sys.modules, "_engine", FakeEngine())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


def _tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *folders: Path
) -> dict[str, dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["server.trial", "--runs", "10", *map(str, folders)])
    assert trial.main() == 0
    candidates: dict[str, dict[str, Any]] = json.loads(capsys.readouterr().out)["candidates"]
    return candidates


def test_candidates_are_compared_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    y = 2 * models.X + np.array([[0, 0.25, 0]], np.float32)
    loose = models.write(tmp_path / "loose", content=models.samples(y), tolerance={"absolute": 0.5, "relative": 0})
    tried = _tried(monkeypatch, capsys, models.write(tmp_path / "exact"), loose)
    assert tried["exact"]["parity"]["runtime"]["y"] == {
        "absolute": 0.0,
        "relative": 0.0,
        "equal": True,
        "agreement": 1.0,
    }
    off = tried["loose"]["parity"]["runtime"]["y"]
    assert (off["absolute"], off["equal"], off["agreement"]) == (0.25, False, 1.0)
    assert tried["exact"]["p50"] > 0


def test_a_candidate_that_answers_otherwise_is_refused_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    off = models.write(tmp_path / "off", content=models.samples(models.X))
    broken = models.write(tmp_path / "broken", behaviour="unknown")
    tried = _tried(monkeypatch, capsys, models.write(tmp_path / "good"), off, broken)
    assert "refused" not in tried["good"]
    assert tried["off"]["refused"].startswith("in the runtime: sample 0: output y differs by up to 3, beyond tolerance")
    assert "cannot load the archive" in tried["broken"]["refused"]


def test_a_probe_beyond_tolerance_refuses_a_candidate_that_is_meant_to_meet_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        models.write(tmp_path / "fp32", probes={"judged": True}),
        models.write(tmp_path / "bf16", probes={"judged": False}),
    ]
    for folder in folders:
        (folder / "probes.safetensors").write_bytes(models.samples(2 * models.X + np.float32(8)))
    tried = _tried(monkeypatch, capsys, *folders)
    assert "probe 0: output y differs by up to 8" in tried["fp32"]["refused"]
    assert tried["bf16"]["parity"]["runtime"]["y"]["absolute"] == 8.0


def test_what_rounding_moves_is_allowed_to_a_probe_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        models.write(tmp_path / "enough", probes={"judged": True, "rounding": [[0.6], [0.0]]}),
        models.write(tmp_path / "little", probes={"judged": True, "rounding": [[0.4], [9.0]]}),
    ]
    for folder in folders:
        (folder / "probes.safetensors").write_bytes(models.samples(2 * models.X + np.float32(0.5)))
    tried = _tried(monkeypatch, capsys, *folders)
    assert tried["enough"]["parity"]["runtime"]["y"]["absolute"] == 0.5
    assert (
        "probe 0: output y differs by up to 0.5, beyond tolerance first at element 0, where rounding may add 0.4"
        in tried["little"]["refused"]
    )


def test_a_contract_that_tells_the_rounding_of_other_probes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models.write(tmp_path, probes={"judged": True, "rounding": [[0.6]]})
    (folder / "probes.safetensors").write_bytes(models.samples())
    assert "2 probes of 1 outputs do not fit" in _tried(monkeypatch, capsys, folder)[tmp_path.name]["refused"]


def test_without_candidates_only_the_cpu_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    monkeypatch.setattr(sys, "argv", ["server.trial"])
    assert trial.main() == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["bf16"], printed["candidates"]) == (True, {})


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 fpu", True), ("", False)]
)
def test_the_cpu_has_bf16_where_linux_says_so(tmp_path: Path, flags: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nbugs\t\t: amx_bf16\nflags\t\t: {flags}\n")
    assert cpu.has_bf16(tmp_path / "cpuinfo") is expected


def _deviations(got: list[list[float]], wanted: list[list[float]], *, judged: bool = True) -> tuple[str | None, Any]:
    tensor = Tensor(name="y", datatype=DATATYPES["FP32"], shape=(-1, 2))
    one, other = (np.array(each, np.float32) for each in (got, wanted))
    answer = Answer(tensor=tensor, shape=one.shape, content=memoryview(one.tobytes()))
    deviations = Deviations(tensor)
    tolerance = Tolerance(absolute=0.5, relative=0.0)
    told = deviations.add(answer, Expected(shape=other.shape, content=other.tobytes()), tolerance, judged=judged)
    return told, deviations.found()


def test_rows_that_answer_otherwise_do_not_agree() -> None:
    told, found = _deviations([[1.0, 2.0], [3.0, 2.75], [math.nan, 1.0]], [[1.0, 2.0], [2.5, 2.75], [math.nan, 1.0]])
    assert told is None
    assert (found["agreement"], found["equal"], found["absolute"]) == (2 / 3, False, 0.5)


@pytest.mark.parametrize("judged", [True, False])
def test_what_is_not_finite_is_wrong_also_where_no_tolerance_is_meant(judged: bool) -> None:
    told, _ = _deviations([[math.inf, 1.0]], [[1.0, 1.0]], judged=judged)
    assert told == "differs by up to inf, beyond tolerance first at element 0"


def test_another_shape_is_wrong() -> None:
    told, _ = _deviations([[1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]])
    assert told == "has shape [1, 2], expected [2, 2]"


def test_a_profile_has_each_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["server.profile", str(models.write(tmp_path))])
    assert profile.main() == 0
    shapes = json.loads(capsys.readouterr().out)["shapes"]
    assert [(shape["sample"], shape["shapes"]) for shape in shapes] == [(0, [[1, 3]]), (1, [[2, 3]])]
    assert {tuple(shape) for shape in shapes} == {("sample", "shapes", "cold", "second", "steady", "runs")}


def test_a_profile_of_a_damaged_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models.write(tmp_path)
    (folder / "model.pt").write_text("DOUBLE")
    monkeypatch.setattr(sys, "argv", ["server.profile", str(folder)])
    assert profile.main() == 4
    assert "its sha256 is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loads", "runs"),
    [
        ([[0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]], 3),
        ([[0.9, 0.5, 0.4, 0.3, 0.1, 0.1, 0.1, 0.1]], 5),
        ([[0.9, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]], 4),
        # What is slow by chance is slow in one load, or alone.
        ([[0.9, 0.5, 0.1, 0.8, 0.1, 0.1, 0.1, 0.1], [0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.8, 0.1]], 3),
        ([[0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.8, 0.1]], 3),
        # A machine that is slower all through one load.
        ([[0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [1.8, 1.0, 0.2, 0.4, 0.2, 0.2, 0.2, 0.2]], 3),
        # Microseconds are the clock's.
        ([[9e-5, 5e-5, 5e-5, 4e-5, 1e-6, 1e-6, 1e-6, 1e-6]], 3),
        ([[0.1] * 8], 3),
    ],
)
def test_a_plan_ends_where_runs_get_no_faster(loads: list[list[float]], runs: int) -> None:
    found = profile.summary(loads)
    assert found["runs"] == runs
    assert found["cold"] == pytest.approx(1e3 * loads[0][0])
