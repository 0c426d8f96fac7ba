"""Says why a model was scripted or traced, and what its archive rests on, as a person would want to read it."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from pipeline.artifacts import Archive, Batching, Candidate, Evidence, Finding, ShapeProfile, Verdict
from pipeline.parity import table

_WIDTH = 110
_METHODS = {"script": "scripted (torch.jit.script)", "trace": "traced (torch.jit.trace)"}


def explain(archive: Archive, verdicts: Sequence[Verdict] = ()) -> Iterator[str]:
    """The verdict on a model, line by line: the method with its reasons, and then how far the archive can be trusted.

    `verdicts` of the gates add what the archive answered in the runtime image and over the wire.
    """
    spec, evidence = archive.trained.spec, archive.evidence
    yield f"{spec.name} {spec.version} is {_METHODS[evidence.method]}; model.yaml asks for `{evidence.requested}`."
    yield from _wrapped(evidence.because)
    yield from _rests_on(evidence)
    yield from _section("Seen in the code and in the trials", _told(evidence.findings))
    yield from _section("Never reached by a sample or a probe", _places(evidence))
    allowed = f"{spec.tolerance.absolute:g} + {spec.tolerance.relative:g} * |expected|"
    parity = (f"  {line}" for line in table(archive, verdicts))
    yield from _section(f"How far from the trained model at most (model.yaml allows {allowed})", parity)
    yield from _section("On the held-out split", _held_out(archive))
    yield from _section("Precision and memory format, in the runtime image", map(_candidate, archive.candidates))
    warm_up = "The first runs of each shape, and how many the server takes before it is ready"
    yield from _section(warm_up, map(_profile, archive.profile))
    yield from _section("Requests that are answered together", _batching(archive.batching))


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    """The lines under their title after an empty line; nothing at all where there are none."""
    content = list(lines)
    if content:
        yield from ("", title, *content)


def _rests_on(evidence: Evidence) -> Iterator[str]:
    yield from _wrapped(f"Tried on {evidence.samples} samples of held-out data and {evidence.probes} random probes.")
    if evidence.accepted:
        yield from _wrapped(f"A FROZEN BRANCH WAS ACCEPTED, because: {evidence.accepted}")


def _told(findings: Iterable[Finding]) -> Iterator[str]:
    """Each rule with the places where it was seen and what to do about them, errors and warnings first."""
    order = ("error", "warning", "info")
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        groups.setdefault((finding.level, finding.rule, finding.fix), []).append(finding)
    for (level, rule, fix), group in groups.items():
        yield f"  {level:<8} {rule}"
        for finding in dict.fromkeys(group):
            yield from _wrapped(f"{finding.where}: {finding.message}", indent=11)
        yield from _wrapped(fix and f"-> {fix}", indent=11)


def _places(evidence: Evidence) -> Iterator[str]:
    for place in evidence.unvisited:
        yield from _wrapped(place)


def _held_out(archive: Archive) -> Iterator[str]:
    for name, before in sorted(archive.trained.metrics.items()):
        after = archive.metrics.get(name, float("nan"))
        yield f"  {name}: {before:.6g} of the trained model, {after:.6g} of the archive"


def _candidate(candidate: Candidate) -> str:
    speed = "not measured" if candidate.p50 is None else f"p50 {candidate.p50:.3g} ms"
    taken = "taken" if candidate.taken else "not taken"
    return f"  {candidate.precision} {candidate.memory_format}: {speed}; {taken}: {candidate.because}"


def _profile(shape: ShapeProfile) -> str:
    sizes = " ".join(str(list(each)) for each in shape.shapes)
    times = f"first {shape.cold:.3g} ms, second {shape.second:.3g} ms, steady {shape.steady:.3g} ms"
    return f"  {sizes}: {times}; {shape.runs} runs"


def _batching(batching: Batching) -> Iterator[str]:
    many = f"At most {batching.max_size} rows in one run" if batching.max_size > 1 else "Each on its own"
    yield from _wrapped(f"{many}: {batching.because}.")
    for rows, each in sorted(batching.row_ms.items()):
        yield f"  batches of {rows}: {each:.3g} ms a row"


def _wrapped(text: str, *, indent: int = 2) -> Iterator[str]:
    """Text in lines of a width that terminals have; lines of its own, such as code, stay lines."""
    for line in text.splitlines():
        yield from textwrap.wrap(
            line,
            _WIDTH,
            initial_indent=" " * indent,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
