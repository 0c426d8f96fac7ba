"""The requests that wait for the model, and which of them are run together."""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from server.model.answers import Answer
from server.model.contract import Contract
from server.model.engine import Input

# What has to be equal for two requests to be run together: every dimension but the first.
Shape: TypeAlias = tuple[tuple[int, ...], ...] | None


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """A request that waits: its rows, or 0 where it cannot be run with others, its bytes, when it came (in monotonic
    nanoseconds), and where its answers are awaited. A `part` is one of a request that is larger than a batch,
    `alone` is one that came while nothing ran or waited, and `seconds` is how long the run took that answered it."""

    inputs: Sequence[Input]
    rows: int
    shape: Shape
    size: int
    arrived: int
    answers: "asyncio.Future[Sequence[Answer]]"
    part: bool = False
    alone: bool = False
    seconds: float = 0.0


class Shapes:
    """What a contract says about which requests fit together."""

    def __init__(self, contract: Contract) -> None:
        self._fixed = all(size >= 0 for tensor in contract.inputs for size in tensor.shape[1:])
        self._apart = contract.batching.in_any_company

    def of(self, inputs: Sequence[Input]) -> tuple[int, Shape]:
        """The rows of a request, or 0 where it has to be run alone, and the shape that it shares with others."""
        if not self._apart:
            return 0, None
        rows = inputs[0][1][0]
        if len(inputs) > 1 and any(shape[0] != rows for _, shape, _ in inputs):
            return 0, None
        # A request without rows proves nothing about how it would be split.
        return rows, None if self._fixed else tuple(tuple(shape[1:]) for _, shape, _ in inputs)


class Waiting:
    """Jobs by shape, oldest first. Not safe for several threads at once."""

    def __init__(self, *, most_rows: int, least_rows: int = 1) -> None:
        """At most `most_rows` are run together; a job of more is run alone. Where fewer than `least_rows` wait, they
        are run one after the other."""
        self._most_rows = most_rows
        self._least_rows = least_rows
        self._queues: dict[Shape | int, deque[Job]] = {}
        self._alone = 0
        self.count = 0
        self.size = 0

    def put(self, job: Job) -> None:
        """Adds a job."""
        key: Shape | int = job.shape
        if job.rows == 0 or job.rows > self._most_rows:
            self._alone += 1
            key = self._alone
        self._queues.setdefault(key, deque()).append(job)
        self.count += 1
        self.size += job.size

    def oldest(self) -> tuple[int, bool]:
        """When the job that is next arrived, and whether no other could join its run; there must be one."""
        key = self._next()
        queue = self._queues[key]
        return queue[0].arrived, isinstance(key, int) or sum(job.rows for job in queue) >= self._most_rows

    def is_alone(self) -> bool:
        """Whether one job waits, and nothing ran or waited when it came."""
        return self.count == 1 and next(iter(self._queues.values()))[0].alone

    def take(self, *, among: int = 1) -> list[Job]:
        """The jobs of the next run, without those that nobody waits for any more; it may be empty. `among` so many
        threads that have nothing to do, the rows of one shape are shared."""
        taken: list[Job] = []
        rows = 0
        while self._queues and not taken:
            key = self._next()
            queue = self._queues[key]
            most = self._most_rows
            if among > 1 or self._least_rows > 1:
                most = min(most, math.ceil(sum(job.rows for job in queue) / among))
            few = most < self._least_rows
            while queue and (not taken or (not few and rows + queue[0].rows <= most)):
                job = queue.popleft()
                self.count -= 1
                self.size -= job.size
                if not job.answers.done():
                    taken.append(job)
                    rows += job.rows
            if not queue:
                del self._queues[key]
        return taken

    def discard(self, job: Job) -> bool:
        """Takes a job out that nobody waits for any more; whether it was still there."""
        for key, queue in self._queues.items():
            if job in queue:
                queue.remove(job)
                self.count -= 1
                self.size -= job.size
                if not queue:
                    del self._queues[key]
                return True
        return False

    def _next(self) -> Shape | int:
        if len(self._queues) == 1:
            return next(iter(self._queues))
        return min(self._queues, key=lambda key: self._queues[key][0].arrived)


def retry_after(waiting: int, seconds_each: float) -> int:
    """In how many whole seconds a queue will probably have room again."""
    return min(60, max(1, math.ceil(waiting * seconds_each)))
