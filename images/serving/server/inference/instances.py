"""The threads that run the model, each with OpenMP's threads of its own, and the queue between them and the loop."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from server.inference.planning import Prepared
from server.inference.running import Done, run
from server.inference.statistics import Statistics
from server.inference.waiting import Job, Waiting


class Instances:
    """Takes jobs from the event loop and hands back runs. A batch is what has queued up while the last one ran.

    With a plan that has `wide` runs, the thread that leads gives all cores to a request that is alone: it came while
    nothing ran or waited, and nothing else does when its run begins. While that lasts, others wait for it.
    """

    def __init__(self, prepared: Prepared, statistics: Statistics, deliver: Callable[[list[Done]], None]) -> None:
        """`deliver` is called in the threads, once a batch."""
        self._served = prepared.ready.served
        self._engine = prepared.ready.engine
        self._plan = prepared.plan
        self._statistics = statistics
        self._deliver = deliver
        batching = self._served.contract.batching
        self._delay_ns = int(batching.max_delay_ms * 1e6)
        self._waiting = Waiting(most_rows=batching.max_size, least_rows=self._plan.least_rows)
        self._lock = threading.Lock()
        self._leader, self._others = (_Idle(threading.Condition(self._lock)) for _ in range(2))
        self._running = 0
        self._wide = False
        self._stopping = False
        self._since: dict[int, float] = {}
        self._on_trimmed: Callable[[], None] | None = None
        self._trimmed = set[int]()

    @property
    def waiting(self) -> tuple[int, int]:
        """How many jobs wait, and the bytes of their inputs."""
        return self._waiting.count, self._waiting.size

    def put(self, job: Job) -> None:
        """Queues a job."""
        with self._lock:
            job.alone = not self._running and not self._waiting.count
            self._waiting.put(job)
            self._statistics.queued = self._waiting.count
            self._wake()

    def discard(self, job: Job) -> bool:
        """Takes a job out of the queue, if it is still there: whether nothing has been done for it."""
        with self._lock:
            found = self._waiting.discard(job)
            self._statistics.queued = self._waiting.count
            return found

    def serve(self, *, leads: bool) -> None:
        """Runs what is queued, in the calling thread, until `stop` is called and nothing waits. One thread leads."""
        me, threads = threading.get_ident(), 0
        while jobs := self._next(self._leader if leads else self._others):
            wanted = self._plan.wide if self._wide else self._plan.threads
            if threads != wanted:
                threads = wanted
                self._engine.set_threads(threads)
            self._since[me] = time.monotonic()
            done = run(self._served, jobs)
            del self._since[me]
            self._ended()
            self._deliver(done)

    def trim(self, on_trimmed: Callable[[], None]) -> None:
        """Has each thread give back what memory it can, which no other thread can do for it, when it next has nothing
        to do; `on_trimmed` is called in each then."""
        with self._lock:
            self._on_trimmed = on_trimmed
            self._trimmed.clear()
            for each in (self._leader, self._others):
                each.changed.notify_all()

    def stop(self) -> None:
        """Lets the threads end when they have done what was queued."""
        with self._lock:
            self._stopping = True
            for each in (self._leader, self._others):
                each.changed.notify_all()

    def busy_seconds(self) -> float:
        """How long the longest of the runs that are under way has taken so far."""
        now = time.monotonic()
        return max((now - since for since in list(self._since.values())), default=0.0)

    def _next(self, idle: "_Idle") -> Sequence[Job]:
        """The next jobs to run together, when there are some; none once it is stopped."""
        with self._lock:
            while True:
                if self._waiting.count and not self._wide and (idle is self._leader or not self._alone()):
                    if self._delayed(idle):
                        continue
                    wide = self._alone()
                    jobs = self._waiting.take(among=1 + self._others.count + self._leader.count)
                    self._statistics.queued = self._waiting.count
                    if jobs:
                        self._running += 1
                        self._wide = wide
                        # What was left for others may have woken up nobody but this thread, once more.
                        if self._waiting.count:
                            self._wake()
                        return jobs
                elif self._stopping and not self._waiting.count:
                    return ()
                elif self._on_trimmed and threading.get_ident() not in self._trimmed:
                    self._trim(self._on_trimmed)
                else:
                    idle.wait()

    def _trim(self, on_trimmed: Callable[[], None]) -> None:
        self._trimmed.add(threading.get_ident())
        # The event loop does not wait for it.
        self._lock.release()
        try:
            self._engine.trim()
            on_trimmed()
        finally:
            self._lock.acquire()

    def _ended(self) -> None:
        """A run has ended. Whoever had to wait for a wide one is woken up."""
        with self._lock:
            self._running -= 1
            if self._wide:
                self._wide = False
                self._others.changed.notify(self._waiting.count)

    def _alone(self) -> bool:
        """Whether a request waits that may have all cores."""
        return bool(self._plan.wide) and not self._running and self._waiting.is_alone()

    def _wake(self) -> None:
        """Wakes up a thread that may take what was queued; there may be none."""
        if self._others.count and not self._wide and not self._alone():
            self._others.changed.notify()
        else:
            self._leader.changed.notify()

    def _delayed(self, idle: "_Idle") -> bool:
        """Waits for others to join the next job, where the contract says so; whether to look again."""
        arrived, full = self._waiting.oldest()
        left = arrived + self._delay_ns - time.monotonic_ns()
        if full or left <= 0 or self._stopping:
            return False
        idle.wait(left / 1e9)
        return True


class _Idle:
    """Threads that have nothing to do, and how many they are."""

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.count = 0

    def wait(self, seconds: float | None = None) -> None:
        self.count += 1
        self.changed.wait(seconds)
        self.count -= 1


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
