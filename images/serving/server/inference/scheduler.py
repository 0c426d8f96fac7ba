"""Decides which requests the model runs together and where, and answers whoever waits for them.

Runs that take well below a millisecond are made on the event loop's own thread: what arrived in one turn of the loop is
one batch, and nothing is handed from thread to thread. All others are made by `Instances`.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from server.inference.instances import Instances, warmed
from server.inference.parts import in_parts
from server.inference.planning import Prepared
from server.inference.running import Done, run
from server.inference.statistics import Executions, Statistics
from server.inference.waiting import Job, Shape, Shapes, retry_after
from server.model.answers import Answer
from server.model.engine import Input
from server.model.served import Run
from server.refusal import Refusal

# How much of the newest run is in the running mean of the seconds that a request takes.
_NEWEST = 0.1
# Strings may be longer than those that a run on the loop was measured with: so many times, and no more.
_LONGER = 4
# Longer than it takes, and nothing in a start.
_TRIMMING_SECONDS = 0.2
# Tells the end of a deadline from a client that went away.
_EXPIRED = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How many requests may wait for a thread, and the bytes of their inputs; what is beyond is refused at once."""

    requests: int
    size: int


class Scheduler:
    """Runs a model for everybody who awaits `answer`."""

    def __init__(self, prepare: Callable[[], Prepared], limits: QueueLimits) -> None:
        """`prepare` is run in a thread of its own, which will run the model, and makes it ready."""
        self.prepared: Future[Prepared] = Future()
        self.statistics = Statistics()
        self._prepare = prepare
        self._limits = limits
        self._ended = threading.Event()
        self._seconds_each = 0.0
        self._here: list[Job] = []
        self._here_rows = 0
        self._inline_row_size = 0.0
        self._begun = False

    def start(self) -> None:
        """Starts to prepare; `prepared` tells when that is done and all threads have warmed up, or why it failed."""
        threading.Thread(target=self._work, name="inference", daemon=True).start()

    def begin(self) -> None:
        """To be called on the event loop when the model is prepared, before the first request."""
        prepared = self.prepared.result()
        self._loop = asyncio.get_running_loop()
        self._served = prepared.ready.served
        self._shapes = Shapes(self._served.contract)
        self._most_rows = self._served.contract.batching.max_size
        self._inline_rows = prepared.plan.inline_rows
        self._delay = self._served.contract.batching.max_delay_ms / 1e3
        if self._inline_rows:
            measured = prepared.ready.samples[0].inputs
            size = sum(len(content) for _, _, content in measured)
            self._inline_row_size = _LONGER * size / max(1, measured[0][1][0])
            prepared.warm(1, batches=True)
        self._begun = True

    async def answer(self, inputs: Sequence[Input], *, deadline: float | None = None) -> Sequence[Answer]:
        """The model's answers to inputs in forward()'s order; see `server.http.app.Inference`."""
        if not self._begun:
            raise Refusal(503, "The server is stopping, and its model never was ready.")
        rows, shape = self._shapes.of(inputs)
        if rows <= self._most_rows:
            return await self._answered(self._job(inputs, rows, shape), deadline)
        began = time.monotonic_ns()
        parts: list[Job] = []

        async def run_part(cut: Sequence[Input], size: int) -> tuple[Sequence[Answer], float]:
            parts.append(self._job(cut, size, shape, part=True))
            # What was begun is not refused: that would only make its client begin again.
            answers = await self._answered(parts[-1], deadline, refusable=len(parts) == 1)
            return answers, parts[-1].seconds

        joined = await in_parts(inputs, rows, self._most_rows, run_part)
        self.statistics.answered(time.monotonic_ns() - began)
        return joined

    def _job(self, inputs: Sequence[Input], rows: int, shape: Shape, *, part: bool = False) -> Job:
        size = sum(len(content) for _, _, content in inputs)
        arrived, answers = time.monotonic_ns(), self._loop.create_future()
        return Job(inputs=inputs, rows=rows, shape=shape, size=size, arrived=arrived, answers=answers, part=part)

    async def _answered(self, job: Job, deadline: float | None, *, refusable: bool = True) -> Sequence[Answer]:
        arrived, answers = job.arrived, job.answers
        if deadline is not None and deadline * 1e9 <= arrived:
            self._expired(arrived)
        if 0 < job.rows <= self._inline_rows and job.size <= job.rows * self._inline_row_size:
            self._put_here(job)
        else:
            if refusable:
                self._refuse_when_full(job.size, arrived)
            self._instances.put(job)
        timer = None
        if deadline is not None:
            timer = self._loop.call_later(deadline - arrived / 1e9, answers.cancel, _EXPIRED)
        try:
            return await answers
        except asyncio.CancelledError as error:
            self._instances.discard(job)
            if error.args == (_EXPIRED,):
                self._expired(arrived)
            # One that is answered already has been counted so.
            self.statistics.cancelled += answers.cancelled()
            raise
        finally:
            if timer:
                timer.cancel()

    async def trim(self) -> None:
        """Gives memory that was freed back to the system; a thread that is busy for long does it later."""
        self.prepared.result().ready.engine.trim()
        trimmed = asyncio.Semaphore(0)

        def on_trimmed() -> None:
            self._loop.call_soon_threadsafe(trimmed.release)

        self._instances.trim(on_trimmed)
        with suppress(TimeoutError):
            async with asyncio.timeout(_TRIMMING_SECONDS):
                for _ in range(self.prepared.result().plan.instances):
                    await trimmed.acquire()

    def busy_seconds(self) -> float:
        """How long the longest run of a thread that is under way has taken so far."""
        prepared = self.prepared.done() and not self.prepared.exception()
        return self._instances.busy_seconds() if prepared else 0.0

    def stop(self, seconds: float) -> bool:
        """Ends the threads when they have done what was queued; whether they did within `seconds`."""
        self._instances.stop()
        return self._ended.wait(seconds)

    def _work(self) -> None:
        try:
            prepared = self._prepare()
            plan, led = prepared.plan, Future[Instances]()
            warm, serve = partial(prepared.warm, plan.threads), lambda: led.result().serve(leads=False)
            others = [warmed(warm, serve, name=f"inference-{number}") for number in range(1, plan.instances)]
            prepared = prepared.lead()
            for other in others:
                other.result()
            self._instances = Instances(prepared, self.statistics, self._hand_over)
            led.set_result(self._instances)
        except BaseException as error:  # noqa: BLE001 (the main thread reports it and ends the process)
            self.prepared.set_exception(error)
            return
        self.prepared.set_result(prepared)
        self._instances.serve(leads=True)
        self._ended.set()

    def _put_here(self, job: Job) -> None:
        if self._here_rows + job.rows > self._inline_rows:
            self._run_here()
        if not self._here:
            if self._delay:
                self._loop.call_later(self._delay, self._run_here)
            else:
                self._loop.call_soon(self._run_here)
        self._here.append(job)
        self._here_rows += job.rows

    def _run_here(self) -> None:
        jobs = [job for job in self._here if not job.answers.done()]
        self._here.clear()
        self._here_rows = 0
        if jobs:
            self._deliver(run(self._served, jobs))

    def _hand_over(self, done: list[Done]) -> None:
        """Called in the threads; one wake-up of the loop is enough for all answers of a batch."""
        self._loop.call_soon_threadsafe(self._deliver, done)

    def _deliver(self, runs: list[Done]) -> None:
        now = time.monotonic_ns()
        for done in runs:
            self._count(done, now)
            if isinstance(done.outcome, Run):
                for job, answers in zip(done.jobs, done.outcome.answers, strict=True):
                    if not job.answers.done():
                        job.answers.set_result(answers)
            elif not done.jobs[0].answers.done():
                done.jobs[0].answers.set_exception(done.outcome)

    def _count(self, done: Done, now: int) -> None:
        statistics, seconds = self.statistics, (done.ended - done.started) / 1e9
        for job in done.jobs:
            job.seconds = seconds
        self._seconds_each += _NEWEST * (seconds / len(done.jobs) - self._seconds_each)
        statistics.executions += 1
        # Those whose deadline passed meanwhile, or whose clients left, have been counted as such.
        awaited = [job for job in done.jobs if not job.answers.done()]
        # A request that is run in parts is one when its last part is done.
        whole, jobs = [job for job in awaited if not job.part], len(awaited)
        if not isinstance(done.outcome, Run):
            statistics.fail.add(sum(now - job.arrived for job in awaited), jobs)
            return
        ran, rows = done.outcome, sum(job.rows or 1 for job in done.jobs)
        statistics.success.add(sum(now - job.arrived for job in whole), len(whole))
        statistics.queue.add(sum(done.started - job.arrived for job in awaited), len(whole))
        statistics.compute_input.add(ran.input_ns * jobs, len(whole))
        statistics.compute_infer.add(ran.infer_ns * jobs, len(whole))
        statistics.compute_output.add(ran.output_ns * jobs, len(whole))
        statistics.inferences += rows
        statistics.last_inference_ms = time.time_ns() // 1_000_000
        batch = statistics.batches.setdefault(rows, Executions())
        batch.compute_input.add(ran.input_ns)
        batch.compute_infer.add(ran.infer_ns)
        batch.compute_output.add(ran.output_ns)

    def _refuse_when_full(self, size: int, arrived: int) -> None:
        count, waiting = self._instances.waiting
        if size > self._limits.size:
            raise Refusal(413, f"The inputs have {size} bytes, and at most {self._limits.size} may wait at a time.")
        if count < self._limits.requests and waiting + size <= self._limits.size:
            return
        self.statistics.rejected += 1
        self.statistics.fail.add(time.monotonic_ns() - arrived)
        seconds = retry_after(count, self._seconds_each)
        raise Refusal(
            503,
            f"The queue is full: {count} requests of {waiting} bytes are waiting. Ask again in {seconds} s "
            "(TORCHYARD_QUEUE and TORCHYARD_QUEUE_MIB are the limits).",
            retry_after=seconds,
        )

    def _expired(self, arrived: int) -> NoReturn:
        self.statistics.expire(arrived)
        raise Refusal(504, "The request's deadline passed before the model answered.")
