"""How many threads run the model, and with how many of its own each: decided by a short measurement at start."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from server.engine import Engine, Input
from server.fusing import fuse
from server.loading import Ready
from server.replaying import warm_up
from server.served import ServedModel

# Handing a batch to a thread and back takes about so long. One that takes no longer than the next may be run on the
# event loop: everybody else who wants the loop waits for that.
_HAND_OVER_SECONDS = 1e-4
INLINE_SECONDS = 5e-4
# More instances answer one client later: only for so much more throughput. Large models get about 1.15 times as much
# done by one thread for each core; whatever else the machine does at start must not tip that over.
_WORTH = 1.35
# Each plan is measured for about so long, and not at all where one run takes longer.
_SECONDS = 0.1
_FEWEST = 2
_TIMED = 5
# Batches, the small ones first, are run once each before the model is ready, as long as that takes no longer in all.
_WARMING_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`instances` threads run the model, each with `threads` for one operator.

    Batches of at most `inline_rows` rows are run on the event loop's own thread instead; 0 where it runs none. Where
    operators are `fused` for single requests, fewer than `least_rows` rows are no batch but run one after the other.
    """

    instances: int
    threads: int
    inline_rows: int
    fused: bool = False
    least_rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that gives the right answers, and how it is going to be run."""

    ready: Ready
    engine: Engine
    plan: Plan

    def warm(self, threads: int, *, prepared: bool = False) -> None:
        """Makes the calling thread one that runs the model, with `threads` for one operator; the one that prepared the
        model has run the samples already."""
        self.engine.set_threads(threads)
        if not prepared:
            warm_up(self.ready.served, self.ready.samples)
        started = time.perf_counter()
        for batch in batches(self.ready):
            if _rows(batch) >= self.plan.least_rows and time.perf_counter() - started < _WARMING_SECONDS:
                self.ready.served.answer_together(batch)


def choose(
    ready: Ready, engine: Engine, *, cores: int, instances: int | None, threads: int | None, fusion: bool = True
) -> Plan:
    """The plan for `cores`; `instances` and `threads` are taken as given where they are, and operators are fused only
    with `fusion`. To be called in the thread that will serve, whose number of threads it changes."""
    inline = _inline_rows(ready, engine)
    if instances or threads or inline or cores == 1:
        instances = instances or (1 if inline else max(1, cores // (threads or cores)))
        plan = Plan(instances=instances, threads=threads or max(1, cores // instances), inline_rows=inline)
        seconds = fused(plan, ready, engine) if fusion and not inline else None
        return replace(plan, fused=True, least_rows=_least_rows(ready, seconds)) if seconds else plan
    rates = _rates(ready, engine, cores)
    best = _best(rates)
    return _best_fused(rates, best, ready, engine) if fusion and rates[best] else best


def fused(plan: Plan, ready: Ready, engine: Engine, *, plain: float | None = None) -> float | None:
    """Fuses operators for a plan, where that is faster: the seconds of a run while all instances run. `plain` are those
    without, where they are known."""

    def measure() -> float:
        throughput = _throughput(ready.served, ready.samples[0].inputs, engine, plan.instances, plan.threads)
        return plan.instances / throughput if throughput else math.inf

    engine.set_threads(plan.threads)
    return fuse(ready, engine, measure, plain=plain)


def _rates(ready: Ready, engine: Engine, cores: int) -> dict[Plan, float]:
    """What plans get done in a second, the one of the fewest instances first, up to one that takes too long to find
    out; if that is the first, it alone with 0."""
    rates: dict[Plan, float] = {}
    for instances, threads in _candidates(cores):
        plan = Plan(instances=instances, threads=threads, inline_rows=0)
        throughput = _throughput(ready.served, ready.samples[0].inputs, engine, instances, threads)
        if throughput is None:
            return rates or {plan: 0.0}
        rates[plan] = throughput
    return rates


def _best(rates: Mapping[Plan, float]) -> Plan:
    """The first plan, or a later one that gets so much more done that it is worth it."""
    best, *others = rates
    for plan in others:
        if rates[plan] > _WORTH * rates[best]:
            best = plan
    return best


def _best_fused(rates: Mapping[Plan, float], best: Plan, ready: Ready, engine: Engine) -> Plan:
    """The plan with the fewest instances, or the one that is best without fusion, with operators fused where that gets
    more done."""
    first = next(iter(rates))
    tried = list(dict.fromkeys((first, best)))
    seconds = {plan: fused(plan, ready, engine, plain=plan.instances / rates[plan]) for plan in tried}
    rate = {plan: plan.instances / each for plan, each in seconds.items() if each}
    if not rate:
        return best
    chosen = _best(rate)
    if rates[best] > _WORTH * rate[chosen]:
        ready.served.model.unfuse()
        return best
    if chosen != tried[-1]:
        engine.set_threads(chosen.threads)
        ready.served.model.fuse(ready.samples[0].inputs)
    return replace(chosen, fused=True, least_rows=_least_rows(ready, chosen.instances / rate[chosen]))


def batches(ready: Ready) -> Sequence[Sequence[Sequence[Input]]]:
    """Batches of sample 0: the largest one, and the powers of two below it."""
    inputs = ready.samples[0].inputs
    most = ready.served.contract.batching.max_size // max(1, inputs[0][1][0]) if inputs[0][1] else 1
    sizes = {most} | {2**power for power in range(1, most.bit_length()) if 2**power < most}
    return [[inputs] * size for size in sorted(sizes) if size > 1]


def _least_rows(ready: Ready, seconds: float) -> int:
    """From how many rows on a batch takes less than its requests one after the other, each of which takes `seconds`;
    more than there may be where the largest does not."""
    *smaller, largest = batches(ready) or [[]]
    if not largest or not _pays(ready, largest, seconds):
        return ready.served.contract.batching.max_size + 1
    return next((_rows(batch) for batch in smaller if _pays(ready, batch, seconds)), _rows(largest))


def _pays(ready: Ready, batch: Sequence[Sequence[Input]], seconds: float) -> bool:
    # The first runs of a shape prepare for the next ones; beside what takes long that is little.
    times, until = list[float](), time.perf_counter() + _SECONDS / 2
    while not times or (len(times) < _TIMED and time.perf_counter() < until):
        started = time.perf_counter()
        ready.served.answer_together(batch)
        times.append(time.perf_counter() - started)
    return min(times) < len(batch) * (seconds + _HAND_OVER_SECONDS)


def _rows(batch: Sequence[Sequence[Input]]) -> int:
    return sum(inputs[0][1][0] for inputs in batch)


def _inline_rows(ready: Ready, engine: Engine) -> int:
    """How many rows a run on the event loop may have: a full batch, if its time is known and short, or none."""
    contract, together = ready.served.contract, batches(ready)
    if not together or any(size < 0 for tensor in contract.inputs for size in tensor.shape[1:]):
        return 0
    engine.set_threads(1)
    seconds = []
    # The first request alone: a batch takes no less, and where one takes long a batch takes very long.
    for batch in (together[0][:1], *[together[-1]] * _TIMED):
        started = time.perf_counter()
        ready.served.answer_together(batch)
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 1 and seconds[0] > 10 * INLINE_SECONDS:
            return 0
    # The fastest: whatever else the machine does may slow the others down, and does not change what the model takes.
    return contract.batching.max_size if min(seconds[1:]) <= INLINE_SECONDS else 0


def _candidates(cores: int) -> list[tuple[int, int]]:
    """Instances and threads that make up the cores, the fewest instances first."""
    return sorted({(1, cores), (max(1, cores // 2), min(2, cores)), (cores, 1)})


def _throughput(
    served: ServedModel, inputs: Sequence[Input], engine: Engine, instances: int, threads: int
) -> float | None:
    """Runs a second when all instances run the same inputs; None where that would take too long to find out."""
    barrier = threading.Barrier(instances)

    def runs() -> float | None:
        engine.set_threads(threads)
        started = time.perf_counter()
        served.answer(inputs)
        once = time.perf_counter() - started
        barrier.wait()
        if once > 10 * _SECONDS:
            return None
        count, started = 0, time.perf_counter()
        while count < _FEWEST or time.perf_counter() - started < _SECONDS:
            served.answer(inputs)
            count += 1
        return count / (time.perf_counter() - started)

    with ThreadPoolExecutor(instances) as pool:
        rates = [running.result() for running in [pool.submit(runs) for _ in range(instances)]]
    return None if None in rates else sum(rate for rate in rates if rate)
