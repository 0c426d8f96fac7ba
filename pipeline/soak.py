"""A server for a long time under a moderate load of good, wrong and disconnecting clients: it must not grow.

Growth is the slope after warm-up times the time that this took, so that single samples hardly matter. Memory may grow
by 3 %, or 6 MiB where that is more: allocators still settle. Descriptors may grow by 3, however long it takes.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import records
from pipeline.alone import alone
from pipeline.artifacts import ServingImage
from pipeline.deploy import wait_until_ready
from pipeline.engine import Engine, Image, Serving
from pipeline.errors import SoakError, SpecError
from pipeline.load.bodies import PROTOCOLS, Protocol
from pipeline.load.figures import slope
from pipeline.load.generator import PORTS, Generator
from pipeline.progress import say

# The first part of the samples is warm-up: allocators and caches fill.
_WARM_UP = 0.25
_LEAST_SAMPLES = 8
# Of the level after warm-up, and at least so many bytes.
MOST_MEMORY, LEAST_BOUND = 0.03, 6 * 2**20
MOST_DESCRIPTORS = 3.0
# Part of the capacity that all good clients together use, and the most requests a second.
_SHARE, _MOST_RATE = 0.3, 300.0
_TRICKS = 10.0
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How a server was after so many seconds. Memory is in bytes."""

    seconds: float
    working_set: int
    anonymous: int
    resident: int
    descriptors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a figure was in the median after warm-up, how much it grew from then to the end, and how much it may."""

    figure: str
    level: float
    grown: float
    bound: float

    @property
    def too_much(self) -> bool:
        """Whether it grew by more than it may."""
        return self.grown > self.bound


def soak(image: ServingImage, *, minutes: float, load: Image, engine: Engine, build: Path) -> tuple[Growth, ...]:
    """Loads a server for so many minutes, prints how it is, and judges its growth; kept in `build`/soak.json.

    Raises:
        SpecError: the time is too short to tell.
        SoakError: an answer was wrong or missing, a wrong request was answered otherwise than by a 4xx, or it grew.
    """
    seconds = minutes * 60 / _slices(minutes)
    spec = image.archive.trained.spec
    found: list[Sample] = []
    counted: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    with alone(build), ExitStack() as stack:
        name = f"torchyard-soak-{spec.name}"
        serving = stack.enter_context(engine.serve(image.tag, name=name, port=0, limits=spec.serving))
        wait_until_ready(serving)
        generators: dict[str, Generator] = {}
        for client in (*PROTOCOLS, "mischief"):
            generator = Generator(load, image.archive, engine=engine, folder=build / f".soak-{client}")
            generators[client] = stack.enter_context(generator)
        soaked = _Soak(serving, generators, seconds)
        served = ", ".join(soaked.protocols)
        say(f"{image.tag}: {soaked.rate:.0f} good requests a second over {served}, and {_TRICKS:.0f} others")
        started = time.monotonic()
        for _ in range(_slices(minutes)):
            soaked.go_on(counted, errors)
            usage, process = serving.usage(), serving.process()
            found.append(
                Sample(
                    seconds=time.monotonic() - started,
                    working_set=usage.working_set,
                    anonymous=usage.anonymous,
                    resident=process.resident,
                    descriptors=process.descriptors,
                )
            )
            say(f"  {_shown(found[-1])}, {sum(counted.values())} requests, {sum(errors.values())} errors")
    growths = judged(found)
    kept = {
        "image": image.digest,
        "minutes": minutes,
        "requests": dict(counted),
        "errors": dict(errors),
        "growth": [asdict(growth) | {"too_much": growth.too_much} for growth in growths],
        "samples": [asdict(sample) for sample in found],
    }
    records.write_atomic(build / "soak.json", json.dumps(kept, indent=2) + "\n")
    for growth in growths:
        say(f"  {_told(growth)}")
    problems = [f"{count} times {kind}" for kind, count in errors.items()]
    problems += [_told(growth) for growth in growths if growth.too_much]
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise SoakError(f"{image.tag} did not stay as it was:\n{listing}\n{build / 'soak.json'} has every sample.")
    say(f"{image.tag} stayed as it was for {minutes:g} minutes and {sum(counted.values())} requests")
    return growths


def _slices(minutes: float) -> int:
    """How many samples are taken: every ten seconds, and enough of them to tell."""
    if not 0.5 <= minutes <= 24 * 60:
        raise SpecError(f"--minutes {minutes:g}: it takes half a minute at least, and a day at most.")
    return max(_LEAST_SAMPLES, round(minutes * 6))


class _Soak:
    """Good, wrong and leaving clients of one server, all at the same time, for a slice of time after the other."""

    def __init__(self, serving: Serving, generators: Mapping[str, Generator], seconds: float) -> None:
        self._serving = serving
        self._generators = generators
        self._seconds = seconds
        self.protocols: list[Protocol] = [each for each in PROTOCOLS if generators[each].listens(serving.id, each)]
        capacity = min(generators[each].estimate(serving.id, each, 4) for each in self.protocols)
        if not capacity:
            raise SoakError("The model answers fewer than one request in a second, by which nothing can be told.")
        self.rate = min(_MOST_RATE, _SHARE * capacity)

    def go_on(self, counted: Counter[str], errors: Counter[str]) -> None:
        """One slice; adds what was asked to `counted` and what went wrong to `errors`."""
        with ThreadPoolExecutor(max_workers=len(self.protocols) + 1) as pool:
            loads = [pool.submit(self._load, each) for each in self.protocols]
            mischief = pool.submit(
                self._generators["mischief"].mischief,
                self._serving.id,
                rate=_TRICKS,
                seconds=self._seconds,
                ports=sorted({PORTS[each] for each in self.protocols}),
            )
            for each, (requests, wrong) in zip(self.protocols, (load.result() for load in loads), strict=True):
                counted[each] += requests
                errors.update({f"{each}: {kind}": count for kind, count in wrong.items()})
            for told, count in mischief.result().items():
                counted["wrong or leaving"] += count
                if not is_fine(told):
                    errors[told] += count

    def _load(self, protocol: Protocol) -> tuple[int, Mapping[str, int]]:
        generator, rate = self._generators[protocol], self.rate / len(self.protocols)
        if protocol == "grpc":
            loaded = generator.closed(self._serving.id, protocol, 2, rate=rate, seconds=self._seconds)
        else:
            loaded = generator.arrivals(self._serving.id, protocol, rate=rate, seconds=self._seconds, mixed=True)
        return loaded.requests, loaded.errors


def is_fine(told: str) -> bool:
    """Whether a trick of images/load/clients/mischief.py came to what it should: wrong requests are answered by a 4xx,
    and whoever leaves may be left."""
    trick, _, outcome = told.partition(": ")
    if trick.startswith(("leave_", "speak_", "reset")):
        return True
    return outcome.startswith("status 4")


def judged(samples: Sequence[Sample]) -> tuple[Growth, ...]:
    """How much each figure grew after warm-up, beside how much it may."""
    after = samples[int(len(samples) * _WARM_UP) :]
    times = [sample.seconds for sample in after]
    growths = []
    for figure in ("working_set", "anonymous", "resident", "descriptors"):
        values = [float(getattr(sample, figure)) for sample in after]
        level = sorted(values)[len(values) // 2]
        bound = MOST_DESCRIPTORS if figure == "descriptors" else max(LEAST_BOUND, MOST_MEMORY * level)
        grown = slope(times, values) * (times[-1] - times[0])
        growths.append(Growth(figure=figure, level=level, grown=grown, bound=bound))
    return tuple(growths)


def _shown(sample: Sample) -> str:
    return (
        f"{sample.seconds:>6.0f} s: working set {sample.working_set / _MIB:.1f} MiB, anonymous "
        f"{sample.anonymous / _MIB:.1f} MiB, resident {sample.resident / _MIB:.1f} MiB, "
        f"{sample.descriptors} descriptors"
    )


def _told(growth: Growth) -> str:
    name = growth.figure.replace("_", " ")
    verdict = "grew too much" if growth.too_much else "is steady"
    if growth.figure == "descriptors":
        return f"{name}: {growth.level:.0f}, {growth.grown:+.1f} of at most {growth.bound:.0f}: {verdict}"
    level, grown, bound = (value / _MIB for value in (growth.level, growth.grown, growth.bound))
    return f"{name}: {level:.1f} MiB, {grown:+.2f} of at most {bound:.1f} MiB: {verdict}"
