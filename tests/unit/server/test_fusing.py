"""Operators are fused where the same answers come faster by it, and not otherwise."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from server import cgroup, memory
from server.engine import Input
from server.fusing import fuse
from tests.unit.server.fake_engine import FakeModel, ModelError, Output
from tests.unit.server.test_planning import Timed, ready


@dataclass
class Fusible(Timed):
    """Takes `fused_seconds` once it is fused, and answers `fused_archive`'s answers then."""

    fused_seconds: float = 0.0
    fused_archive: str = "double"

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        if self.fused is None:
            return super().forward(inputs)
        time.sleep(self.fused_seconds)
        return FakeModel(self.fused_archive).forward(inputs)


class Unfusible(Timed):
    """Fails when it is fused."""

    def fuse(self, _: Sequence[Input], /) -> None:
        raise ModelError("out of cheese")


def _fused(model: Timed, folder: Path, plain: float | None = None) -> float | None:
    """Fuses by the seconds of one run."""
    made, engine = ready(folder, model)

    def measure() -> float:
        started = time.perf_counter()
        made.served.answer(made.samples[0].inputs)
        return time.perf_counter() - started

    return fuse(made, engine, measure, plain=plain)


def test_what_is_faster_is_fused(tmp_path: Path) -> None:
    model = Fusible(seconds=0.02, fused_seconds=0.001)
    seconds = _fused(model, tmp_path)
    assert seconds
    assert 0.001 <= seconds < 0.02
    assert model.fused == ((1, 3),)


@pytest.mark.parametrize(
    "model",
    [
        Fusible(seconds=0.01, fused_seconds=0.02),
        Fusible(seconds=0.02, fused_archive="pair"),
        Fusible(seconds=0.0),
        Unfusible(seconds=0.02),
    ],
    ids=["slower", "another answer", "hardly a run", "not fusible"],
)
def test_all_is_as_it_was_otherwise(tmp_path: Path, model: Timed) -> None:
    assert _fused(model, tmp_path) is None
    assert model.fused is None


def test_other_answers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _fused(Fusible(seconds=0.02, fused_archive="pair"), tmp_path) is None
    told = json.loads(capsys.readouterr().err)
    assert (told["event"], told["level"]) == ("not-fused", "warning")
    assert "forward() returned 2" in told["reason"]


def test_what_a_run_takes_is_taken_from_whoever_knows(tmp_path: Path) -> None:
    model = Fusible(seconds=0.02, fused_seconds=0.005)
    assert _fused(model, tmp_path, plain=0.004) is None
    # The one with which it was fused.
    assert model.calls == 1
    assert _fused(model, tmp_path, plain=0.02)


@pytest.mark.parametrize(("limit", "fused"), [(None, True), (1100, True), (1000, False)])
def test_a_copy_has_to_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, fused: bool
) -> None:
    monkeypatch.setattr(cgroup, "memory", lambda: limit)
    monkeypatch.setattr(memory, "resident", lambda: 1000)
    assert (_fused(Fusible(seconds=0.02), tmp_path) is not None) is fused
