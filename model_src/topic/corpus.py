"""Real text with honest labels that needs no download: what the docstrings of the trainer's own packages say."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import TypeAlias
from zlib import crc32

Pairs: TypeAlias = tuple[tuple[str, str], ...]

# A subject, and the folders of packages that are about it.
SUBJECTS = {
    "algebra": ("sympy/solvers", "sympy/matrices", "sympy/ntheory", "sympy/polys", "sympy/simplify"),
    "graphs": ("networkx/algorithms", "networkx/generators", "networkx/classes"),
    "images": ("PIL", "torchvision/transforms", "torchvision/io"),
    "learning": ("sklearn",),
    "networks": ("torch/nn", "torch/optim", "torchvision/models"),
    "signals": ("scipy/signal", "scipy/fft", "scipy/ndimage"),
    "statistics": ("scipy/stats", "torch/distributions"),
    "tables": ("pandas/core",),
}
# Python's own parser would take a quarter of a minute to find the same.
_DOCSTRING = re.compile(r''':\n\s+[rR]?"""(.*?)"""''', re.DOTALL)
_NAMES = re.compile(r"\b(sympy|networkx|nx|pil|pillow|torch\w*|pytorch|sk\w*learn|scipy|numpy|np|pandas|pd)\b", re.I)
_SECTION = re.compile(r"\n[^\n]+\n[-=~]{3,}|\n\s*(?:>>>|\.\. )|\n\w+:\n", re.MULTILINE)
# No run of so many words of a held-out text is in the training split: packages copy sentences from each other.
_RUN = 6


@cache
def splits() -> tuple[Pairs, Pairs]:
    """Training and held-out pairs of text and subject; no source file, and no run of words, is on both sides."""
    training: list[tuple[str, str]] = []
    held_out: list[tuple[str, str]] = []
    for subject, folders in SUBJECTS.items():
        for file in _files(folders):
            side = held_out if crc32(file.as_posix().encode()) % 5 == 0 else training
            side.extend((text, subject) for text in _paragraphs(file))
    known = {run for text, _ in training for run in _runs(text)}
    fresh = (pair for pair in held_out if known.isdisjoint(_runs(pair[0])))
    return tuple(dict.fromkeys(training)), tuple(dict.fromkeys(fresh))


def _files(folders: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        package, *below = folder.split("/")
        found = find_spec(package)
        assert found, f"the trainer image has no {package}"
        assert found.origin, f"{package} is not a folder"
        home = Path(found.origin).parent
        for file in sorted(home.joinpath(*below).rglob("*.py")):
            if "tests" not in file.parts:
                yield file


def _paragraphs(file: Path) -> Iterator[str]:
    """The prose at the top of each docstring, before parameters and examples, that names none of the packages."""
    for docstring in _DOCSTRING.findall(file.read_text(encoding="utf-8")):
        for paragraph in _SECTION.split(cleandoc(docstring))[0].split("\n\n"):
            text = " ".join(paragraph.split())
            if 6 <= len(text.split()) <= 80 and not _NAMES.search(text):
                yield text


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[at : at + _RUN]) for at in range(max(1, len(words) - _RUN + 1))}
