"""A channel gets back a digest that it had, and the log says why."""

from datetime import datetime
from itertools import pairwise

from pipeline.errors import ContentError, PromoteError, RegistryError
from pipeline.evidence import told, written
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge
from pipeline.oci import Blob, Manifest, Registry, Repository
from pipeline.policy import Channel
from pipeline.promote import log as logs
from pipeline.promote.drift import exchanged
from pipeline.promote.lock import hold
from pipeline.promote.log import Entry, Log
from pipeline.promote.office import Office


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
        log = _lost(target, channel, to, asked, office) if new_log else office.log(target, asked)
        entry = _begun(log, to, target, office)
        back = entry or (None if new_log else _before(log, to, target))
        digest = back.digest if back else to
        evidence = collect(target, digest, signers=asked.signers, registry=office.registry, cosign=office.cosign)
        if findings := (*judge(evidence, channel=channel), *exchanged(back, evidence), *office.unknown(asked)):
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
            office.enter(entry, log, target, still, asked)
        still()
        office.move(target, channel, digest)
    return entry


def _lost(target: Repository, name: str, to: str, channel: Channel, office: Office) -> Log:
    """An empty log in the place of one that is lost or broken, which is kept under a tag of its own as it is.

    The log itself, if it was begun again with `to` already and only the tag has not been moved.

    Raises:
        PromoteError: nothing is wrong with the log, or nobody says what the channel is to have.
    """
    if not to.startswith("sha256:"):
        has = office.tagged(target, name) or "nothing"
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
    tagged = office.tagged(target, log.current.channel)
    if log.current.action == "begin":
        # What a tag named before a log was begun again is in no log, so whoever goes on says what it is to name.
        return log.current if to and tagged != to else None
    return log.current if len(log.entries) > 1 and tagged == log.entries[-2].digest != log.current.digest else None
