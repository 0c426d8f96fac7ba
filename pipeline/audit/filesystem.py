"""What a container of an image sees: its layers laid over one another."""

import posixpath
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.audit.layer import Entry, Layer

# As Linux: https://man7.org/linux/man-pages/man7/path_resolution.7.html
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """Entries by absolute path. Folders that no layer lists are there too, as an engine makes them: root's, 0755."""

    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, layers: Iterable[Layer]) -> "FileSystem":
        """Lays `layers` over one another, the lowest first."""
        entries: dict[str, Entry] = {}
        for layer in layers:
            emptied = layer.deleted | layer.opaque | {entry.path for entry in layer.entries if entry.kind != "folder"}
            entries = {
                path: entry
                for path, entry in entries.items()
                if path not in layer.deleted and emptied.isdisjoint(ancestors(path))
            }
            for entry in layer.entries:
                for folder in ancestors(entry.path):
                    entries.setdefault(folder, Entry(path=folder, kind="folder"))
                entries[entry.path] = entry
        return cls(entries=entries)

    def resolve(self, path: str) -> Entry | None:
        """What is at `path` when every symlink on the way is followed inside the image; None where nothing is."""
        rest = deque(path.split("/"))
        here = ""
        links = 0
        while rest:
            part = rest.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                here = posixpath.dirname(here).rstrip("/")
                continue
            entry = self.entries.get(f"{here}/{part}")
            if entry is None:
                return None
            if entry.kind != "symlink":
                here = entry.path
                continue
            links += 1
            if links > _MOST_LINKS:
                return None
            here = "" if entry.target.startswith("/") else here
            rest.extendleft(reversed(entry.target.split("/")))
        return self.entries.get(here or "/")


def ancestors(path: str) -> Iterator[str]:
    """The folders above `path`, the nearest first and `/` last."""
    while path != "/":
        path = posixpath.dirname(path)
        yield path
