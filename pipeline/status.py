"""Models by channels: what each has, since when, who signed it, and whether tag and log agree."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.artifacts import Finding
from pipeline.errors import PipelineError
from pipeline.evidence import GATES, RELEASES, TEST_RESULT, Evidence, plain, when
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge, placed
from pipeline.promote import log as logs
from pipeline.promote.drift import drift, exchanged
from pipeline.promote.office import Office

# Each row waits for cosign a dozen times, and for a registry.
_AT_A_TIME = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a gate said of an image: its result in lower case, and its age in days."""

    gate: str
    result: str
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model in a channel. `age` is in days since it was promoted, None for releases; `problems` are rules broken.

    `begun` tells that its log was begun again and why, and `trouble` why nothing else is known; either may be empty.
    """

    model: str
    channel: str
    digest: str = ""
    version: str = ""
    age: float | None = None
    verdicts: tuple[Said, ...] = ()
    signers: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    begun: str = ""
    trouble: str = ""

    def line(self) -> str:
        """As a line of text."""
        since = "" if self.age is None else f"{self.age:.1f} d"
        judged = ", ".join(f"{each.gate} {each.result} {each.age:.1f} d" for each in self.verdicts)
        said = self.trouble or ", ".join(self.problems) or "in order"
        said += f"; {self.begun}" if self.begun else ""
        shown = f"{self.model:<12} {self.channel:<11} {self.version or '-':<8} {self.digest[:19]:<19} {since:>7}"
        return plain(f"{shown}  {judged:<56} {','.join(self.signers):<10} {said}")


def status(models: tuple[str, ...], *, now: datetime, office: Office) -> Iterator[Row]:
    """A row for each model and channel that has or had something; everything is verified from the registry."""
    places = [(model, channel) for model in models for channel in (RELEASES, *office.policy.channels)]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        rows = pool.map(lambda place: _row(place[0], place[1], now, office), places)
        yield from (row for row in rows if row)


def _row(model: str, channel: str, now: datetime, office: Office) -> Row | None:
    """What a registry that does not answer, or has what nobody can read, says is the row of its model alone."""
    try:
        return _known(model, channel, now, office)
    except PipelineError as error:
        return Row(model=model, channel=channel, trouble=str(error))


def _known(model: str, channel: str, now: datetime, office: Office) -> Row | None:
    where = office.repository(channel, model)
    signers = tuple(office.policy.signers.values())
    if channel != RELEASES:
        signers = office.policy.channel(channel).signers
    tagged = office.registry.manifest(where, channel)
    log = logs.read(where, signers=signers, registry=office.registry, cosign=office.cosign)
    if tagged is None and log.current is None and not log.problems:
        return None
    problems: list[Finding] = [*log.problems]
    evidence = None
    if tagged:
        evidence = collect(where, tagged.digest, signers=signers, registry=office.registry, cosign=office.cosign)
        problems += judge(evidence, channel=channel)
    if channel != RELEASES:
        problems += drift(log, tagged.digest if tagged else "", at=where, channel=channel)
        problems += exchanged(log.current, evidence) if evidence else ()
    return Row(
        model=model,
        channel=channel,
        digest=tagged.digest if tagged else "",
        version=evidence.version if evidence else "",
        age=_days(now - when(log.current.at)) if log.current else None,
        verdicts=tuple(_said(evidence, now)) if evidence else (),
        signers=tuple(sorted({each.by for each in placed(evidence, channel)})) if evidence else (),
        problems=tuple(dict.fromkeys(each.rule for each in problems)),
        # What nobody signed says nothing.
        begun="" if log.problems else log.begun,
    )


def _said(evidence: Evidence, now: datetime) -> Iterator[Said]:
    for gate in GATES:
        if found := evidence.attestation(f"{TEST_RESULT} {gate}"):
            age = _days(now - when(found.verdict["at"]))
            yield Said(gate=gate, result=str(found.predicate.get("result")).lower(), age=age)


def _days(age: timedelta) -> float:
    return age / timedelta(days=1)
