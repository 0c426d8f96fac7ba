"""How many threads run the model: what is given, what is measured, and what is small enough for the event loop."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from server import contract, planning
from server.contract import ALONE, Batching
from server.engine import Input
from server.loading import Ready, prepare
from server.planning import Plan, Prepared, batches, choose
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


def ready(folder: Path, model: Timed, batching: Batching = ALONE, **changes: Any) -> tuple[Ready, FakeEngine]:
    """A model that is ready, and its engine."""
    described = replace(contract.read(models.write(folder, **changes)), batching=batching)
    engine = FakeEngine()
    made = prepare(described, folder, engine, threads=1)
    return replace(made, served=replace(made.served, model=model)), engine


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
    made, engine = ready(tmp_path, Timed())
    chosen = choose(made, engine, cores=8, **given)
    assert (chosen.instances, chosen.threads) == plan


def test_one_core_leaves_nothing_to_choose(tmp_path: Path) -> None:
    made, engine = ready(tmp_path, Timed())
    assert choose(made, engine, cores=1, instances=None, threads=None) == Plan(instances=1, threads=1, inline_rows=0)


@pytest.mark.parametrize(
    ("rates", "instances"),
    [((50.0, 55.0, 60.0), 1), ((50.0, 70.0, 80.0), 2), ((50.0, 70.0, 95.0), 4), ((50.0, 55.0, 68.0), 4)],
)
def test_instances_are_as_many_as_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: tuple[float, ...], instances: int
) -> None:
    measured = dict(zip([(1, 4), (2, 2), (4, 1)], rates, strict=True))
    monkeypatch.setattr(planning, "_throughput", lambda _, __, ___, *plan: measured[plan])
    made, engine = ready(tmp_path, Timed())
    chosen = choose(made, engine, cores=4, instances=None, threads=None, fusion=False)
    assert (chosen.instances, chosen.threads) == (instances, 4 // instances)


def test_throughput_is_that_of_all_instances(tmp_path: Path) -> None:
    made, engine = ready(tmp_path, Timed(seconds=0.02))
    rate = planning._throughput(made.served, made.samples[0].inputs, engine, 3, 1)
    # A run takes 20 ms, and more on a busy machine.
    assert rate
    assert 0 < rate <= 3 / 0.02


def test_a_model_that_takes_long_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_SECONDS", 0.001)
    model = Timed(seconds=0.02)
    made, engine = ready(tmp_path, model)
    assert choose(made, engine, cores=2, instances=None, threads=None).instances == 1
    assert model.calls == 1


def test_a_plan_that_takes_long_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {(1, 4): 1.5, (2, 2): 2.9, (4, 1): None}
    monkeypatch.setattr(planning, "_throughput", lambda _, __, ___, *plan: rates[plan])
    made, engine = ready(tmp_path, Timed())
    chosen = choose(made, engine, cores=4, instances=None, threads=None, fusion=False)
    assert (chosen.instances, chosen.threads) == (2, 2)


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
    made, engine = ready(tmp_path, Timed(seconds=seconds), batching, inputs=inputs)
    chosen = choose(made, engine, cores=2, instances=None, threads=None)
    assert chosen.inline_rows == rows
    if rows:
        assert (chosen.instances, chosen.threads) == (1, 2)


@pytest.mark.parametrize(
    ("rates", "plan"),
    [
        ({(1, 4): 70, (2, 2): 80}, (1, 4, True)),
        ({(1, 4): 70, (2, 2): 100}, (2, 2, True)),
        ({(1, 4): 60, (2, 2): 90}, (2, 2, True)),
        ({(1, 4): 70}, (1, 4, True)),
        ({(2, 2): 90}, (2, 2, True)),
        ({(1, 4): 55}, (2, 2, False)),
        ({}, (2, 2, False)),
    ],
)
def test_a_plan_is_fused_that_gets_more_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rates: dict[tuple[int, int], float],
    plan: tuple[int, int, bool],
) -> None:
    plain_rates = {(1, 4): 50.0, (2, 2): 80.0, (4, 1): 60.0}
    monkeypatch.setattr(planning, "_throughput", lambda _, __, ___, *plan: plain_rates[plan])
    model = Timed()
    made, engine = ready(tmp_path, model)

    def fused(plan: Plan, *_: object, plain: float) -> float | None:
        assert plain == plan.instances / plain_rates[plan.instances, plan.threads]
        engine.set_threads(plan.threads)
        rate = rates.get((plan.instances, plan.threads))
        model.fused = ((1, 3),) if rate else None
        return plan.instances / rate if rate else None

    monkeypatch.setattr(planning, "fused", fused)
    chosen = choose(made, engine, cores=4, instances=None, threads=None)
    assert (chosen.instances, chosen.threads, chosen.fused) == plan
    assert (model.fused is not None) is chosen.fused
    if chosen.fused:
        assert engine.threads() == chosen.threads
    monkeypatch.setattr(planning, "fused", None)
    assert choose(made, engine, cores=4, instances=None, threads=None, fusion=False) == replace(
        chosen, instances=2, threads=2, fused=False, least_rows=1
    )


@pytest.mark.parametrize("given", [{"threads": 3}, {"instances": 1}, {"instances": 2}])
def test_a_plan_that_is_given_is_fused_for_its_threads(tmp_path: Path, given: dict[str, Any]) -> None:
    made, engine = ready(tmp_path, Batched(seconds=0.01))
    chosen = choose(made, engine, cores=4, **{"instances": None, "threads": None} | given)
    assert chosen.fused
    assert engine.threads() == chosen.threads


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
    made, engine = ready(tmp_path, model, batching)
    plan = choose(made, engine, cores=1, instances=None, threads=None)
    assert (plan.fused, plan.least_rows) == (True, least)
    ran = len(model.batches)
    Prepared(ready=made, engine=engine, plan=plan).warm(1, prepared=True)
    assert model.batches[ran:] == ([4, 6] if batching.max_size > 1 else [])


def test_a_model_that_is_slow_alone_is_not_tried_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "INLINE_SECONDS", 0.001)
    model = Timed(seconds=0.03)
    made, engine = ready(tmp_path, model, _BATCHING)
    choose(made, engine, cores=1, instances=None, threads=None, fusion=False)
    assert model.batches == [1]


def test_a_thread_warms_up_with_samples_and_batches(tmp_path: Path) -> None:
    model = Timed()
    made, engine = ready(tmp_path, model, Batching(max_size=6, max_delay_ms=0))
    assert [len(batch) for batch in batches(made)] == [2, 4, 6]
    prepared = Prepared(ready=made, engine=engine, plan=Plan(instances=1, threads=3, inline_rows=0))
    prepared.warm(3)
    assert engine.threads() == 3
    assert model.batches == [1, 1, 1, 1, 2, 4, 6]
    prepared.warm(3, prepared=True)
    assert model.batches[7:] == [2, 4, 6]


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    made, engine = ready(tmp_path, Timed(seconds=0.001))
    choose(made, engine, cores=4, instances=None, threads=None)
    assert threading.active_count() == before
