"""How many threads run the model: what is given, what is measured, and what is small enough for the event loop."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from server.inference import planning
from server.inference.planning import Plan, Prepared, batches, choose
from server.model import contract
from server.model.contract import ALONE, Batching
from server.model.engine import Input
from server.model.loading import Ready, prepare
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine, FakeModel, Output


@dataclass
class Timed(FakeModel):
    """Takes `seconds` for a run."""

    archive: str = "double"
    seconds: float = 0.0

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        time.sleep(self.seconds)
        return super().forward(inputs)


def ready(folder: Path, model: Timed, batching: Batching = ALONE, **changes: Any) -> Ready:
    """A model that is ready."""
    described = replace(contract.read(models.write(folder, **changes)), batching=batching)
    made = prepare(described, folder, FakeEngine, threads=1)
    return replace(made, served=replace(made.served, model=model))


_BATCHING = Batching(max_size=4, max_delay_ms=0)


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ({"instances": 3, "threads": None}, (3, 2)),
        ({"instances": None, "threads": 2}, (4, 2)),
        ({"instances": 2, "threads": 1}, (2, 1)),
        ({"instances": None, "threads": 20}, (1, 20)),
    ],
)
def test_what_is_given_is_taken(tmp_path: Path, given: dict[str, Any], plan: tuple[int, int]) -> None:
    made = ready(tmp_path, Timed())
    chosen = choose(made, cores=8, **given)
    assert (chosen.instances, chosen.threads) == plan


def test_one_core_leaves_nothing_to_choose(tmp_path: Path) -> None:
    made = ready(tmp_path, Timed())
    assert choose(made, cores=1, instances=None, threads=None) == Plan(instances=1, threads=1)


@pytest.mark.parametrize(
    ("lone", "each", "plan"),
    [
        (0.02, 0.09, Plan(instances=1, threads=4)),
        (0.02, 0.06, Plan(instances=4, threads=1, wide=4)),
        (0.02, 0.021, Plan(instances=4, threads=1)),
        (0.02, 0.01, Plan(instances=4, threads=1)),
        (1.5, 0.0, Plan(instances=1, threads=4)),
    ],
)
def test_cores_are_spread_where_more_gets_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lone: float, each: float, plan: Plan
) -> None:
    monkeypatch.setattr(planning, "_fastest", lambda *_: lone)
    monkeypatch.setattr(planning, "_side_by_side", lambda *_: each)
    made = ready(tmp_path, Timed())
    assert choose(made, cores=4, instances=None, threads=None, fusion=False) == plan
    assert made.engine.threads() == plan.threads


def test_what_runs_take_side_by_side_is_measured_while_all_run(tmp_path: Path) -> None:
    model = Timed(seconds=0.02)
    made = ready(tmp_path, model)
    before = threading.active_count()
    # More on a busy machine.
    assert 0.02 <= planning._side_by_side(made, 3) < 0.2
    assert model.calls >= 3 * 2
    assert threading.active_count() == before


def test_a_model_that_takes_long_is_run_once_in_each_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_LONGEST_SECONDS", 0.01)
    model = Timed(seconds=0.02)
    made = ready(tmp_path, model)
    assert choose(made, cores=2, instances=None, threads=None, fusion=False).instances == 1
    assert model.calls == 1
    assert planning._side_by_side(made, 3) >= 0.02
    assert model.calls == 1 + 3


@pytest.mark.parametrize(
    ("seconds", "batching", "shape", "rows"),
    [
        (0.0, _BATCHING, [-1, 3], 4),
        (0.03, _BATCHING, [-1, 3], 0),
        (0.0, ALONE, [-1, 3], 0),
        (0.0, _BATCHING, [-1, -1], 0),
    ],
)
def test_short_batches_of_one_shape_are_run_on_the_loop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    batching: Batching,
    shape: list[int],
    rows: int,
) -> None:
    monkeypatch.setattr(planning, "INLINE_SECONDS", 0.02)
    inputs = [{"name": "x", "datatype": "FP32", "shape": shape}]
    made = ready(tmp_path, Timed(seconds=seconds), batching, inputs=inputs)
    chosen = choose(made, cores=2, instances=None, threads=None)
    assert chosen.inline_rows == rows
    if rows:
        assert (chosen.instances, chosen.threads) == (1, 2)


@pytest.mark.parametrize(
    ("lone", "each", "plan"),
    [
        (0.015, 0.061, Plan(instances=1, threads=4, fused=True)),
        (0.015, 0.05, Plan(instances=4, threads=1, wide=4, fused=True)),
        (0.0185, 0.09, Plan(instances=1, threads=4)),
    ],
)
def test_operators_are_fused_where_runs_are_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lone: float, each: float, plan: Plan
) -> None:
    model = Timed()
    monkeypatch.setattr(planning, "_fastest", lambda *_: lone if model.fused else 0.02)
    monkeypatch.setattr(planning, "_side_by_side", lambda *_: each)
    made = ready(tmp_path, model)
    chosen = choose(made, cores=4, instances=None, threads=None)
    assert chosen == plan
    assert (model.fused is not None) is chosen.fused
    assert made.engine.threads() == chosen.threads


def test_what_is_measured_in_a_bad_moment_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing makes a run faster than it is, and much makes it slower."""
    model, fused, spread = Timed(), iter([0.03, 0.019, 0.012]), iter([0.05, 0.021])
    monkeypatch.setattr(planning, "_fastest", lambda *_: next(fused) if model.fused else 0.02)
    monkeypatch.setattr(planning, "_side_by_side", lambda *_: next(spread))
    made = ready(tmp_path, model)
    plan = Plan(instances=2, threads=1, wide=2, fused=True)
    assert choose(made, cores=2, instances=None, threads=None) == plan
    assert not [*fused, *spread]


def test_a_lone_run_is_measured_again_before_it_gets_one_core_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lone = iter([0.02, 0.015])
    monkeypatch.setattr(planning, "_fastest", lambda *_: next(lone))
    monkeypatch.setattr(planning, "_side_by_side", lambda *_: 0.021)
    plan = choose(ready(tmp_path, Timed()), cores=2, instances=None, threads=None, fusion=False)
    assert plan == Plan(instances=2, threads=1, wide=2)


def test_what_takes_long_gets_one_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_CHANCES_SECONDS", 0.0)
    model, fused = Timed(), iter([0.03, 0.01])
    monkeypatch.setattr(planning, "_fastest", lambda *_: next(fused) if model.fused else 0.02)
    assert not choose(ready(tmp_path, model), cores=1, instances=None, threads=None).fused
    assert list(fused) == [0.01]


@pytest.mark.parametrize("given", [{"threads": 3}, {"instances": 1}, {"instances": 2}])
def test_a_plan_that_is_given_is_fused_for_its_threads(tmp_path: Path, given: dict[str, Any]) -> None:
    made = ready(tmp_path, Batched(seconds=0.01))
    chosen = choose(made, cores=4, **{"instances": None, "threads": None} | given)
    assert chosen.fused
    assert made.engine.threads() == chosen.threads


@dataclass
class Batched(Timed):
    """Takes `seconds` for a run of any number of requests, and 0.35 of that for one once it is fused."""

    def forward_together(self, requests: Sequence[Sequence[Input]], /) -> tuple[Sequence[Output], int, int]:
        if len(requests) == 1 and self.fused:
            self.batches.append(1)
            time.sleep(0.35 * self.seconds)
            return FakeModel.forward(self, requests[0]), 1, 2
        return super().forward_together(requests)


@pytest.mark.parametrize(("batching", "least"), [(Batching(max_size=6, max_delay_ms=0), 4), (ALONE, 2)])
def test_batches_begin_where_they_are_faster_than_fused_runs(tmp_path: Path, batching: Batching, least: int) -> None:
    model = Batched(seconds=0.03)
    made = ready(tmp_path, model, batching)
    plan = choose(made, cores=1, instances=None, threads=None)
    leading = Prepared(ready=made, plan=plan).lead()
    assert (leading.plan.fused, leading.plan.least_rows) == (True, least)
    batches = [4, 5, 6] if batching.max_size > 1 else []
    assert model.batches[len(model.batches) - len(batches) :] == batches
    ran = len(model.batches)
    leading.warm(1, batches=True)
    assert model.batches[ran:] == [1, 1, *batches]


def test_a_model_that_is_slow_alone_is_not_tried_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "INLINE_SECONDS", 0.001)
    model = Timed(seconds=0.03)
    made = ready(tmp_path, model, _BATCHING)
    choose(made, cores=1, instances=None, threads=None, fusion=False)
    assert set(model.batches) == {1}


def test_a_thread_warms_up_with_samples_and_batches(tmp_path: Path) -> None:
    model = Timed()
    made = ready(tmp_path, model, Batching(max_size=6, max_delay_ms=0))
    assert [len(batch) for batch in batches(made)] == [2, 4, 6]
    prepared = Prepared(ready=made, plan=Plan(instances=1, threads=3))
    prepared.warm(2)
    assert made.engine.threads() == 2
    # Once for each of the samples' two shapes.
    assert model.batches == [1, 1]
    assert prepared.lead() == prepared
    assert made.engine.threads() == 3
    assert model.batches[2:] == [2, 3, 4, 5, 6]


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    made = ready(tmp_path, Timed(seconds=0.001))
    choose(made, cores=4, instances=None, threads=None)
    assert threading.active_count() == before


def test_of_a_slow_model_only_the_smallest_batch_is_measured(tmp_path: Path) -> None:
    model = Batched(seconds=0.2)
    made = ready(tmp_path, model, Batching(max_size=6, max_delay_ms=0))
    plan = choose(made, cores=1, instances=None, threads=None)
    plan = Prepared(ready=made, plan=plan).lead().plan
    assert (plan.fused, plan.least_rows) == (True, 7)
    assert {size for size in model.batches if size > 1} == {2}
