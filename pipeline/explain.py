"""Says why a model was scripted or traced, and what that rests on, as a person would want to read it."""

import textwrap
from collections.abc import Iterable, Iterator

from pipeline.artifacts import Archive, Evidence, Finding

_WIDTH = 110
_METHODS = {"script": "scripted (torch.jit.script)", "trace": "traced (torch.jit.trace)"}


def explain(archive: Archive) -> Iterator[str]:
    """The verdict on a model, line by line: the method and the reason, what was seen, what was never reached."""
    spec, evidence = archive.trained.spec, archive.evidence
    yield f"{spec.name} {spec.version} is {_METHODS[evidence.method]}; model.yaml asks for `{evidence.requested}`."
    yield from _wrapped(evidence.because)
    yield from _rests_on(evidence)
    if evidence.findings:
        yield ""
        yield "Seen in the code and in the trials"
        yield from _told(evidence.findings)
    if evidence.unvisited:
        yield ""
        yield "Never reached by a sample or a probe"
        for place in evidence.unvisited:
            yield from _wrapped(place)
    yield ""
    yield from _held_out(archive)


def _rests_on(evidence: Evidence) -> Iterator[str]:
    yield from _wrapped(f"Tried on {evidence.samples} samples of held-out data and {evidence.probes} random probes.")
    if evidence.accepted:
        yield from _wrapped(f"A FROZEN BRANCH WAS ACCEPTED, because: {evidence.accepted}")


def _told(findings: Iterable[Finding]) -> Iterator[str]:
    """Each finding with its place, what it means and what to do, errors and warnings first."""
    order = ("error", "warning", "info")
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        yield f"  {finding.level:<8} {finding.rule}, {finding.where}"
        yield from _wrapped(finding.message, indent=11)
        if finding.fix:
            yield from _wrapped(finding.fix, indent=11)


def _held_out(archive: Archive) -> Iterator[str]:
    measured = ", ".join(f"{name} {value:.4f}" for name, value in sorted(archive.trained.metrics.items()))
    yield f"On the held-out split: {measured or 'nothing was measured'}"


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
