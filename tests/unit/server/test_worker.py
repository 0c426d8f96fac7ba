"""The thread that computes: in order, off the event loop, and alive after a failure."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from server import contract
from server.answers import ModelFailed
from server.errors import LoadFailed
from server.loading import Ready, prepare
from server.refusal import Refusal
from server.worker import Worker
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine

_INPUT = ("FP32", (1, 3), models.X.tobytes())


def _worker(folder: Path) -> Worker:
    models.write(folder)

    def ready() -> Ready:
        assert threading.current_thread().name == "inference"
        return prepare(contract.read(folder), folder, FakeEngine(), threads=1)

    worker = Worker(ready)
    worker.start()
    return worker


def test_answers_come_from_the_thread_in_order(tmp_path: Path) -> None:
    worker = _worker(tmp_path)

    async def many() -> list[bytes]:
        inputs = [("FP32", (1, 3), bytes([0, 0, 0, number]) * 3) for number in range(0, 60, 4)]
        answers = await asyncio.gather(*(worker.answer([each]) for each in inputs))
        return [bytes(answer.content) for (answer,) in answers]

    assert len(set(asyncio.run(many()))) == 15
    worker.stop()


def test_a_failed_request_costs_only_itself(tmp_path: Path) -> None:
    worker = _worker(tmp_path)

    async def two() -> bytes:
        with pytest.raises(ModelFailed, match="expected 1 argument, got 0"):
            await worker.answer([])
        (answer,) = await worker.answer([_INPUT])
        return bytes(answer.content)

    assert asyncio.run(two()) == (2 * models.X).tobytes()
    worker.stop()


def test_a_client_that_stops_waiting_does_not_stop_the_thread(tmp_path: Path) -> None:
    worker = _worker(tmp_path)

    async def impatient() -> None:
        waiting = asyncio.ensure_future(worker.answer([_INPUT]))
        await asyncio.sleep(0)
        waiting.cancel()
        await worker.answer([_INPUT])

    asyncio.run(impatient())
    worker.stop()


def test_a_request_past_its_deadline_is_a_504(tmp_path: Path) -> None:
    worker = _worker(tmp_path)

    async def late() -> Refusal:
        with pytest.raises(Refusal, match="deadline passed") as refused:
            await worker.answer([_INPUT], deadline=time.monotonic() - 1)
        worker.stop()
        return refused.value

    assert asyncio.run(late()).status == 504
    assert (worker.statistics.expired, worker.statistics.fail.count, worker.statistics.success.count) == (1, 1, 0)


def test_stop_finishes_what_was_given(tmp_path: Path) -> None:
    worker = _worker(tmp_path)

    async def stopped() -> int:
        waiting = [asyncio.ensure_future(worker.answer([_INPUT])) for _ in range(5)]
        await asyncio.sleep(0)
        worker.stop()
        return len(await asyncio.gather(*waiting))

    assert asyncio.run(stopped()) == 5


def test_why_the_model_did_not_get_ready_is_told() -> None:
    def broken() -> Ready:
        raise LoadFailed("no archive")

    worker = Worker(broken)
    worker.start()
    with pytest.raises(LoadFailed, match="no archive"):
        worker.prepared.result(timeout=5)
