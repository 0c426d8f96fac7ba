"""The threads that run the model, each with OpenMP's threads of its own, and the queue between them and the loop."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from server.running import Done, run
from server.served import ServedModel
from server.statistics import Statistics
from server.waiting import Job, Waiting


class Instances:
    """Takes jobs from the event loop and hands back runs. A batch is what has queued up while the last one ran."""

    def __init__(
        self,
        served: ServedModel,
        statistics: Statistics,
        deliver: Callable[[list[Done]], None],
        *,
        least_rows: int = 1,
    ) -> None:
        """`deliver` is called in the threads, once a batch; fewer than `least_rows` are no batch."""
        batching = served.contract.batching
        self._served = served
        self._statistics = statistics
        self._deliver = deliver
        self._delay_ns = int(batching.max_delay_ms * 1e6)
        self._waiting = Waiting(most_rows=batching.max_size, least_rows=least_rows)
        self._changed = threading.Condition(threading.Lock())
        self._idle = 0
        self._stopping = False
        self._since: dict[int, float] = {}

    @property
    def waiting(self) -> tuple[int, int]:
        """How many jobs wait, and the bytes of their inputs."""
        return self._waiting.count, self._waiting.size

    def put(self, job: Job) -> None:
        """Queues a job."""
        with self._changed:
            self._waiting.put(job)
            self._statistics.queued = self._waiting.count
            if self._idle:
                self._changed.notify()

    def discard(self, job: Job) -> bool:
        """Takes a job out of the queue, if it is still there: whether nothing has been done for it."""
        with self._changed:
            found = self._waiting.discard(job)
            self._statistics.queued = self._waiting.count
            return found

    def serve(self) -> None:
        """Runs what is queued, in the calling thread, until `stop` is called and nothing waits."""
        me = threading.get_ident()
        while jobs := self._next():
            self._since[me] = time.monotonic()
            done = run(self._served, jobs)
            del self._since[me]
            self._deliver(done)

    def stop(self) -> None:
        """Lets the threads end when they have done what was queued."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def busy_seconds(self) -> float:
        """How long the longest of the runs that are under way has taken so far."""
        now = time.monotonic()
        return max((now - since for since in list(self._since.values())), default=0.0)

    def _next(self) -> Sequence[Job]:
        """The next jobs to run together, when there are some; none once it is stopped."""
        with self._changed:
            while True:
                if self._waiting.count and not self._delayed():
                    jobs = self._waiting.take()
                    self._statistics.queued = self._waiting.count
                    if jobs:
                        return jobs
                elif self._stopping:
                    return ()
                elif not self._waiting.count:
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1

    def _delayed(self) -> bool:
        """Waits for others to join the next job, where the contract says so; whether to look again."""
        arrived, full = self._waiting.oldest()
        left = arrived + self._delay_ns - time.monotonic_ns()
        if full or left <= 0 or self._stopping:
            return False
        self._idle += 1
        self._changed.wait(left / 1e9)
        self._idle -= 1
        return True


def warmed(warm: Callable[[], None], serve: Callable[[], None], *, name: str) -> "Future[None]":
    """Starts a thread that warms up and then serves; tells when it has warmed up, or why it could not."""
    told: Future[None] = Future()

    def work() -> None:
        try:
            warm()
        except BaseException as error:  # noqa: BLE001 (whoever waits reports it and ends the process)
            told.set_exception(error)
            return
        told.set_result(None)
        serve()

    threading.Thread(target=work, name=name, daemon=True).start()
    return told
