"""The rule about the library of a model's own operators: what it needs is in the image, and it is nothing else."""

import posixpath
from collections.abc import Iterator

from pipeline.audit import elf
from pipeline.audit.contents import Contents
from pipeline.audit.layer import MODEL

OPERATORS = f"{MODEL}/ops.so"
# Where the loader looks by itself, and where the server's own libraries are, which it has loaded before.
_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib/x86_64-linux-gnu", "/lib64", "/usr/lib", "/lib")
_LOADED = "/opt/torchyard/lib"


def model_library(contents: Contents) -> Iterator[tuple[str, str]]:
    """Native code beside the model other than the library of its operators, or one that could not be loaded."""
    for placed in contents.placed:
        entry = placed.entry
        if not (placed.is_final and entry.path.startswith(f"{MODEL}/") and entry.magic == elf.MAGIC):
            continue
        if entry.path != OPERATORS:
            yield placed.where, f"Native code beside the model, and not {OPERATORS}: no contract vouches for it."
            continue
        reasons = [*_permissions(entry.mode), *_faults(entry.library, contents)]
        if reasons:
            yield placed.where, " ".join(reasons)


def _permissions(mode: int) -> Iterator[str]:
    if mode & 0o111:
        yield f"Mode {mode:04o} lets it be started as a program; the server only loads it."


def _faults(library: elf.Library | None, contents: Contents) -> Iterator[str]:
    if library is None:
        yield "It cannot be read as a shared library for x86-64, so loading it would fail."
        return
    if library.search:
        yield f"It has the loader search {':'.join(library.search)}, where others may put theirs."
    missing = [name for name in library.needed if not _is_there(name, contents)]
    if missing:
        yield f"It needs {', '.join(missing)}, not in the image: loading it would fail."


def _is_there(name: str, contents: Contents) -> bool:
    return "/" not in name and any(
        contents.files.resolve(posixpath.join(folder, name)) for folder in (*_FOLDERS, _LOADED)
    )
