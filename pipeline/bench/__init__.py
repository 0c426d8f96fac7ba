"""What serving costs: a model's image under load, beside the same archive in process and eager torch, in one run.

A machine is not equally fast all the time. So everything is measured in several rounds, in each round everything once,
and what is compared is compared within a round.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import records
from pipeline.alone import alone
from pipeline.artifacts import ServingImage
from pipeline.bench.eager import Eager
from pipeline.bench.plot import plot
from pipeline.bench.report import Callers, Cell, InProcess, Report, Start
from pipeline.bench.table import table
from pipeline.deploy import wait_until_ready
from pipeline.engine import Engine, Image, Job, Serving
from pipeline.errors import BenchError, SpecError
from pipeline.load.bodies import PROTOCOLS, Protocol
from pipeline.load.figures import Percentiles
from pipeline.load.generator import Generator, Loaded
from pipeline.progress import say

CLIENTS = (1, 4, 16, 64)
# Parts of the measured capacity at which requests arrive.
SHARES = (0.5, 0.75, 0.9)
# And far more than that, where one generator can send so many requests a second.
OVERLOAD, _MOST_ARRIVALS = 4.0, 6000.0
_STARTS = 3
_MOST_SECONDS = 60
# All serving threads get some of the first requests. So many by as many new clients are sent again and again: what it
# takes to open four connections at once is no sign of a server that is cold.
_FIRST_CLIENTS, _FIRST, _LATER = 4, 100, 5
_MEASURE = ("/usr/bin/python3.13", "-m", "server.measure", "--model", "/model", "--server", "127.0.0.1:8080")
_IN_TURNS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: `seconds` a cell, in so many rounds, over these protocols, as far as they are served."""

    seconds: float = 2.0
    rounds: int = 3
    protocols: tuple[Protocol, ...] = PROTOCOLS
    clients: tuple[int, ...] = CLIENTS


def bench_plan(*, seconds: float, rounds: int, protocol: str) -> Plan:
    """The plan that a command line asks for; an empty `protocol` is all of them.

    Raises:
        SpecError: nothing can be measured that way.
    """
    if not 0 < seconds <= _MOST_SECONDS or rounds < 1:
        raise SpecError(
            f"--seconds {seconds:g} --rounds {rounds}: a cell takes more than 0 and at most {_MOST_SECONDS} seconds, "
            "and there is at least one round."
        )
    chosen = tuple(each for each in PROTOCOLS if protocol in {"", each})
    if not chosen:
        raise SpecError(f"--protocol {protocol}: there is {', '.join(PROTOCOLS)}.")
    return Plan(seconds=seconds, rounds=rounds, protocols=chosen)


def bench(image: ServingImage, *, load: Image, plan: Plan, engine: Engine, build: Path, against: str = "") -> Report:
    """Measures an image and prints a table; the figures are kept in `build`/bench.json and drawn in bench.svg there.

    `load` is the load generator's image, and `against` another image that serves the same model, measured in turns.

    Raises:
        BenchError: a request was answered wrongly or not at all, or there is no such other image.
        EngineError: a container failed.
    """
    images = _images(image, against, engine)
    out = build / ".bench"
    with alone(build), Generator(load, image.archive, engine=engine, folder=out) as generator:
        run = _Run(image, images, generator, Eager(image, engine=engine, out=out / "eager"), engine)
        protocols = run.protocols(plan)
        starts = run.starts(protocols)
        with ExitStack() as stack:
            serving = {name: stack.enter_context(run.serving(name)) for name in images}
            in_process, cells = run.rounds(serving, protocols, plan)
    limits = image.archive.trained.spec.serving
    report = Report(
        model=image.tag,
        images=images,
        cpus=min(limits.cpus, engine.info().cpus),
        memory=limits.memory,
        seconds=plan.seconds,
        rounds=plan.rounds,
        starts=starts,
        in_process=tuple(in_process),
        cells=tuple(cells),
    )
    records.write_atomic(build / "bench.json", json.dumps(asdict(report), indent=2) + "\n")
    records.write_atomic(build / "bench.svg", plot(report))
    for line in table(report):
        say(line)
    if errors := report.errors():
        listing = "\n".join(f"  {count} times {kind}" for kind, count in errors.items())
        raise BenchError(
            f"{image.tag} did not answer everything rightly, so its figures mean little:\n{listing}\n"
            f"{build / 'bench.json'} says in which cells."
        )
    return report


def _images(image: ServingImage, against: str, engine: Engine) -> dict[str, str]:
    images = {image.tag: image.digest}
    if against:
        other = engine.find(against)
        if other is None:
            raise BenchError(
                f"There is no image {against} to compare with. `docker images` lists those that there are."
            )
        if against in images:
            raise BenchError(f"{against} is the image itself. Tag the one to compare with before it is built anew.")
        images[against] = other.digest
    return images


class _Run:
    """One bench."""

    def __init__(
        self, image: ServingImage, images: Mapping[str, str], generator: Generator, eager: Eager, engine: Engine
    ) -> None:
        self._image = image
        self._images = images
        self._generator = generator
        self._eager = eager
        self._engine = engine
        self._limits = image.archive.trained.spec.serving

    @contextmanager
    def serving(self, name: str) -> Iterator[Serving]:
        """A container of the image that is called so, once it is ready."""
        place = list(self._images).index(name)
        called = f"torchyard-bench-{self._image.archive.trained.spec.name}-{place}"
        with self._engine.serve(self._images[name], name=called, port=0, limits=self._limits) as serving:
            wait_until_ready(serving)
            yield serving

    def protocols(self, plan: Plan) -> tuple[Protocol, ...]:
        """Those of the plan that every image serves.

        Raises:
            BenchError: there is none.
        """
        found = plan.protocols
        for name in self._images:
            with self.serving(name) as serving:
                found = tuple(each for each in found if self._generator.listens(serving.id, each))
        if not found:
            asked = " or ".join(plan.protocols)
            raise BenchError(f"{self._image.tag}: nothing listens for {asked}, so there is nothing to measure.")
        return found

    def starts(self, protocols: Sequence[Protocol]) -> dict[str, tuple[Start, ...]]:
        """Starts every image several times for each protocol, in turns: what one has warmed up is warm for others."""
        found: dict[str, list[Start]] = {name: [] for name in self._images}
        for protocol in (each for _ in range(_STARTS) for each in protocols):
            for name, starts in found.items():
                with self.serving(name) as serving:
                    starts.append(self._start(serving, protocol, time.time() - serving.started))
        for name, starts in found.items():
            say(f"  {name}: ready after {statistics.median(each.ready for each in starts):.2f} s")
        return {name: tuple(starts) for name, starts in found.items()}

    def _start(self, serving: Serving, protocol: Protocol, ready: float) -> Start:
        first, *later = [self._hundred(serving, protocol) for _ in range(1 + _LATER)]
        usage, process = serving.usage(), serving.process()
        return Start(
            protocol=protocol,
            ready=ready,
            first_p99=first,
            steady_p99=statistics.median(later),
            working_set=usage.working_set,
            anonymous=usage.anonymous,
            resident=process.resident,
        )

    def _hundred(self, serving: Serving, protocol: Protocol) -> float:
        """The 99th percentile, in milliseconds, of a hundred requests by new clients."""
        latencies = self._generator.first(serving.id, protocol, _FIRST_CLIENTS, count=_FIRST)
        return float(np.percentile(latencies, 99)) * 1e3

    def rounds(
        self, serving: Mapping[str, Serving], protocols: Sequence[Protocol], plan: Plan
    ) -> tuple[list[InProcess], list[Cell]]:
        """Everything that is measured beside running containers."""
        generator = self._generator
        rates = {
            (name, protocol, clients): generator.estimate(each.id, protocol, clients)
            for name, each in serving.items()
            for protocol in protocols
            for clients in plan.clients
        }
        in_process: list[InProcess] = []
        cells: list[Cell] = []
        for number in range(plan.rounds):
            say(f"  round {number + 1} of {plan.rounds}")
            in_process.append(self._in_process(serving[self._image.tag], number, plan.seconds))
            # Neither image is always the first one of a pair.
            pairs = list(serving.items())[:: -1 if number % 2 else 1]
            for protocol in protocols:
                for clients in plan.clients:
                    for name, each in pairs:
                        rate = rates[name, protocol, clients]
                        load = partial(generator.closed, each.id, protocol, clients, rate=rate, seconds=plan.seconds)
                        cells.append(_cell(name, number, each, load))
            for protocol in (each for each in protocols if each != "grpc"):
                capacity = _capacity(cells, self._image.tag, protocol)
                for share in SHARES:
                    for name, each in pairs:
                        load = partial(
                            generator.arrivals, each.id, protocol, rate=share * capacity, seconds=plan.seconds
                        )
                        cells.append(_cell(name, number, each, load, share))
                if (rate := OVERLOAD * capacity) <= _MOST_ARRIVALS:
                    for name, each in pairs:
                        load = partial(generator.overload, each.id, protocol, rate=rate, seconds=plan.seconds)
                        cells.append(_cell(name, number, each, load, OVERLOAD))
        return in_process, cells

    def _in_process(self, serving: Serving, number: int, seconds: float) -> InProcess:
        lines: list[str] = []
        command = (*_MEASURE, "--requests", str(_IN_TURNS), "--seconds", str(seconds))
        job = Job(image=self._image.digest, command=command, limits=self._limits, beside=serving.id)
        self._engine.run(job, on_line=lines.append)
        found = json.loads(lines[-1])
        eager = self._eager.run()
        return InProcess(
            round=number,
            alone=_percentiles(found["in_process"]),
            over_the_wire=_percentiles(found["over_the_wire"]),
            callers=tuple(
                Callers(
                    callers=each["callers"],
                    threads=each["threads"],
                    fused=each["fused"],
                    throughput=each["throughput"],
                    latency=_percentiles(each),
                )
                for each in found["callers"]
            ),
            eager=eager["eager"],
            archive=eager["archive"],
        )


def _cell(name: str, number: int, serving: Serving, load: Callable[[], Loaded], share: float | None = None) -> Cell:
    """One cell. The witness's requests cost the container as much as the others."""
    before = serving.usage().cpu_seconds
    loaded = load()
    spent = serving.usage().cpu_seconds - before
    answered = loaded.requests + (loaded.checked if share is None else 0)
    return Cell(image=name, round=number, share=share, loaded=loaded, cpu_seconds=spent / answered)


def _capacity(cells: Sequence[Cell], name: str, protocol: Protocol) -> float:
    """What clients that waited got in the first round, at best: the same for all rounds, so that they compare."""
    return max(
        cell.loaded.throughput
        for cell in cells
        if (cell.image, cell.round, cell.share, cell.loaded.protocol) == (name, 0, None, protocol)
    )


def _percentiles(found: Mapping[str, float]) -> Percentiles:
    return Percentiles(p50=found["p50_ms"], p95=found["p95_ms"], p99=found["p99_ms"])
