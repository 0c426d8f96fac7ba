"""The rule about the library of a model's own operators: what it needs is in the image, and it is nothing else."""

import posixpath
from collections.abc import Iterator

from pipeline.audit import elf
from pipeline.audit.contents import Contents
from pipeline.audit.layer import MODEL, Entry

OPERATORS = f"{MODEL}/ops.so"
# Where the loader looks by itself, and where the server's own libraries are, which it has loaded before.
_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib/x86_64-linux-gnu", "/lib64", "/usr/lib", "/lib")
_LOADED = "/opt/torchyard/lib"


def model_library(contents: Contents) -> Iterator[tuple[str, str]]:
    """Native code beside the model other than the library of its operators, or one that could not be loaded."""
    for placed in contents.placed:
        if placed.is_final and placed.entry.path.startswith(f"{MODEL}/"):
            reasons = " ".join(_reasons(placed.entry, contents))
            if reasons:
                yield placed.where, reasons


def _reasons(entry: Entry, contents: Contents) -> Iterator[str]:
    if entry.path != OPERATORS:
        if entry.magic == elf.MAGIC:
            yield f"Native code beside the model, and not {OPERATORS}: no contract vouches for it."
    elif entry.kind in ("symlink", "hardlink"):
        yield "It is a link, and what it leads to was not compiled for this model."
    elif entry.library is None:
        yield "It cannot be read as a shared library for x86-64, so loading it would fail."
    else:
        if entry.mode & 0o111:
            yield f"Mode {entry.mode:04o} lets it be started as a program; the server only loads it."
        if entry.library.search:
            yield f"It has the loader search {':'.join(entry.library.search)}, where others may put theirs."
        missing = [name for name in entry.library.needed if not _is_there(name, contents)]
        if missing:
            yield f"It needs {', '.join(missing)}, not in the image: loading it would fail."


def _is_there(name: str, contents: Contents) -> bool:
    return "/" not in name and any(
        contents.files.resolve(posixpath.join(folder, name)) for folder in (*_FOLDERS, _LOADED)
    )
