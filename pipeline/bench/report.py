"""What a bench measured, and its figures: medians over the rounds, and ratios of what was measured in one round."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.load.bodies import Protocol
from pipeline.load.figures import Percentiles
from pipeline.load.generator import Loaded

# Protocol, how many clients wait for their answers, or at which part of the capacity requests arrive.
Key: TypeAlias = tuple[Protocol, int | None, float | None]
# The server's queue is full.
_FULL = "status 503"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of a container: seconds until it was ready, and the 99th percentile in milliseconds of the first
    hundred requests after that, all of one protocol, and of a hundred by as many new clients later. `working_set`,
    `anonymous` and `resident` are bytes of memory after these requests."""

    protocol: Protocol
    ready: float
    first_p99: float
    steady_p99: float
    working_set: int
    anonymous: int
    resident: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of load in one round against one image, and the seconds of the cores that the container spent on each
    request. `share` is the part of the capacity at which requests arrive; None where clients wait for answers."""

    image: str
    round: int
    share: float | None
    loaded: Loaded
    cpu_seconds: float

    @property
    def key(self) -> Key:
        """What cells of several rounds and images have in common."""
        return self.loaded.protocol, self.loaded.clients, self.share

    @property
    def refused(self) -> int:
        """How many requests of clients that do not wait were told to come again: a full queue is no fault then."""
        return 0 if self.share is None else self.loaded.errors.get(_FULL, 0)

    @property
    def errors(self) -> Mapping[str, int]:
        """What went wrong, by kind."""
        return {kind: n for kind, n in self.loaded.errors.items() if self.share is None or kind != _FULL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """What callers in one process got done: answers a second, and latencies in milliseconds; of the program as torch
    optimises it, or with operators `fused`."""

    callers: int
    threads: int
    fused: bool
    throughput: float
    latency: Percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcess:
    """The same archive without a server, in one round: one call at a time in turns with requests over the wire, in
    milliseconds, several callers, and eager torch with its archive there, in milliseconds."""

    round: int
    alone: Percentiles
    over_the_wire: Percentiles
    callers: tuple[Callers, ...]
    eager: float
    archive: float

    @property
    def limit(self) -> float:
        """The most answers a second without batching."""
        return max(each.throughput for each in self.callers)

    @property
    def plain(self) -> float:
        """The same without fusion: what torch's own ways of optimising give."""
        return max(each.throughput for each in self.callers if not each.fused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The medians of a cell over all rounds, and the sums of what was checked, refused, and what went wrong.

    `of_limit` is the throughput's part of the limit in the same round, and `of_plain` of that without fusion.
    """

    throughput: float
    of_limit: float
    of_plain: float
    latency: Percentiles
    cpu_seconds: float
    late: float | None
    probes: Percentiles | None
    checked: int
    refused: int
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a bench measured. `images` maps the names that are compared to digests, the model's own first."""

    model: str
    images: Mapping[str, str]
    cpus: float
    memory: int
    seconds: float
    rounds: int
    starts: Mapping[str, tuple[Start, ...]]
    in_process: tuple[InProcess, ...]
    cells: tuple[Cell, ...]

    def called(self) -> list[tuple[str, list[Callers]]]:
        """The callers in one process of all rounds that are alike, by what they are called. Whether fusing is faster
        may be another one's answer in another round."""
        found: dict[str, list[Callers]] = {}
        for each in self.in_process:
            for one in each.callers:
                name = f"archive{' fused' if one.fused else ''}, {one.callers} x {one.threads} threads"
                found.setdefault(name, []).append(one)
        return list(found.items())

    def measured(self) -> list[Key]:
        """What was measured, in that order."""
        return list(dict.fromkeys(cell.key for cell in self.cells))

    def row(self, image: str, key: Key) -> Row:
        """The figures of one image's cell."""
        cells = [cell for cell in self.cells if cell.image == image and cell.key == key]
        beside = {each.round: each for each in self.in_process}
        loaded = [cell.loaded for cell in cells]
        errors: Counter[str] = Counter()
        for cell in cells:
            errors.update(cell.errors)
        late = [each.late for each in loaded if each.late is not None]
        probes = [each.probes for each in loaded if each.probes]
        return Row(
            throughput=statistics.median(each.throughput for each in loaded),
            of_limit=statistics.median(cell.loaded.throughput / beside[cell.round].limit for cell in cells),
            of_plain=statistics.median(cell.loaded.throughput / beside[cell.round].plain for cell in cells),
            latency=median([each.latency for each in loaded]),
            cpu_seconds=statistics.median(cell.cpu_seconds for cell in cells),
            late=statistics.median(late) if late else None,
            probes=median(probes) if probes else None,
            checked=sum(each.checked for each in loaded),
            refused=sum(cell.refused for cell in cells),
            errors=dict(errors),
        )

    def ratio(self, key: Key, *, of: str, to: str) -> tuple[float, float]:
        """How many times as much throughput, and how many times the p50, `of` has to `to`: medians of pairs."""
        pairs = list(self._pairs(key, of, to))
        return (
            statistics.median(one.loaded.throughput / other.loaded.throughput for one, other in pairs),
            statistics.median(one.loaded.latency.p50 / other.loaded.latency.p50 for one, other in pairs),
        )

    def _pairs(self, key: Key, of: str, to: str) -> Iterator[tuple[Cell, Cell]]:
        found = {(cell.image, cell.round): cell for cell in self.cells if cell.key == key}
        for number in range(self.rounds):
            yield found[of, number], found[to, number]

    def errors(self) -> Mapping[str, int]:
        """Everything that went wrong, by image, protocol and kind."""
        found: Counter[str] = Counter()
        for cell in self.cells:
            for kind, count in cell.errors.items():
                found[f"{cell.image}, {cell.loaded.protocol}: {kind}"] += count
        return dict(found)


def median(latencies: Sequence[Percentiles]) -> Percentiles:
    """The medians of several measurements' percentiles."""
    return Percentiles(
        p50=statistics.median(each.p50 for each in latencies),
        p95=statistics.median(each.p95 for each in latencies),
        p99=statistics.median(each.p99 for each in latencies),
    )
