"""A digest from one channel to the next, and back: verified from the registry alone, signed for its place, logged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from pipeline import policy as policies
from pipeline.artifacts import Finding
from pipeline.errors import ContentError, PromoteError, RegistryError, VerifyError
from pipeline.evidence import APPROVES, CHANNEL, EVIDENCE, RELEASES, Evidence, finding, told, written
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge
from pipeline.oci import Blob, Manifest, Registry, Repository
from pipeline.policy import Channel, Policy
from pipeline.progress import say
from pipeline.promote import log as logs
from pipeline.promote.lock import Holder, hold
from pipeline.promote.log import Entry, Log
from pipeline.settings import repository
from pipeline.signing import Cosign, Identity, Key, me


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """What promotions are made with: policy, the folder of releases, registry, cosign, our key, and who we are."""

    policy: Policy
    releases: str
    registry: Registry
    cosign: Cosign
    key: Key
    holder: Holder

    def repository(self, channel: str, model: str) -> Repository:
        """The repository of a model in a channel, `releases` included."""
        folder = self.releases if channel == RELEASES else self.policy.channel(channel).folder
        return repository(folder, model)


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
    digest = digest or _current(source, channel.source, office.registry)
    evidence = collect(source, digest, signers=channel.signers, registry=office.registry, cosign=office.cosign)
    approved = frozenset(approvals(evidence, channel, office.cosign))
    findings = (
        *judge(evidence, channel=channel.source),
        *policies.judge(channel, evidence, approved=approved, now=now),
        *_placed(channel.source, evidence, channel.signers, office),
        *_unbroken(to, target, channel.signers, office, unfinished=digest),
        *_unknown(office.key, channel),
    )
    if findings:
        raise PromoteError(told(f"{model} {digest} may not go from {channel.source} to {to}", findings))
    if dry_run:
        say(f"{model} {digest} may go from {channel.source} to {to}; nothing was done")
        return None
    with hold(target, office.holder, registry=office.registry) as still:
        log = _log(target, channel, office)
        # Somebody may have put the channel before back, or moved a tag, until the lock was ours.
        tagged = _tagged(target, to, office.registry)
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
            _enter(entry, log, target, still, channel, office)
        elif tagged == digest:
            return None
        still()
        _move(target, to, digest, office.registry)
    return entry


def rollback(
    model: str, *, channel: str, to: str = "", reason: str, new_log: bool = False, now: datetime, office: Office
) -> Entry:
    """Puts back the digest that a channel had before, or `to`, which the log has to know; records why.

    It has to verify as it lies in the channel. What a policy asks of new images is not asked of it. With `new_log`, for
    a channel whose log is lost or broken, `to` is the first entry of another one: all that is known of it then is that
    a signer signed it for this channel.

    Raises:
        PromoteError: there is no such digest in the log, the log is broken, or the image does not verify; or nothing is
            wrong with the log that would be begun again.
        RegistryError: the registry does not answer.
    """
    asked = office.policy.channel(channel)
    target = office.repository(channel, model)
    if not reason.strip():
        raise PromoteError("A rollback needs a reason, which the log keeps: --reason 'what went wrong'.")
    with hold(target, office.holder, registry=office.registry) as still:
        log = _lost(target, channel, to, asked, office) if new_log else _log(target, asked, office)
        entry = _begun(log, to, target, office)
        back = entry or (None if new_log else _before(log, to, target))
        digest = back.digest if back else to
        evidence = collect(target, digest, signers=asked.signers, registry=office.registry, cosign=office.cosign)
        if findings := (*judge(evidence, channel=channel), *exchanged(back, evidence), *_unknown(office.key, asked)):
            raise PromoteError(told(f"{model} cannot go back to {digest}", findings))
        if entry is None:
            entry = logs.following(
                log,
                action="begin" if new_log else "rollback",
                channel=channel,
                model=model,
                version=evidence.version,
                digest=digest,
                evidence=evidence.bound,
                source=channel,
                reason=reason.strip(),
                by=office.holder.name,
                at=written(now),
            )
            _enter(entry, log, target, still, asked, office)
        still()
        _move(target, channel, digest, office.registry)
    return entry


def approve(model: str, *, to: str, digest: str = "", office: Office) -> str:
    """Signs that a digest, with what is attached to it now, may go to a channel; returns the digest.

    It is signed with our key where it comes from, and has to verify there. What else the channel asks of it is judged
    when it is promoted.

    Raises:
        PromoteError: the channel before has no image, it does not verify, or nobody asks for our approval.
    """
    channel = office.policy.channel(to)
    source = office.repository(channel.source, model)
    digest = digest or _current(source, channel.source, office.registry)
    evidence = collect(source, digest, signers=channel.signers, registry=office.registry, cosign=office.cosign)
    if findings := (*judge(evidence, channel=channel.source), *_unasked(office.key, channel)):
        raise PromoteError(told(f"{model} {digest} cannot be approved for {to}", findings))
    # cosign reads all signatures and writes them with ours: nobody else may do so in between.
    with hold(source, office.holder, registry=office.registry):
        notes = {APPROVES: to, EVIDENCE: evidence.bound}
        office.cosign.sign(source.at(digest), key=office.key, annotations=notes)
        given = set(approvals(evidence, channel, office.cosign))
    if not any(each.name in given for each in channel.approvers if _is_among(office.key, (each,))):
        raise PromoteError(f"{source.at(digest)}: the approval is not there afterwards. Give it again.")
    return digest


def approvals(evidence: Evidence, channel: Channel, cosign: Cosign) -> Iterator[str]:
    """The approvers whose approval of a digest and its evidence for a channel verifies, by name."""
    given = {APPROVES: channel.name, EVIDENCE: evidence.bound}
    for approver in channel.approvers:
        for each in cosign.signatures(evidence.repository.at(evidence.digest), by=approver):
            place, notes = each["critical"]["identity"]["docker-reference"], each.get("optional") or {}
            if place == str(evidence.repository) and given.items() <= notes.items():
                yield approver.name


def drift(log: Log, tagged: str, *, at: Repository, channel: str, unfinished: str = "") -> tuple[Finding, ...]:
    """What speaks against a channel's tag in its repository: its log has to name the same digest last.

    A tag that is one entry behind was left by a promotion of `unfinished`, if that is the last entry's digest.
    """
    where, current = f"{at}:{channel}", log.current.digest if log.current else ""
    if tagged == current:
        return ()
    before = log.entries[-2].digest if len(log.entries) > 1 else ""
    if unfinished and unfinished == current and tagged == before:
        return ()
    if log.current is None:
        text = f"names {tagged}, and there is no log: it was lost, or somebody else made the tag"
        cure = (
            "Restore the log from a copy that you trust. Where there is none, begin another, which says why, with a "
            "digest that the channel is to have: `inv rollback --new-log --to DIGEST --reason WHY`."
        )
        return (finding("log-lost", where, text, cure),)
    if tagged == before or (log.current.action == "begin" and len(log.entries) == 1):
        # The tag is moved last, and a tag that is put back looks the same: nothing else tells of it.
        text = (
            f"names {tagged or 'nothing'} still, and the log says {current}: a promotion or rollback was not finished, "
            "or the tag was moved back behind our back"
        )
        cure = "Put the log right first." if log.problems else _finishing(log.current, at.path.split("/")[-1], channel)
        return (finding("unfinished", where, text, cure),)
    text = f"names {tagged or 'nothing'}, and the log says {current or 'nothing'}: the tag was moved behind our back"
    cure = "Find out who did it, and put the channel right: `inv rollback --to` with a digest of the log."
    return (finding("drift", where, text, cure),)


def _finishing(last: Entry, model: str, channel: str) -> str:
    """How the log's last entry is completed, which puts a tag that was moved back right as well."""
    promoted = f"inv promote --model {model} --to {channel} --digest {last.digest}"
    put_back = f"inv rollback --model {model} --channel {channel} --to {last.digest} --reason WHY"
    again = f"{promoted}` or, where that is not allowed any more, `{put_back}" if last.action == "promote" else put_back
    return (
        f"Either way `{again}` makes the tag name what the log says. If nobody's run broke off at {last.at}, when "
        f"{last.by} wrote that entry, find out who moved the tag."
    )


def exchanged(entry: Entry | None, evidence: Evidence) -> tuple[Finding, ...]:
    """What speaks against a channel's evidence: it has to be that with which the log has its digest, and not what was
    attached before, however well that verifies."""
    if entry is None or entry.digest != evidence.digest or entry.evidence == evidence.bound:
        return ()
    text = f"is not what the log has since {entry.at}: other evidence for this digest was put in its place"
    cure = f"Promote it to {entry.channel} again, which brings its evidence anew, and find out who did it."
    return (finding("evidence-exchanged", str(evidence.repository), text, cure),)


def _placed(name: str, evidence: Evidence, signers: tuple[Identity, ...], office: Office) -> Iterator[Finding]:
    """What a channel gives on must be what it has now, by its tag and by its log."""
    if name == RELEASES:
        return
    source, digest = evidence.repository, evidence.digest
    log = logs.read(source, signers=signers, registry=office.registry, cosign=office.cosign)
    yield from log.problems
    yield from drift(log, _tagged(source, name, office.registry), at=source, channel=name)
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
    yield from drift(log, _tagged(target, name, office.registry), at=target, channel=name, unfinished=unfinished)


def _unknown(key: Key, channel: Channel) -> Iterator[Finding]:
    """What we sign for a channel, and its log, has to count there."""
    if not _is_among(key, channel.signers):
        text = f"is who would sign here, and none of the signers of {channel.name}"
        cure = "Add it in promotion.toml to [signers] and to the channel's signers, or have one of them do it."
        yield finding("not-a-signer", me(key).shown, text, cure)


def _unasked(key: Key, channel: Channel) -> Iterator[Finding]:
    """An approval that nobody asks for would only look like one."""
    if not channel.approvers or not _is_among(key, channel.approvers):
        asked = ", ".join(each.name for each in channel.approvers) or "nobody"
        text = f"is who would approve, and {channel.name} asks for the approval of {asked}"
        cure = "Add it in promotion.toml to [signers] and to the channel's approvers, or have one of them do it."
        yield finding("not-an-approver", me(key).shown, text, cure)


def _is_among(key: Key, known: tuple[Identity, ...]) -> bool:
    """Whether what we sign counts as that of one of them. Where our public key is not beside the private one, that
    shows only when what we signed is read back."""
    ourselves = me(key)
    if ourselves.claimed:
        return any(each.is_claimed(ourselves.claimed) for each in known)
    ours = _content(ourselves.key)
    return not ours or ours in {_content(each.key) for each in known}


def _content(path: Path | None) -> bytes:
    return path.read_bytes() if path and path.is_file() else b""


def _log(target: Repository, channel: Channel, office: Office) -> Log:
    """The log as it is now, while nobody else writes it."""
    log = logs.read(target, signers=channel.signers, registry=office.registry, cosign=office.cosign)
    if log.problems:
        raise PromoteError(told(f"{target}: its promotion log is broken", log.problems))
    return log


def _lost(target: Repository, name: str, to: str, channel: Channel, office: Office) -> Log:
    """An empty log in the place of one that is lost or broken, which is kept under a tag of its own as it is.

    The log itself, if it was begun again with `to` already and only the tag has not been moved.

    Raises:
        PromoteError: nothing is wrong with the log, or nobody says what the channel is to have.
    """
    if not to.startswith("sha256:"):
        has = _tagged(target, name, office.registry) or "nothing"
        raise PromoteError(
            f"{target}: a new log begins with a digest that you vouch for: --to sha256:…. {name} names {has} now, and "
            "whoever lost the log may have moved that, too."
        )
    found = office.registry.manifest(target, logs.TAG)
    if found is None:
        return Log(entries=(), blobs=(), problems=())
    try:
        log = logs.read(target, signers=channel.signers, registry=office.registry, cosign=office.cosign)
        whole = bool(log.entries) and not log.problems
    except ContentError:
        whole = False
    if not whole:
        _keep(found, target, office.registry)
        return Log(entries=(), blobs=(), problems=())
    if log.current and log.current.action == "begin" and _begun(log, to, target, office):
        return log
    raise PromoteError(
        f"{target}: the log is there and whole, with {len(log.entries)} entries, so none is begun in its place. "
        "Leave --new-log away to put back a digest that it knows."
    )


def _keep(broken: Manifest, target: Repository, registry: Registry) -> None:
    """Keeps a broken log under a tag of its own, unless its entries are lost: no registry takes it then, and there is
    nothing left to look at."""
    try:
        registry.put_manifest(target, f"{logs.TAG}-{broken.digest.removeprefix('sha256:')}", broken)
    except RegistryError:
        if all(_has(blob, target, registry) for blob in (broken.config, *broken.layers)):
            raise


def _has(blob: Blob, target: Repository, registry: Registry) -> bool:
    try:
        registry.blob(target, blob.digest)
    except ContentError:
        return False
    return True


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


def _enter(
    entry: Entry, log: Log, target: Repository, still: Callable[[], None], channel: Channel, office: Office
) -> None:
    """Signs an entry, which takes its time, and puts it into the log if nobody else has the lock by then.

    What the channel's signers do not verify breaks a log; once these very bytes are there, it does.
    """
    content = logs.signed(entry, repository=target, cosign=office.cosign, key=office.key)
    if not logs.verifies(content, signers=channel.signers, cosign=office.cosign):
        raise PromoteError(
            f"{target}: what {me(office.key).shown} signs verifies under no key of the signers of {channel.name}, so "
            "the log was left as it is and the tag not moved. Is the private key that of the public one beside it?"
        )
    logs.append(log, content, repository=target, registry=office.registry, still=still)


def _before(log: Log, to: str, target: Repository) -> Entry:
    """The entry to go back to: the newest with digest `to`, or the newest with another digest than the current one that
    no rollback has put away since it was promoted."""
    if log.current is None:
        raise PromoteError(
            f"{target}: there is no log, so nothing says what it had before. If it was lost, restore it from a copy "
            "that you trust, or begin another, which says why: --new-log, with --to and a digest that it is to have."
        )
    current = log.current.digest
    away = set[str]()
    for was, now in pairwise(log.entries):
        away = (away | {was.digest} if now.action == "rollback" else away) - {now.digest}
    for entry in reversed(log.entries):
        if entry.digest == to or (not to and entry.digest not in {current, *away}):
            return entry
    known = ", ".join(dict.fromkeys(entry.digest for entry in reversed(log.entries))) or "none"
    raise PromoteError(
        f"{target}: the log has no {to or 'digest before the current one'} to go back to. It has: {known}. "
        "Only what was promoted to this channel can be put back, and what a rollback has put away only by --to; "
        "promote anything else."
    )


def _begun(log: Log, to: str, target: Repository, office: Office) -> Entry | None:
    """The rollback, to any digest or to `to`, that the log ends with while the tag still names what that put away; or
    the beginning with `to` of a log that was begun again."""
    if not log.current or log.current.action == "promote" or to not in {"", log.current.digest}:
        return None
    tagged = _tagged(target, log.current.channel, office.registry)
    if log.current.action == "begin":
        # What a tag named before a log was begun again is in no log, so whoever goes on says what it is to name.
        return log.current if to and tagged != to else None
    return log.current if len(log.entries) > 1 and tagged == log.entries[-2].digest != log.current.digest else None


def _current(source: Repository, name: str, registry: Registry) -> str:
    if digest := _tagged(source, name, registry):
        return digest
    made = "release it with `inv release --model NAME`" if name == RELEASES else f"promote something to {name} first"
    raise PromoteError(f"{source}: there is nothing in {name}, so nothing can come from there; {made}.")


def _tagged(where: Repository, tag: str, registry: Registry) -> str:
    found = registry.manifest(where, tag)
    return found.digest if found else ""


def _move(target: Repository, tag: str, digest: str, registry: Registry) -> None:
    found = registry.manifest(target, digest)
    if found is None:
        raise PromoteError(f"{target.at(digest)} is not there any more, so {tag} cannot name it. Promote it again.")
    registry.put_manifest(target, tag, found)
