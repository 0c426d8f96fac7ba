"""Models by channels: what each has, since when, who signed it, and whether tag and log agree."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from pipeline.evidence import GATES, RELEASES, TEST_RESULT, when
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge, placed
from pipeline.promote import Office, drift
from pipeline.promote import log as logs

# Each row waits for cosign a dozen times, and for a registry.
_AT_A_TIME = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model in a channel. `age` is in days since it was promoted, None for releases; `problems` are rules broken."""

    model: str
    channel: str
    digest: str
    version: str
    age: float | None
    verdicts: tuple[str, ...]
    signers: tuple[str, ...]
    problems: tuple[str, ...]

    def line(self) -> str:
        """As a line of text."""
        since = "" if self.age is None else f"{self.age:.1f} days"
        said = ", ".join(self.problems) or "in order"
        shown = f"{self.model:<12} {self.channel:<11} {self.version or '-':<8} {self.digest[:19]:<19} {since:<10}"
        return f"{shown} {','.join(self.verdicts):<18} {','.join(self.signers):<10} {said}"


def status(models: tuple[str, ...], *, now: datetime, office: Office) -> Iterator[Row]:
    """A row for each model and channel that has or had something; everything is verified from the registry."""
    places = [(model, channel) for model in models for channel in (RELEASES, *office.policy.channels)]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        rows = pool.map(lambda place: _row(place[0], place[1], now, office), places)
        yield from (row for row in rows if row)


def _row(model: str, channel: str, now: datetime, office: Office) -> Row | None:
    where = office.repository(channel, model)
    signers = tuple(office.policy.signers.values())
    if channel != RELEASES:
        signers = office.policy.channel(channel).signers
    tagged = office.registry.manifest(where, channel)
    log = logs.read(where, signers=signers, registry=office.registry, cosign=office.cosign)
    if tagged is None and log.current is None:
        return None
    problems = list(log.problems)
    if channel != RELEASES:
        problems += drift(log, tagged.digest if tagged else "", where=f"{where}:{channel}")
    digest = tagged.digest if tagged else ""
    verdicts: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    version = ""
    if digest:
        evidence = collect(where, digest, signers=signers, registry=office.registry, cosign=office.cosign)
        problems += judge(evidence, channel=channel)
        by = tuple(sorted({each.by for each in placed(evidence, channel)}))
        verdicts = tuple(gate for gate in GATES if evidence.attestation(f"{TEST_RESULT} {gate}"))
        version = evidence.contents.labels.get("org.opencontainers.image.version", "") if evidence.contents else ""
    age = (now - when(log.current.at)).total_seconds() / 86400 if log.current else None
    rules = tuple(dict.fromkeys(each.rule for each in problems))
    return Row(
        model=model,
        channel=channel,
        digest=digest,
        version=version,
        age=age,
        verdicts=verdicts,
        signers=by,
        problems=rules,
    )
