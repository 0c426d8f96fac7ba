"""One promotion of a model into a channel at a time, with nothing but a tag that everybody can overwrite.

A registry has no compare-and-swap. Fischer's algorithm needs none: write your name where you saw nobody's, wait longer
than a write takes, and go on only if it is still yours. It is in L. Lamport, "A Fast Mutual Exclusion Algorithm", 1987.
"""

import hashlib
import os
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PromoteError, RegistryError
from pipeline.evidence import plain
from pipeline.oci import EMPTY, Registry, Repository, manifest

TAG = "promotion-lock"
_ARTIFACT = "application/vnd.torchyard.promotion-lock.v1+json"
# Seconds: a write takes far less, and whoever was killed while he held it does so for no longer than a lease.
_SETTLE = 1.0
_LEASE = 1800.0
# By how much the clocks of two machines may differ.
_SKEW = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who promotes: `name` says user and host, `process` his process there. Two hosts may have one name, so `machine`
    tells them apart."""

    name: str
    process: int
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A lock: whose it is, and the number that he drew for it."""

    holder: Holder
    nonce: str


def machine() -> str:
    """What no other machine has, nor another container on this one: a process means something only there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        place = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        place = f"{uuid.getnode():x}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]


@contextmanager
def hold(repository: Repository, holder: Holder, *, registry: Registry) -> Iterator[Callable[[], None]]:
    """Holds the lock; what a killed run of the same user on this machine left is taken over.

    Yields a function to call before each write that must not be a second one's: it raises when the lock was lost.

    Raises:
        PromoteError: somebody else holds it, or was faster.
    """
    found = _holder(repository, registry)
    if found and not _is_gone(found.holder, holder):
        raise _busy(repository, found)
    ours = _Held(holder=holder, nonce=secrets.token_hex(16))
    _write(
        repository,
        registry,
        holder=holder.name,
        process=str(holder.process),
        machine=holder.machine,
        nonce=ours.nonce,
        until=str(time.time() + _LEASE),
    )

    def still() -> None:
        found = _holder(repository, registry)
        if found is None:
            raise PromoteError(
                f"{repository}:{TAG}: the lock is gone: another took it over and is done, or this took longer than "
                f"{_LEASE / 60:.0f} minutes. What was copied is there, and nothing names it yet: look at `inv status`, "
                "and run it again if it is still what you want."
            )
        if found != ours:
            raise _busy(repository, found)

    try:
        time.sleep(_SETTLE)
        still()
        yield still
    finally:
        # Where the registry is gone, so is the lock's use; the next run takes it over. Whoever lost it leaves it alone.
        with suppress(RegistryError):
            if _holder(repository, registry) == ours:
                _write(repository, registry)


def _holder(repository: Repository, registry: Registry) -> _Held | None:
    """Who holds it now. Anybody may have written it: what is no lock, or one for longer than a lease, is nobody's."""
    found = registry.manifest(repository, TAG)
    try:
        notes = found.annotations if found else {}
        holder = Holder(name=notes["holder"], process=int(notes["process"]), machine=notes["machine"])
        held, left = _Held(holder=holder, nonce=notes["nonce"]), float(notes["until"]) - time.time()
    except (RegistryError, ValueError, KeyError, TypeError):
        return None
    return held if 0 < left <= _LEASE + _SKEW else None


def _is_gone(found: Holder, holder: Holder) -> bool:
    """Whether the holder is a run of ours that has ended, or this very one."""
    if (found.name, found.machine) != (holder.name, holder.machine):
        return False
    if found.process == holder.process:
        return True
    try:
        os.kill(found.process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _write(repository: Repository, registry: Registry, **annotations: str) -> None:
    empty = registry.put_blob(repository, b"{}", media_type=EMPTY)
    registry.put_manifest(repository, TAG, manifest(empty, (empty,), artifact=_ARTIFACT, **annotations))


def _busy(repository: Repository, found: _Held) -> PromoteError:
    who = f"{plain(found.holder.name)} (process {found.holder.process})"
    return PromoteError(
        f"{repository}: {who} is promoting or rolling back just now, and was first. Nothing of yours was done. "
        "Wait for that to end, look at `inv status`, and run it again if it is still what you want."
    )
