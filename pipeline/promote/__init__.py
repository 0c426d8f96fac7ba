"""A digest from one channel to the next: verified from the registry alone, signed for its place, logged."""

from collections.abc import Iterator
from datetime import datetime

from pipeline import policy as policies
from pipeline.artifacts import Finding
from pipeline.errors import ContentError, PromoteError, VerifyError
from pipeline.evidence import CHANNEL, EVIDENCE, RELEASES, Evidence, finding, told, written
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge
from pipeline.oci import Repository
from pipeline.policy import Channel
from pipeline.progress import say
from pipeline.promote import log as logs
from pipeline.promote.approval import approvals
from pipeline.promote.drift import drift, exchanged
from pipeline.promote.lock import hold
from pipeline.promote.log import Entry
from pipeline.promote.office import Office
from pipeline.signing import Identity


def promote(
    model: str, *, to: str, digest: str = "", dry_run: bool = False, now: datetime, office: Office
) -> Entry | None:
    """Brings a model's image into a channel: the `digest`, or what the channel before has now.

    The image is copied by digest with all that hangs on it, signed for this channel and repository, entered in the
    log, and then the channel's tag is moved. What was begun and not finished is completed by running it again, and
    evidence that is another one now, or is damaged in the channel, is brought again.
    Returns the log's entry, or None where nothing was to do or with `dry_run`.

    Raises:
        PromoteError: a condition is not met, or somebody else promotes just now; the message lists every condition.
        RegistryError: a registry does not answer.
    """
    channel = office.policy.channel(to)
    source, target = office.repository(channel.source, model), office.repository(to, model)
    digest = digest or office.current(channel.source, model)
    evidence = collect(source, digest, signers=channel.signers, registry=office.registry, cosign=office.cosign)
    approved = frozenset(approvals(evidence, channel, office.cosign))
    findings = (
        *judge(evidence, channel=channel.source),
        *policies.judge(channel, evidence, approved=approved, now=now),
        *_placed(channel.source, evidence, channel.signers, office),
        *_unbroken(to, target, channel.signers, office, unfinished=digest),
        *office.unknown(channel),
    )
    if findings:
        raise PromoteError(told(f"{model} {digest} may not go from {channel.source} to {to}", findings))
    if dry_run:
        say(f"{model} {digest} may go from {channel.source} to {to}; nothing was done")
        return None
    with hold(target, office.holder, registry=office.registry) as still:
        log = office.log(target, channel)
        # Somebody may have put the channel before back, or moved a tag, until the lock was ours.
        tagged = office.tagged(target, to)
        if findings := (
            *_placed(channel.source, evidence, channel.signers, office),
            *drift(log, tagged, at=target, channel=to, unfinished=digest),
        ):
            raise PromoteError(told(f"{model} {digest} may not go to {to} any more", findings))
        entry = log.current if log.current and log.current.digest == digest else None
        renewed = entry is not None and not _is_there(entry, evidence, target, channel, office)
        if entry is None or renewed:
            _bring(evidence, target, channel, office)
            entry = logs.following(
                log,
                action="promote",
                channel=to,
                model=model,
                version=evidence.version,
                digest=digest,
                evidence=evidence.bound,
                source=channel.source,
                reason="the same image with other evidence" if renewed else "",
                by=office.holder.name,
                at=written(now),
            )
            office.enter(entry, log, target, still, channel)
        elif tagged == digest:
            return None
        still()
        office.move(target, to, digest)
    return entry


def _placed(name: str, evidence: Evidence, signers: tuple[Identity, ...], office: Office) -> Iterator[Finding]:
    """What a channel gives on must be what it has now, by its tag and by its log."""
    if name == RELEASES:
        return
    source, digest = evidence.repository, evidence.digest
    log = logs.read(source, signers=signers, registry=office.registry, cosign=office.cosign)
    yield from log.problems
    yield from drift(log, office.tagged(source, name), at=source, channel=name)
    if log.current and log.current.digest != digest:
        text = f"has {log.current.digest} now, and this is {digest}"
        yield finding(
            "not-current", f"{source}:{name}", text, f"Promote what {name} has, or promote this to {name} first."
        )
    else:
        yield from exchanged(log.current, evidence)


def _unbroken(
    name: str, target: Repository, signers: tuple[Identity, ...], office: Office, *, unfinished: str
) -> Iterator[Finding]:
    log = logs.read(target, signers=signers, registry=office.registry, cosign=office.cosign)
    yield from log.problems
    yield from drift(log, office.tagged(target, name), at=target, channel=name, unfinished=unfinished)


def _bring(evidence: Evidence, target: Repository, channel: Channel, office: Office) -> None:
    """Copies and signs, and then holds what arrived to the same conditions as what was sent."""
    digest = evidence.digest
    say(f"  copying {evidence.repository.at(digest)} to {target}")
    office.cosign.copy(evidence.repository.at(digest), f"{target}:image-{digest.removeprefix('sha256:')}")
    notes = {CHANNEL: channel.name, EVIDENCE: evidence.bound}
    office.cosign.sign(target.at(digest), key=office.key, annotations=notes)
    arrived = collect(target, digest, signers=channel.signers, registry=office.registry, cosign=office.cosign)
    if findings := judge(arrived, channel=channel.name):
        raise PromoteError(told(f"{target.at(digest)} did not arrive as it was sent", findings))
    if arrived.bound != evidence.bound:
        raise PromoteError(
            f"{target.at(digest)} arrived with other evidence than was judged: somebody exchanged it on the way. "
            "The channel's tag was not moved. Find out who did it, and run it again."
        )


def _is_there(entry: Entry, evidence: Evidence, target: Repository, channel: Channel, office: Office) -> bool:
    """Whether a channel has a digest whole, and with the very evidence that it has where it comes from."""
    if entry.evidence != evidence.bound:
        return False
    try:
        there = collect(
            target, evidence.digest, signers=channel.signers, registry=office.registry, cosign=office.cosign
        )
    except (ContentError, VerifyError):
        return False
    return not judge(there, channel=channel.name) and there.bound == evidence.bound
