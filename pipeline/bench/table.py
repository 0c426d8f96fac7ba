"""A report as a table that fits 120 columns."""

import statistics
from collections.abc import Iterator

from pipeline.bench.report import Report, median
from pipeline.load.figures import Percentiles

_MIB = 2**20
# Answers as parts of what callers in one process get without batching: at best, and without fused operators.
_HEAD = f"{'answers/s':>11}{'of limit':>9}{'of plain':>9}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}"


def table(report: Report) -> Iterator[str]:
    """The lines."""
    yield f"{report.model} with {report.cpus:g} cores and {report.memory} MiB, medians of {report.rounds} rounds"
    yield from _starts(report)
    yield ""
    yield from _in_process(report)
    for image in report.images:
        yield ""
        yield from _cells(report, image)
    own, *others = report.images
    for other in others:
        yield ""
        yield from _pairs(report, own, other)


def _starts(report: Report) -> Iterator[str]:
    yield f"{'image':<30}{'ready s':>9}{'working set':>13}{'anonymous':>11}{'resident':>10}"
    for image, starts in report.starts.items():
        sizes = "".join(
            f"{statistics.median(getattr(start, name) for start in starts) / _MIB:>{width - 4}.0f} MiB"
            for name, width in (("working_set", 13), ("anonymous", 11), ("resident", 10))
        )
        yield f"{image:<30}{statistics.median(start.ready for start in starts):>9.2f}{sizes}"
        for protocol in dict.fromkeys(start.protocol for start in starts):
            first = statistics.median(each.first_p99 / each.steady_p99 for each in starts if each.protocol == protocol)
            yield f"{f'  first 100 of {protocol}':<30}{first:>9.2f} times the steady p99"


def _in_process(report: Report) -> Iterator[str]:
    yield f"{'in process':<30}{_HEAD}"
    limit = statistics.median(each.limit for each in report.in_process)
    plain = statistics.median(each.plain for each in report.in_process)
    for name, called in report.called():
        throughput = statistics.median(each.throughput for each in called)
        latency = _shown(median([each.latency for each in called]))
        yield f"{name:<30}{throughput:>11,.1f}{throughput / limit:>9.2f}{throughput / plain:>9.2f}{latency}"
    threads = report.in_process[0].callers[0].threads
    for name, milliseconds in (
        ("eager torch", statistics.median(each.eager for each in report.in_process)),
        ("in Python's torch", statistics.median(each.archive for each in report.in_process)),
    ):
        rate = 1e3 / milliseconds
        ratios = f"{rate / limit:>9.2f}{rate / plain:>9.2f}"
        yield f"{name + f', 1 x {threads}':<30}{rate:>11,.1f}{ratios}{milliseconds:>10.3f}"
    alone = median([each.alone for each in report.in_process])
    ratio = statistics.median(each.over_the_wire.p50 / each.alone.p50 for each in report.in_process)
    wire = median([each.over_the_wire for each in report.in_process])
    yield f"{'alone, in turns with the wire':<59}{_shown(alone)}"
    yield f"{f'over the wire, one client, p50 {ratio:.3f} times that':<59}{_shown(wire)}"


def _cells(report: Report, image: str) -> Iterator[str]:
    yield f"{image:<30}{_HEAD}{'cpu ms':>8}{'checked':>8}{'errors':>7}"
    for key in report.measured():
        protocol, clients, share = key
        row = report.row(image, key)
        name = (
            f"{protocol}, {clients} client{'s' if clients != 1 else ''}" if share is None else _arrivals(key[0], share)
        )
        # A generator that cannot keep up measures itself.
        late = f" late {row.late:.0f}" if row.late is not None and row.late > 1 else ""
        refused = f" refused {row.refused}" if row.refused else ""
        yield (
            f"{name:<30}{row.throughput:>11,.1f}{row.of_limit:>9.2f}{row.of_plain:>9.2f}{_shown(row.latency)}"
            f"{row.cpu_seconds * 1e3:>8.3f}{row.checked:>8}{sum(row.errors.values()):>7}{refused}{late}"
        )
        if row.probes:
            yield f"{'  health and metrics meanwhile':<59}{_shown(row.probes)}"


def _arrivals(protocol: str, share: float) -> str:
    return f"{protocol}, arriving at {share:.0%}"


def _pairs(report: Report, own: str, other: str) -> Iterator[str]:
    yield f"{own} to {other}, medians of pairs"
    for key in report.measured():
        protocol, clients, share = key
        name = f"{protocol}, {clients} clients" if share is None else _arrivals(protocol, share)
        throughput, p50 = report.ratio(key, of=own, to=other)
        yield f"{name:<30}{throughput:>11.2f} times the answers/s{p50:>10.2f} times the p50"


def _shown(latency: Percentiles) -> str:
    return f"{latency.p50:>10.3f}{latency.p95:>10.3f}{latency.p99:>10.3f}"
