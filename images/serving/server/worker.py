"""The thread that loads the model and computes; the event loop only waits for it."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeAlias

from server.answers import Answer, ModelFailed
from server.engine import Input
from server.loading import Ready
from server.refusal import Refusal
from server.statistics import Statistics

_Pending: TypeAlias = "asyncio.Future[Sequence[Answer]]"


class Worker:
    """One thread for everything that runs the model: OpenMP's threads and torch's warm-up belong to the thread."""

    def __init__(self, prepare: Callable[[], Ready]) -> None:
        """`prepare` is run in the thread and makes the model ready."""
        self._prepare = prepare
        self._jobs: SimpleQueue[tuple[Sequence[Input], _Pending] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self.prepared: Future[Ready] = Future()
        self.statistics = Statistics()

    def start(self) -> None:
        """Starts to prepare; `prepared` tells when that is done, or why it failed."""
        self._thread.start()

    async def answer(self, inputs: Sequence[Input], *, deadline: float | None = None) -> Sequence[Answer]:
        """Runs the model when the requests before this one are done; raises ModelFailed, or Refusal at the deadline."""
        arrived = time.monotonic_ns()
        pending: _Pending = asyncio.get_running_loop().create_future()
        self._jobs.put((inputs, pending))
        try:
            async with asyncio.timeout_at(deadline):
                answers = await pending
        except TimeoutError as error:
            self.statistics.expired += 1
            self.statistics.fail.add(time.monotonic_ns() - arrived)
            raise Refusal(504, "The request's deadline passed before the model ran.") from error
        except ModelFailed:
            self.statistics.fail.add(time.monotonic_ns() - arrived)
            raise
        self.statistics.success.add(time.monotonic_ns() - arrived)
        return answers

    def stop(self) -> None:
        """Ends the thread when it has done what it was given."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            ready = self._prepare()
        except BaseException as error:  # noqa: BLE001 (the main thread reports it and ends the process)
            self.prepared.set_exception(error)
            return
        self.prepared.set_result(ready)
        while (job := self._jobs.get()) is not None:
            inputs, pending = job
            try:
                answers = ready.served.answer(inputs)
            except Exception as error:  # noqa: BLE001 (it is this request's; the next one may be fine)
                pending.get_loop().call_soon_threadsafe(_fail, pending, error)
            else:
                pending.get_loop().call_soon_threadsafe(_succeed, pending, answers)


def _succeed(pending: _Pending, answers: Sequence[Answer]) -> None:
    if not pending.cancelled():
        pending.set_result(answers)


def _fail(pending: _Pending, error: Exception) -> None:
    if not pending.cancelled():
        pending.set_exception(error)
