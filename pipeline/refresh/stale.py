"""A file of pins that is not what it would be if it was made today."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """The file at `path` should say `text`; `changes` tells what differs, `- old` and `+ new`, if anything does."""

    path: Path
    text: str
    changes: tuple[str, ...]
