"""What is pinned, brought up to date: everything is resolved first, and written only then."""

from collections.abc import Collection
from pathlib import Path

from pipeline.pins import Pins
from pipeline.records import write_atomic
from pipeline.refresh import actions, debian, python
from pipeline.refresh.stale import Stale

KINDS = ("actions", "python", "debian")


def refresh(pins: Pins, home: Path, *, kinds: Collection[str] = KINDS, keep: bool = False) -> tuple[Stale, ...]:
    """Resolves what the files below `home` pin, as far as it is of these `kinds`, and returns the files that are stale.
    `keep` leaves Python packages at the versions that are locked, where their requirements allow it.

    Nothing is written, so a kind that cannot be resolved leaves every file as it was; what takes longest comes last.

    Raises:
        PinsError: an archive, an index or a repository cannot be asked, or its answer must not be taken unseen.
        SpaceError: the disk is full.
    """
    found: list[Stale] = []
    if "actions" in kinds:
        found += actions.stale(home)
    if "python" in kinds:
        found += python.stale(home, keep=keep)
    if "debian" in kinds:
        found += debian.stale(pins, home)
    return tuple(file for file in found if file.changes)


def write(files: tuple[Stale, ...]) -> None:
    """Writes what the files should say, each the whole of it or nothing."""
    for file in files:
        write_atomic(file.path, file.text)
