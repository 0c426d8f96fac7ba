"""What is run together, in which thread, and what becomes of each request."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.errors import LoadFailed
from server.inference import scheduler
from server.inference.planning import Plan, Prepared
from server.inference.running import Done
from server.inference.scheduler import QueueLimits, Scheduler
from server.model import contract
from server.model.answers import Answer, ModelFailed
from server.model.contract import Batching
from server.model.engine import Input
from server.model.loading import Ready, prepare
from server.refusal import Refusal
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine, FakeModel, ModelError, Output

_LIMITS = QueueLimits(requests=8, size=1000)
_BATCHING = Batching(max_size=4, max_delay_ms=0)
_PLAN = Plan(instances=1, threads=1)


@dataclass
class Gated(FakeModel):
    """Doubles its input once its gate is open; fails where 13 is among it, and tells in which thread and by how many
    cores a run was made."""

    archive: str = "double"
    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    threads: list[str] = field(default_factory=list)
    engine: FakeEngine = field(default_factory=FakeEngine)
    cores: list[int] = field(default_factory=list)

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        self.threads.append(threading.current_thread().name)
        self.cores.append(self.engine.threads())
        self.started.set()
        assert self.gate.wait(10)
        if 13 in np.frombuffer(inputs[0][2], np.float32):
            raise ModelError("unlucky number")
        return super().forward(inputs)


def _rows(*values: float) -> list[Input]:
    """A request with a row of each value."""
    return [("FP32", (len(values), 3), np.repeat(np.array(values, np.float32), 3).tobytes())]


def _values(answers: Sequence[Answer]) -> list[float]:
    """The first element of each row of an answer."""
    found: list[float] = np.frombuffer(answers[0].content, np.float32)[::3].tolist()
    return found


@dataclass
class Bench:
    """A scheduler whose model runs when its gate is open."""

    scheduler: Scheduler
    model: Gated

    async def queued(self, *requests: list[Input], first: float = 1) -> list["asyncio.Task[Sequence[Answer]]"]:
        """Requests that wait, one after the other, while the model runs the first one."""
        tasks = [asyncio.ensure_future(self.scheduler.answer(_rows(first)))]
        await asyncio.to_thread(self.model.started.wait, 10)
        for request in requests:
            tasks.append(asyncio.ensure_future(self.scheduler.answer(request)))
            await asyncio.sleep(0)
        return tasks


def _run(
    folder: Path,
    work: Callable[[Bench], Awaitable[Any]],
    *,
    batching: Batching = _BATCHING,
    plan: Plan = _PLAN,
    limits: QueueLimits = _LIMITS,
) -> Any:
    """What `work` returns, with a scheduler that has begun; it is stopped afterwards."""
    described = replace(contract.read(models.write(folder)), batching=batching)
    engine = FakeEngine()
    model = Gated(engine=engine)
    model.gate.set()

    def prepared() -> Prepared:
        ready = prepare(described, folder, lambda: engine, threads=1)
        served = replace(ready.served, model=model)
        return Prepared(ready=replace(ready, served=served), plan=plan)

    async def main() -> Any:
        scheduler = Scheduler(prepared, limits)
        scheduler.start()
        await asyncio.to_thread(scheduler.prepared.result, 10)
        scheduler.begin()
        # Whoever has only just warmed up is not among those that the leader shares with.
        while scheduler._instances._others.count < plan.instances - 1:
            await asyncio.sleep(0.001)
        for seen in (model.batches, model.threads, model.cores):
            seen.clear()
        model.gate.clear()
        model.started.clear()
        try:
            return await work(Bench(scheduler, model))
        finally:
            model.gate.set()
            assert await asyncio.to_thread(scheduler.stop, 10)

    return asyncio.run(main())


def test_what_queued_up_during_a_run_is_the_next_batch(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(_rows(2), _rows(3, 4), _rows(5), _rows(6))
        assert bench.scheduler.statistics.queued == 4
        bench.model.gate.set()
        answers = [_values(each) for each in await asyncio.gather(*tasks)]
        assert answers == [[2], [4], [6, 8], [10], [12]]
        # Four rows at most: 2, 3 and 4, and 5, and then what is left.
        assert bench.model.batches == [1, 3, 1]
        statistics = bench.scheduler.statistics
        assert (statistics.executions, statistics.inferences, statistics.queued) == (3, 6, 0)
        assert (statistics.success.count, statistics.queue.count, statistics.fail.count) == (5, 5, 0)
        assert {rows: each.compute_infer.count for rows, each in statistics.batches.items()} == {1: 2, 4: 1}
        assert statistics.compute_infer.ns == 5 * 2
        assert statistics.last_inference_ms > 1_700_000_000_000

    _run(tmp_path, work)


def test_without_batching_each_request_is_a_run(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(_rows(2), _rows(3))
        bench.model.gate.set()
        assert [_values(each) for each in await asyncio.gather(*tasks)] == [[2], [4], [6]]
        assert bench.model.batches == [1, 1, 1]

    _run(tmp_path, work, batching=contract.ALONE)


def test_a_request_larger_than_a_batch_is_run_in_parts_with_others_in_between(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(_rows(*range(20, 31)), _rows(3))
        bench.model.gate.set()
        ended: list[list[float]] = []
        for task in tasks:
            task.add_done_callback(lambda task: ended.append(_values(task.result())))
        await asyncio.gather(*tasks)
        # Who came later, and is small, does not wait for all of it.
        assert ended == [[2], [6], [2 * value for value in range(20, 31)]]
        statistics = bench.scheduler.statistics
        assert (statistics.success.count, statistics.queue.count, statistics.compute_infer.count) == (3, 3, 3)
        assert statistics.inferences == 13
        assert statistics.success.ns >= statistics.queue.ns

    _run(tmp_path, work)


def test_a_large_request_is_whole_where_its_rows_may_know_each_other(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.model.gate.set()
        assert len(_values(await bench.scheduler.answer(_rows(*range(20, 31))))) == 11
        assert bench.model.batches == [1]
        assert bench.scheduler.statistics.executions == 1

    _run(tmp_path, work, batching=contract.ALONE)


def test_a_large_request_whose_rows_are_apart_is_cut_even_where_nothing_is_batched(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.model.gate.set()
        assert _values(await bench.scheduler.answer(_rows(1, 2, 3))) == [2, 4, 6]
        # A row, and since that was short two rows.
        assert bench.scheduler.statistics.executions == 2

    _run(tmp_path, work, batching=Batching(max_size=1, max_delay_ms=0))


def test_a_large_request_that_was_begun_is_not_refused(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.model.gate.set()
        # The first part has 48 bytes, and the second one, alone, would be too large for the queue.
        assert len(_values(await bench.scheduler.answer(_rows(*range(20, 31))))) == 11
        assert bench.scheduler.statistics.rejected == 0

    _run(tmp_path, work, limits=QueueLimits(requests=2, size=50))


def test_a_part_that_fails_ends_its_request(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.model.gate.set()
        with pytest.raises(ModelFailed, match="unlucky"):
            await bench.scheduler.answer(_rows(1, 2, 3, 4, 13, 14, *range(20, 40)))
        statistics = bench.scheduler.statistics
        assert (statistics.fail.count, statistics.success.count, statistics.executions) == (1, 0, 2)

    _run(tmp_path, work)


def test_one_bad_request_fails_alone(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(_rows(2), _rows(13), _rows(3))
        bench.model.gate.set()
        first, two, unlucky, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(unlucky, ModelFailed)
        assert [_values(each) for each in (first, two, three)] == [[2], [4], [6]]  # type: ignore[arg-type]
        assert bench.model.batches == [1, 3, 1, 1, 1]
        assert (bench.scheduler.statistics.fail.count, bench.scheduler.statistics.success.count) == (1, 3)

    _run(tmp_path, work)


@pytest.mark.parametrize(("waiting", "batches"), [(2, [1, 1, 1]), (3, [1, 3]), (6, [1, 4, 1, 1])])
def test_few_are_run_one_after_the_other(tmp_path: Path, waiting: int, batches: list[int]) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(*(_rows(value) for value in range(waiting)))
        bench.model.gate.set()
        answers = await asyncio.gather(*tasks)
        assert [_values(each) for each in answers] == [[2], *([2 * value] for value in range(waiting))]
        # Before the first request, one warms up.
        assert bench.model.batches[-len(batches) :] == batches

    _run(tmp_path, work, plan=Plan(instances=1, threads=1, least_rows=3))


def test_small_batches_run_on_the_event_loop(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.model.gate.set()
        answers = await asyncio.gather(*(bench.scheduler.answer(_rows(value)) for value in range(6)))
        assert [_values(each) for each in answers] == [[2 * value] for value in range(6)]
        assert bench.model.batches == [4, 2]
        assert set(bench.model.threads) == {threading.current_thread().name}
        # A larger one: four rows there, and the other eight in a thread.
        await bench.scheduler.answer(_rows(*range(12)))
        assert bench.model.threads[-2:] == [threading.current_thread().name, "inference"]

    _run(tmp_path, work, plan=Plan(instances=1, threads=1, inline_rows=4))


def test_what_is_much_longer_than_what_was_measured_does_not_run_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strings may be: their number says nothing about their length."""
    monkeypatch.setattr(scheduler, "_LONGER", 0.9)

    async def work(bench: Bench) -> None:
        bench.model.gate.set()
        assert _values(await bench.scheduler.answer(_rows(1))) == [2]
        assert bench.model.threads == ["inference"]

    _run(tmp_path, work, plan=Plan(instances=1, threads=1, inline_rows=4))


def test_every_instance_warms_up_and_serves(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(_rows(2))
        while len(bench.model.threads) < 2:
            await asyncio.sleep(0.001)
        bench.model.gate.set()
        await asyncio.gather(*tasks)
        assert sorted(bench.model.threads) == ["inference", "inference-1"]

    _run(tmp_path, work, plan=Plan(instances=2, threads=1))


_WIDE = Plan(instances=2, threads=1, wide=4)


async def _begun(bench: Bench, runs: int) -> None:
    """Waits until so many runs have begun."""
    while len(bench.model.threads) < runs:
        await asyncio.sleep(0.001)


def test_a_request_that_is_alone_has_all_cores_and_others_wait_for_it(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(_rows(2), _rows(3))
        await asyncio.sleep(0.05)
        assert (bench.model.threads, bench.model.cores) == (["inference"], [4])
        bench.model.gate.set()
        assert [_values(each) for each in await asyncio.gather(*tasks)] == [[2], [4], [6]]
        assert bench.model.cores[1:] == [1] * len(bench.model.cores[1:])
        # Both threads are idle again, and it is the one that leads which takes what is alone.
        for value in range(5):
            assert _values(await bench.scheduler.answer(_rows(value))) == [2 * value]
        assert (bench.model.threads[-5:], bench.model.cores[-5:]) == (["inference"] * 5, [4] * 5)

    _run(tmp_path, work, plan=_WIDE)


def test_requests_that_come_together_have_one_core_each(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = [asyncio.ensure_future(bench.scheduler.answer(_rows(value))) for value in (1, 2)]
        await _begun(bench, 2)
        assert (sorted(bench.model.threads), bench.model.cores) == (["inference", "inference-1"], [1, 1])
        bench.model.gate.set()
        assert [_values(each) for each in await asyncio.gather(*tasks)] == [[2], [4]]
        # Each was a run: what waits is shared among those that have nothing to do.
        assert bench.model.batches == [1, 1]

    _run(tmp_path, work, plan=_WIDE)


def test_requests_of_one_turn_of_the_loop_keep_all_threads_busy(tmp_path: Path) -> None:
    """The second one wakes up whom the first one did: the thread that leads has to hear of it all the same."""

    async def work(bench: Bench) -> None:
        tasks = [asyncio.ensure_future(bench.scheduler.answer(_rows(value))) for value in (1, 2)]
        await asyncio.wait_for(_begun(bench, 2), 5)
        assert sorted(bench.model.threads) == ["inference", "inference-1"]
        bench.model.gate.set()
        assert [_values(each) for each in await asyncio.gather(*tasks)] == [[2], [4]]

    _run(tmp_path, work, plan=Plan(instances=2, threads=1))


def test_what_could_never_wait_is_refused_for_good(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        with pytest.raises(Refusal, match="The inputs have 36 bytes, and at most 24 may wait at a time") as refused:
            await bench.scheduler.answer(_rows(1, 2, 3))
        assert (refused.value.status, refused.value.retry_after) == (413, None)

    _run(tmp_path, work, limits=QueueLimits(requests=8, size=24))


def test_what_waits_for_a_core_gets_one_and_no_more(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        tasks = [asyncio.ensure_future(bench.scheduler.answer(_rows(value))) for value in (1, 2)]
        await _begun(bench, 2)
        tasks += [asyncio.ensure_future(bench.scheduler.answer(_rows(value))) for value in (3, 4, 5)]
        await asyncio.sleep(0.02)
        assert len(bench.model.threads) == 2
        bench.model.gate.set()
        assert [_values(each) for each in await asyncio.gather(*tasks)] == [[2], [4], [6], [8], [10]]
        assert set(bench.model.cores) == {1}

    _run(tmp_path, work, plan=_WIDE)


@pytest.mark.parametrize("inline_rows", [0, 4])
def test_a_delay_lets_others_join(tmp_path: Path, inline_rows: int) -> None:
    async def work(bench: Bench) -> None:
        bench.model.gate.set()
        first = asyncio.ensure_future(bench.scheduler.answer(_rows(1)))
        await asyncio.sleep(0.02)
        await asyncio.gather(first, bench.scheduler.answer(_rows(2)))
        assert bench.model.batches == [2]
        # A full batch does not wait.
        started = time.monotonic()
        await asyncio.gather(*(bench.scheduler.answer(_rows(value)) for value in range(4)))
        assert time.monotonic() - started < 1

    plan = Plan(instances=1, threads=1, inline_rows=inline_rows)
    _run(tmp_path, work, batching=Batching(max_size=4, max_delay_ms=2000 if not inline_rows else 300), plan=plan)


@pytest.mark.parametrize(
    ("limits", "waiting"), [(QueueLimits(requests=2, size=10**6), 2), (QueueLimits(requests=99, size=24), 2)]
)
def test_a_full_queue_refuses_at_once(tmp_path: Path, limits: QueueLimits, waiting: int) -> None:
    async def work(bench: Bench) -> None:
        tasks = await bench.queued(*(_rows(value) for value in range(waiting)))
        with pytest.raises(Refusal, match=r"The queue is full: 2 requests of 24 bytes.*TORCHYARD_QUEUE") as refused:
            await bench.scheduler.answer(_rows(9))
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
        assert bench.scheduler.statistics.rejected == 1
        bench.model.gate.set()
        await asyncio.gather(*tasks)
        assert _values(await bench.scheduler.answer(_rows(9))) == [18]

    _run(tmp_path, work, limits=limits)


def test_a_request_whose_client_went_away_is_not_run(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        first, gone, kept = await bench.queued(_rows(2), _rows(3))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert bench.scheduler.statistics.queued == 1
        bench.model.gate.set()
        assert [_values(each) for each in await asyncio.gather(first, kept)] == [[2], [6]]
        assert bench.model.batches == [1, 1]
        assert (bench.scheduler.statistics.cancelled, bench.scheduler.statistics.fail.count) == (1, 0)

    _run(tmp_path, work)


def test_a_client_that_leaves_when_it_has_been_answered_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(bench: Bench) -> None:
        (task,) = await bench.queued()
        delivered = bench.scheduler._deliver

        def deliver(runs: list[Done]) -> None:
            delivered(runs)
            task.cancel()

        monkeypatch.setattr(bench.scheduler, "_deliver", deliver)
        bench.model.gate.set()
        await asyncio.wait([task])
        statistics = bench.scheduler.statistics
        assert (task.cancelled(), statistics.success.count, statistics.cancelled) == (True, 1, 0)

    _run(tmp_path, work)


def test_what_comes_to_a_server_that_ends_before_it_was_ready_is_a_503() -> None:
    def prepared() -> Prepared:
        raise AssertionError

    async def ask() -> None:
        with pytest.raises(Refusal, match="its model never was ready") as refused:
            await Scheduler(prepared, _LIMITS).answer(_rows(1))
        assert refused.value.status == 503

    asyncio.run(ask())


def test_a_request_past_its_deadline_is_a_504_and_not_run(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        (first,) = await bench.queued()
        for deadline in (time.monotonic() - 1, time.monotonic() + 0.02):
            with pytest.raises(Refusal, match="deadline passed") as refused:
                await bench.scheduler.answer(_rows(2), deadline=deadline)
            assert refused.value.status == 504
        bench.model.gate.set()
        assert _values(await bench.scheduler.answer(_rows(3), deadline=time.monotonic() + 10)) == [6]
        await first
        assert bench.model.batches == [1, 1]
        assert (bench.scheduler.statistics.expired, bench.scheduler.statistics.cancelled) == (2, 0)

    _run(tmp_path, work)


def test_what_ends_while_the_model_runs_it_is_counted_once(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        statistics = bench.scheduler.statistics
        expiring = asyncio.ensure_future(bench.scheduler.answer(_rows(1), deadline=time.monotonic() + 0.02))
        await asyncio.to_thread(bench.model.started.wait, 10)
        with pytest.raises(Refusal, match="deadline passed"):
            await expiring
        well, unlucky = (asyncio.ensure_future(bench.scheduler.answer(_rows(value))) for value in (2, 13))
        while len(bench.model.threads) < 2:
            bench.model.gate.set()
            await asyncio.sleep(0.001)
        with pytest.raises(ModelFailed):
            await unlucky
        assert _values(await well) == [4]
        # One expired and one failed; the other one of the batch did well.
        assert (statistics.fail.count, statistics.expired) == (2, 1)
        assert [each.count for each in (statistics.success, statistics.queue, statistics.compute_infer)] == [1, 1, 1]
        bench.model.gate.clear()
        bench.model.started.clear()
        leaving = asyncio.ensure_future(bench.scheduler.answer(_rows(3)))
        await asyncio.to_thread(bench.model.started.wait, 10)
        leaving.cancel()
        await asyncio.wait([leaving])
        bench.model.gate.set()
        assert _values(await bench.scheduler.answer(_rows(4))) == [8]
        assert (statistics.success.count, statistics.fail.count, statistics.cancelled) == (2, 2, 1)
        # The batch that failed was tried again one by one.
        assert statistics.executions == len(bench.model.threads) - 1

    _run(tmp_path, work)


def test_threads_give_back_memory_when_they_have_nothing_to_do(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        engine = bench.scheduler.prepared.result().ready.engine
        assert isinstance(engine, FakeEngine)
        first = asyncio.ensure_future(bench.scheduler.answer(_rows(1)))
        await _begun(bench, 1)
        busy = {bench.model.threads[0]}
        # One is busy: that it may take long does not hold up the others.
        await bench.scheduler.trim()
        assert set(engine.trimmed) == {"MainThread", "inference", "inference-1"} - busy
        bench.model.gate.set()
        await first
        while len(engine.trimmed) < 3:
            await asyncio.sleep(0.001)
        assert set(engine.trimmed) == {"MainThread", "inference", "inference-1"}
        for value in (2, 3):
            await bench.scheduler.answer(_rows(value))
        assert len(engine.trimmed) == 3
        await bench.scheduler.trim()
        assert sorted(engine.trimmed[3:]) == ["MainThread", "inference", "inference-1"]

    _run(tmp_path, work, plan=Plan(instances=2, threads=1))


def test_a_run_that_does_not_end_is_seen_and_stop_does_not_wait_for_it(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        assert bench.scheduler.busy_seconds() == 0
        (first,) = await bench.queued()
        await asyncio.sleep(0.05)
        assert bench.scheduler.busy_seconds() >= 0.05
        assert not await asyncio.to_thread(bench.scheduler.stop, 0.05)
        bench.model.gate.set()
        await first

    _run(tmp_path, work)


def test_why_the_model_did_not_get_ready_is_told() -> None:
    def broken() -> Prepared:
        raise LoadFailed("no archive")

    scheduler = Scheduler(broken, _LIMITS)
    scheduler.start()
    with pytest.raises(LoadFailed, match="no archive"):
        scheduler.prepared.result(timeout=5)
    assert scheduler.busy_seconds() == 0


def test_a_thread_that_cannot_warm_up_ends_the_start(tmp_path: Path) -> None:
    class Clumsy(FakeEngine):
        def set_threads(self, count: int, /) -> None:
            if threading.current_thread().name == "inference-1":
                raise LoadFailed("no thread")
            super().set_threads(count)

    described, engine = contract.read(models.write(tmp_path)), Clumsy()

    def prepared() -> Prepared:
        ready: Ready = prepare(described, tmp_path, lambda: engine, threads=1)
        return Prepared(ready=ready, plan=Plan(instances=2, threads=1))

    scheduler = Scheduler(prepared, _LIMITS)
    scheduler.start()
    with pytest.raises(LoadFailed, match="no thread"):
        scheduler.prepared.result(timeout=5)


def test_the_others_warm_up_while_the_first_thread_completes_the_plan(tmp_path: Path) -> None:
    together, came = threading.Barrier(2), list[int]()

    class Meeting(FakeModel):
        """Each thread waits in its first run for the other."""

        def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
            if (me := threading.get_ident()) not in came:
                came.append(me)
                together.wait(5)
            return super().forward(inputs)

    described = replace(contract.read(models.write(tmp_path)), batching=_BATCHING)

    def prepared() -> Prepared:
        ready = prepare(described, tmp_path, FakeEngine, threads=1)
        served = replace(ready.served, model=Meeting(archive="double"))
        return Prepared(ready=replace(ready, served=served), plan=Plan(instances=2, threads=1, fused=True))

    scheduler = Scheduler(prepared, _LIMITS)
    scheduler.start()
    assert scheduler.prepared.result(timeout=10).plan.instances == 2
    assert scheduler.stop(10)
