"""Operators are fused where they give the right answers, by however many threads they are run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server import cgroup, memory
from server.inference.fusing import fuse, may_gain
from server.model.engine import Engine, Input
from tests.unit.server.fake_engine import FakeEngine, FakeModel, ModelError, Output
from tests.unit.server.test_planning import Timed, ready


@dataclass
class Told(Timed):
    """Tells by how many threads it was run."""

    engine: Engine = field(default_factory=FakeEngine)
    threads: list[int] = field(default_factory=list)

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        self.threads.append(self.engine.threads())
        return super().forward(inputs)


@dataclass
class Wrong(Told):
    """Answers something else once it is fused, or only by one thread then."""

    alone: bool = False

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        wrong = self.fused is not None and (self.engine.threads() == 1 or not self.alone)
        return FakeModel("pair").forward(inputs) if wrong else super().forward(inputs)


class Unfusible(Timed):
    """Fails when it is fused."""

    def fuse(self, _: Sequence[Input], /) -> None:
        raise ModelError("out of cheese")


def test_what_gives_the_right_answers_is_fused(tmp_path: Path) -> None:
    model = Told()
    made = ready(tmp_path, model)
    model.engine = made.engine
    assert fuse(made, threads=[2, 1])
    assert model.fused == ((1, 3),)
    # Fused for two, and tried with each.
    assert model.threads == [2, 2, 1]


@pytest.mark.parametrize("alone", [False, True], ids=["always", "by one thread"])
def test_other_answers_are_told_and_all_is_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: bool
) -> None:
    model = Wrong(alone=alone)
    made = ready(tmp_path, model)
    model.engine = made.engine
    assert not fuse(made, threads=[2, 1])
    assert model.fused is None
    told = json.loads(capsys.readouterr().err)
    assert (told["event"], told["level"]) == ("not-fused", "warning")
    assert "forward() returned 2" in told["reason"]


def test_what_cannot_be_fused_is_as_it_was(tmp_path: Path) -> None:
    model = Unfusible()
    made = ready(tmp_path, model)
    assert not fuse(made, threads=[1])
    assert model.fused is None


@pytest.mark.parametrize(("seconds", "may"), [(0.0005, False), (0.002, True), (1.5, False)])
def test_runs_that_are_hardly_one_or_take_long_are_left_alone(tmp_path: Path, seconds: float, may: bool) -> None:
    made = ready(tmp_path, Timed())
    assert may_gain(made, seconds) is may


@pytest.mark.parametrize(("limit", "fits"), [(None, True), (1100, True), (1000, False)])
def test_a_copy_has_to_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, fits: bool
) -> None:
    monkeypatch.setattr(cgroup, "memory", lambda: limit)
    monkeypatch.setattr(memory, "resident", lambda: 1000)
    made = ready(tmp_path, Timed())
    assert may_gain(made, 0.02) is fits
