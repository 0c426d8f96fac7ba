"""Rules about what files allow: setuid, capabilities, write access, devices."""

import posixpath
from collections.abc import Iterator

from pipeline.audit.contents import Contents, Placed
from pipeline.audit.filesystem import ancestors

_SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (inside the image)
_CODE = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/model", "/etc")
_SEARCH_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


def setuid(contents: Contents) -> Iterator[tuple[str, str]]:
    """A file that runs as its owner or group, in any layer."""
    for placed in contents.placed:
        if placed.entry.kind in ("file", "hardlink") and placed.entry.mode & 0o6000:
            yield placed.where, f"Mode {placed.entry.mode:04o} lets whoever starts it become its owner or group."


def file_capability(contents: Contents) -> Iterator[tuple[str, str]]:
    """A file with capabilities of its own, in any layer."""
    for placed in contents.placed:
        if placed.entry.has_capability:
            yield placed.where, "Its capabilities (security.capability) give root's powers to whoever starts it."


def world_writable(contents: Contents) -> Iterator[tuple[str, str]]:
    """A file or folder that anyone may write to, as containers see it; sticky scratch folders are as they should be."""
    for placed in _final(contents):
        entry = placed.entry
        if entry.mode & 0o002 and not (entry.path in _SCRATCH and entry.mode & 0o1000):
            yield placed.where, f"Mode {entry.mode:04o} lets any user change it."


def runtime_writable(contents: Contents) -> Iterator[tuple[str, str]]:
    """Code, a library or the model that the server's own user owns or may write to, as containers see it."""
    uid, gid = contents.user
    code = _code(contents)
    for placed in _final(contents):
        entry = placed.entry
        if not _is_code(entry.path, code):
            continue
        if uid and entry.uid == uid:
            yield placed.where, f"It belongs to user {uid}, who runs the server and could change what it runs."
        elif gid and entry.gid == gid and entry.mode & 0o020:
            yield placed.where, f"Group {gid}, which runs the server, may change it (mode {entry.mode:04o})."


def special_file(contents: Contents) -> Iterator[tuple[str, str]]:
    """A device node or a FIFO, in any layer."""
    for placed in contents.placed:
        if placed.entry.kind == "device":
            yield placed.where, "A device node reaches past the container's file system."
        elif placed.entry.kind == "fifo":
            yield placed.where, "A FIFO makes whoever opens it wait, for ever."


def dangling_link(contents: Contents) -> Iterator[tuple[str, str]]:
    """A link among the code that leads nowhere, as containers see it. Those in `/` itself are merged-/usr's."""
    code = _code(contents)
    links = [placed for placed in contents.placed if placed.is_final and placed.entry.kind == "symlink"]
    for placed in links:
        path, target = placed.entry.path, placed.entry.target
        if path.count("/") > 1 and _is_code(path, code) and contents.files.resolve(path) is None:
            yield placed.where, f"Its target {target} is not in the image: is something missing?"


def _final(contents: Contents) -> Iterator[Placed]:
    """What containers see and what has permissions of its own."""
    for placed in contents.placed:
        if placed.is_final and placed.entry.kind in ("file", "hardlink", "folder"):
            yield placed


def _code(contents: Contents) -> frozenset[str]:
    """The folders and files that code is loaded from."""
    config = contents.config
    found = {path for name in _SEARCH_PATHS for path in contents.env.get(name, "").split(":")}
    # `python -m` looks for modules in the working directory first.
    found.add(str(config.get("WorkingDir") or ""))
    health = (config.get("Healthcheck") or {}).get("Test") or ()
    found.update(str(word) for word in (*(config.get("Entrypoint") or ()), *health))
    named = {posixpath.normpath(path) for path in found if path.startswith("/") and path.strip("/")}
    real = {entry.path for path in named if (entry := contents.files.resolve(path))}
    return frozenset({*_CODE, *named, *real})


def _is_code(path: str, code: frozenset[str]) -> bool:
    """Whether `path` is code, lies below a code folder, or is a folder above code, which could be swapped."""
    return path in code or not code.isdisjoint(ancestors(path)) or any(_lies_under(place, path) for place in code)


def _lies_under(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
