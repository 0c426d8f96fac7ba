"""How many threads run the model, and with how many of its own each: decided by a short measurement at start."""

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from server.inference.fusing import fuse, may_gain
from server.model.engine import Input
from server.model.loading import Ready
from server.model.replaying import by_shape

# Handing a batch to a thread and back takes about so long. One that takes no longer than the next may be run on the
# event loop: everybody else who wants the loop waits for that.
_HAND_OVER_SECONDS = 1e-4
INLINE_SECONDS = 5e-4
# Fused operators, or all cores for one run, have to end it so much earlier to be worth what they take.
_WORTH = 1.1
# What is measured is run for about so long and at least so often, and only once where a run takes very long.
_SECONDS = 0.05
_FEWEST = 2
_LONGEST_SECONDS = 1.0
_TIMED = 5
# Whatever else the machine does makes runs slower and never faster: what would be turned down is measured again first,
# so often and for about so long at most. A bad moment had decided 4 of some 25 starts on a shared machine before.
_CHANCES = 3
_CHANCES_SECONDS = 0.3
# Batches that would take longer are not measured, other than the smallest.
_BATCH_SECONDS = 0.1
# Shapes and batches, the small ones first, are run once before the model is ready, as long as that takes no longer in a
# thread.
_WARMING_SECONDS = 0.3
_SMALL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`instances` threads run the model, each with `threads` for one operator, or `wide` for a request that is alone; 0
    where that gets no more than others.

    Batches of at most `inline_rows` rows are run on the event loop's own thread instead; 0 where it runs none. Where
    operators are `fused` for single requests, fewer than `least_rows` rows are no batch but run one after the other.
    `run_seconds` is what a request took when as many ran as may; 0 where nothing depends on it.
    """

    instances: int
    threads: int
    wide: int = 0
    inline_rows: int = 0
    fused: bool = False
    least_rows: int = 1
    run_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that gives the right answers, and how it is going to be run."""

    ready: Ready
    plan: Plan

    def warm(self, threads: int, *, batches: bool = False) -> None:
        """Makes the calling thread one that runs the model, with `threads` for one operator: runs each shape, and where
        the thread has batches of its own also these."""
        self.ready.engine.set_threads(threads)
        samples = self.ready.samples
        shapes = [[samples[first].inputs] for first, *_ in by_shape(samples).values()]
        self._run([*shapes, *(_batches_of(self.plan, self.ready) if batches else ())])

    def lead(self) -> "Prepared":
        """Makes the calling thread the one that leads, and the plan complete.

        `least_rows` is found out while the others warm up, so that all cores are busy as they are under load. Batches
        are run here for all threads: the executor makes something ready for each size. To be called in the thread that
        prepared the model, which has run the samples already, until the executor had specialised for their shapes.
        """
        self.ready.engine.set_threads(self.plan.threads)
        plan = self.plan
        if plan.fused:
            plan = replace(plan, least_rows=_least_rows(self.ready, plan.run_seconds))
        self._run(_batches_of(plan, self.ready))
        return replace(self, plan=plan)

    def _run(self, batches: Iterable[Sequence[Sequence[Input]]]) -> None:
        until = time.perf_counter() + _WARMING_SECONDS
        for batch in batches:
            if time.perf_counter() < until:
                self.ready.served.answer_together(batch)


def choose(ready: Ready, *, cores: int, instances: int | None, threads: int | None, fusion: bool = True) -> Plan:
    """The plan for `cores`; `instances` and `threads` are taken as given where they are, and operators are fused only
    with `fusion`. To be called in the thread that will serve, whose number of threads it changes."""
    inline = _inline_rows(ready)
    open_to_choice = not (instances or threads or inline) and cores > 1
    instances = instances or (1 if inline else max(1, cores // (threads or cores)))
    plan = Plan(instances=instances, threads=threads or max(1, cores // instances), inline_rows=inline)
    if inline:
        return plan
    ready.engine.set_threads(plan.threads)
    seconds = _fastest(ready)
    tried = (plan.threads, 1) if open_to_choice else (plan.threads,)
    if fusion and (faster := fused(ready, plain=seconds, threads=tried)):
        plan, seconds = replace(plan, fused=True), faster
    if open_to_choice and seconds < _LONGEST_SECONDS:
        plan, seconds = _spread(plan, seconds, ready)
    ready.engine.set_threads(plan.threads)
    return replace(plan, run_seconds=round(seconds, 6))


def fused(ready: Ready, *, threads: Sequence[int], plain: float | None = None) -> float | None:
    """Fuses operators for the first of `threads`, where that is worth it and right by all of them: the seconds of a run
    then. `plain` are those without, where they are known. Leaves the calling thread with the first of `threads`."""
    ready.engine.set_threads(threads[0])
    plain = plain or _fastest(ready)
    if not may_gain(ready, plain) or not fuse(ready, threads=threads):
        return None
    ready.engine.set_threads(threads[0])
    seconds = _least(lambda: _fastest(ready), below=plain / _WORTH)
    if seconds < plain / _WORTH:
        return seconds
    ready.served.model.unfuse()
    return None


def _spread(plan: Plan, seconds: float, ready: Ready) -> tuple[Plan, float]:
    """The better of a plan that gives all cores to one run after the other, each of which takes so many `seconds`, and
    of one core for each of several, which wait for nobody at barriers. A lone run may have all of them all the same."""
    cores = plan.threads
    each = _least(lambda: _side_by_side(ready, cores), below=cores * seconds)
    if each >= cores * seconds:
        return plan, seconds
    worth = each / _WORTH
    wide = cores if seconds < worth or _least(lambda: _fastest(ready), below=worth) < worth else 0
    return replace(plan, instances=cores, threads=1, wide=wide), each


def _least(measure: Callable[[], float], *, below: float) -> float:
    """The least seconds that are measured, once or until they are `below`."""
    until, least = time.perf_counter() + _CHANCES_SECONDS, measure()
    for _ in range(1, _CHANCES):
        if least < below or time.perf_counter() >= until:
            break
        least = min(least, measure())
    return least


def _fastest(ready: Ready, barrier: threading.Barrier | None = None) -> float:
    """The seconds of the fastest of a few runs of sample 0: what else the machine does says nothing about a plan."""
    times, until = list[float](), time.perf_counter() + _SECONDS
    while len(times) < _FEWEST or time.perf_counter() < until:
        started = time.perf_counter()
        ready.served.answer(ready.samples[0].inputs)
        times.append(time.perf_counter() - started)
        if barrier and len(times) == 1:
            # The first one of a thread may have to make something ready; only from here on all run at once.
            barrier.wait()
            until = time.perf_counter() + _SECONDS
        if times[0] > _LONGEST_SECONDS:
            break
    return min(times)


def _side_by_side(ready: Ready, count: int) -> float:
    """The seconds of a run while so many threads run on one core each."""
    barrier = threading.Barrier(count)

    def fastest() -> float:
        ready.engine.set_threads(1)
        return _fastest(ready, barrier)

    with ThreadPoolExecutor(count) as pool:
        found = [running.result() for running in [pool.submit(fastest) for _ in range(count)]]
    return statistics.harmonic_mean(found)


def batches(ready: Ready) -> Sequence[Sequence[Sequence[Input]]]:
    """Batches of sample 0: the largest one, and the powers of two below it."""
    inputs = ready.samples[0].inputs
    most = ready.served.contract.batching.max_size // max(1, inputs[0][1][0]) if inputs[0][1] else 1
    sizes = {most} | {2**power for power in range(1, most.bit_length()) if 2**power < most}
    return [[inputs] * size for size in sorted(sizes) if size > 1]


def _batches_of(plan: Plan, ready: Ready) -> list[Sequence[Sequence[Input]]]:
    """Those that `plan` runs, with all small ones among them."""
    sizes = {len(batch) for batch in batches(ready)}
    sizes |= set(range(2, min(_SMALL, max(sizes, default=0))))
    together = [[ready.samples[0].inputs] * size for size in sorted(sizes)]
    return [batch for batch in together if _rows(batch) >= plan.least_rows]


def _least_rows(ready: Ready, seconds: float) -> int:
    """From how many rows on a batch takes less than its requests one after the other, each of which takes `seconds`;
    more than there may be where the largest that is quickly measured does not."""
    together = batches(ready)
    *smaller, largest = [batch for batch in together if len(batch) * seconds <= _BATCH_SECONDS] or together[:1] or [[]]
    if not largest or not _pays(ready, largest, seconds):
        return ready.served.contract.batching.max_size + 1
    return next((_rows(batch) for batch in smaller if _pays(ready, batch, seconds)), _rows(largest))


def _pays(ready: Ready, batch: Sequence[Sequence[Input]], seconds: float) -> bool:
    # The first run of a shape prepares for the next ones.
    times, until = list[float](), time.perf_counter() + _SECONDS
    while len(times) < _FEWEST or (len(times) < _TIMED and time.perf_counter() < until):
        started = time.perf_counter()
        ready.served.answer_together(batch)
        times.append(time.perf_counter() - started)
    return min(times) < len(batch) * (seconds + _HAND_OVER_SECONDS)


def _rows(batch: Sequence[Sequence[Input]]) -> int:
    return sum(inputs[0][1][0] for inputs in batch)


def _inline_rows(ready: Ready) -> int:
    """How many rows a run on the event loop may have: a full batch, if its time is known and short, or none."""
    contract, together = ready.served.contract, batches(ready)
    if not together or any(size < 0 for tensor in contract.inputs for size in tensor.shape[1:]):
        return 0
    seconds = []
    # The first request alone: a batch takes no less, and where one takes long a batch takes very long.
    for batch in (together[0][:1], *[together[-1]] * _TIMED):
        started = time.perf_counter()
        ready.served.answer_together(batch)
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 1 and seconds[0] > 10 * INLINE_SECONDS:
            return 0
        ready.engine.set_threads(1)
    # The fastest: whatever else the machine does may slow the others down, and does not change what the model takes.
    return contract.batching.max_size if min(seconds[1:]) <= INLINE_SECONDS else 0
