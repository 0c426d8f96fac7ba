"""The promotion log of a model in a channel: one OCI artifact, a layer an entry, each entry chained to the one before.

The newest entry is signed and names the digest of its predecessor, so that its signature covers all of them.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

from pipeline.artifacts import Finding
from pipeline.errors import PromoteError
from pipeline.evidence import PROMOTION, finding, plain, when
from pipeline.oci import EMPTY, Blob, Registry, Repository, digest_of, manifest, parsed
from pipeline.signing import STATEMENT, Cosign, Identity, Key, encoded, envelope, payload_of

# `begin` is the first entry of a log that was begun again, because the one before was lost; its reason says why.
Action: TypeAlias = Literal["promote", "rollback", "begin"]

TAG = "promotion-log"
_ARTIFACT = "application/vnd.torchyard.promotion-log.v1+json"
_ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RESTORE = (
    "Restore the log from a copy that you trust, and look for who can write to this registry. Where there is no copy, "
    "`inv rollback --new-log --to DIGEST` begins another, which says why."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What was done: `digest` is what the channel's tag names since then, `previous` the digest of the entry before.

    `sequence` counts from 1, `at` is RFC 3339 in UTC, `source` is the channel that the image came from, and `evidence`
    binds what was attached to it then: see `pipeline.evidence.binding`.
    """

    sequence: int
    action: Action
    channel: str
    model: str
    version: str
    digest: str
    evidence: str
    source: str
    reason: str
    by: str
    at: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The entries, the oldest first, as the registry has them, and what is wrong with them. `blobs` are its layers."""

    entries: tuple[Entry, ...]
    blobs: tuple[Blob, ...]
    problems: tuple[Finding, ...]

    @property
    def current(self) -> Entry | None:
        """What the channel has now, if anything."""
        return self.entries[-1] if self.entries else None

    @property
    def begun(self) -> str:
        """That another log was lost: since when, who said so and why. Empty for a log that is as old as its channel."""
        if not self.entries or (first := self.entries[0]).action != "begin":
            return ""
        return plain(f"log begun again on {first.at[:10]} by {first.by}: {first.reason}")


def read(repository: Repository, *, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign) -> Log:
    """Reads the log and checks its chain and its newest signature."""
    found = registry.manifest(repository, TAG)
    if found is None:
        return Log(entries=(), blobs=(), problems=())
    envelopes = [registry.blob(repository, blob.digest) for blob in found.layers]
    entries, problems = [], []
    previous = ""
    for number, content in enumerate(envelopes, start=1):
        where = f"{repository}:{TAG}, entry {number}"
        read_there = _entry(content)
        if read_there is None:
            problems.append(finding("log-entry", where, "it is no entry of a promotion log", _RESTORE))
            break
        place, entry = read_there
        if place != str(repository):
            problems.append(finding("log-of-another-place", where, f"it was signed for {place}", _RESTORE))
        if (entry.sequence, entry.previous) != (number, previous):
            said = f"number {entry.sequence} after {entry.previous or 'none'}"
            text = f"it says to be {said}, and it is number {number} after {previous or 'none'}"
            problems.append(finding("log-chain", where, text, _RESTORE))
        entries.append(entry)
        previous = digest_of(content)
    if envelopes and not problems and not verifies(envelopes[-1], signers=signers, cosign=cosign):
        text = "the newest entry does not verify under any signer's key: it was changed, or written by somebody else"
        problems.append(finding("log-signature", f"{repository}:{TAG}", text, _RESTORE))
    return Log(entries=tuple(entries), blobs=found.layers, problems=tuple(problems))


def signed(entry: Entry, *, repository: Repository, cosign: Cosign, key: Key) -> bytes:
    """An entry for the log of a repository, in its signed envelope."""
    subject = {"name": str(repository), "digest": {"sha256": entry.digest.removeprefix("sha256:")}}
    document = {"_type": STATEMENT, "subject": [subject], "predicateType": PROMOTION, "predicate": asdict(entry)}
    statement = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    return envelope(statement, cosign=cosign, key=key)


def append(log: Log, entry: bytes, *, repository: Repository, registry: Registry, still: Callable[[], None]) -> None:
    """Puts the log with a signed entry at its end into the registry, in one write, and looks whether it is there.

    `still` is called right before that write.

    Raises:
        PromoteError: somebody else wrote the log in the same moment, and ours is lost.
    """
    blob = registry.put_blob(repository, entry, media_type=_ENVELOPE)
    empty = registry.put_blob(repository, b"{}", media_type=EMPTY)
    made = manifest(empty, (*log.blobs, blob), artifact=_ARTIFACT)
    still()
    registry.put_manifest(repository, TAG, made)
    if registry.manifest(repository, TAG) != made:
        raise PromoteError(
            f"{repository}:{TAG}: somebody else wrote it in the same moment, and the channel's tag was not moved. "
            "Look at `inv status`, and run it again if it is still what you want."
        )


def verifies(entry: bytes, *, signers: tuple[Identity, ...], cosign: Cosign) -> bool:
    """Whether an entry in its envelope is signed by any of these."""
    return any(_verifies(entry, by, cosign) for by in signers)


def following(log: Log, **facts: Any) -> Entry:
    """The next entry of a log."""
    previous = log.blobs[-1].digest if log.blobs else ""
    return Entry(sequence=len(log.entries) + 1, previous=previous, **facts)


def _entry(content: bytes) -> tuple[str, Entry] | None:
    """The repository that an entry was made for, and the entry; None for what is none. Anybody may have written it."""
    try:
        statement = parsed(payload_of(content))
        (subject,), entry = statement["subject"], Entry(**statement["predicate"])
        words = [getattr(entry, field.name) for field in fields(entry) if field.name != "sequence"]
        when(entry.at)
        whole = statement["predicateType"] == PROMOTION and all(isinstance(each, str) for each in words)
        # It goes into commands that are advised.
        return (str(subject["name"]), entry) if whole and _DIGEST.fullmatch(entry.digest) else None
    except (ValueError, KeyError, TypeError):
        return None


def _verifies(content: bytes, by: Identity, cosign: Cosign) -> bool:
    statement, signatures = payload_of(content), parsed(content, strict=True)["signatures"]
    listed = [each for each in signatures if isinstance(each, dict)] if isinstance(signatures, list) else []
    found = (each.get("bundle") if by.claimed else each.get("sig") for each in listed)
    return any(cosign.verifies(encoded(statement), each, by=by) for each in found if isinstance(each, str))
