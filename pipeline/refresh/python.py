"""The locks of Python packages: what uv makes of each requirements.in now."""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.pylock import PackageWheel, Pylock, PylockSelectError
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name

from pipeline import progress
from pipeline.bootstrap import drift
from pipeline.errors import PinsError
from pipeline.refresh.stale import Stale

# The host has any Python from 3.11 on; an image has the one of Debian trixie, and wheels only: nothing is built in it.
_HOST = ("--universal", "--python-version", "3.11")
_IMAGE = ("--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:")
_ENVIRONMENT = default_environment() | {"python_version": "3.13", "python_full_version": "3.13.0"}
# The newest first, as pip prefers them; three have names from before they were numbered: https://peps.python.org/pep-0600
_NAMED = {17: ("manylinux2014_x86_64",), 12: ("manylinux2010_x86_64",), 5: ("manylinux1_x86_64",)}
_PLATFORMS = [each for minor in range(28, 4, -1) for each in (f"manylinux_2_{minor}_x86_64", *_NAMED.get(minor, ()))]
_TAGS = [*cpython_tags((3, 13), ["cp313"], _PLATFORMS), *compatible_tags((3, 13), "cp313", _PLATFORMS)]

_CONTINUED = " \\\n"
_HASHED = re.compile(r"^([\w.-]+)==.* \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE)


def sources(home: Path) -> tuple[Path, ...]:
    """Every requirements.in: the host's, and those of the images."""
    folders = ("images/*", "tests/containers/*")
    found = sorted(path for folder in folders for path in home.glob(f"{folder}/requirements.in"))
    return (home / "requirements.in", *found)


def stale(home: Path, *, keep: bool = False) -> Iterator[Stale]:
    """The lock beside each requirements.in, every package at the newest version that the others allow, or, to `keep`
    what is locked, at the one that it has as long as that is allowed.

    Raises:
        PinsError: uv found no solution, or no index.
    """
    for path in sources(home):
        source, lock = path.relative_to(home), path.with_suffix(".lock")
        progress.say(f"resolving {source}")
        before = lock.read_text(encoding="utf-8")
        text = _compiled(source, home, _HOST if path.parent == home else _IMAGE, before if keep else "")
        yield Stale(path=lock, text=text, changes=changes(before, text))


def changes(was: str, now: str) -> tuple[str, ...]:
    """What differs between two locks: `- name version` and `+ name version`, and `~` where only the files do."""
    before, after = _packages(was), _packages(now)
    same = sorted(package for package in before.keys() & after.keys() if before[package] != after[package])
    return (*drift(tuple(before), tuple(after)), *(f"~ {package}, other files" for package in same))


def _packages(lock: str) -> dict[str, frozenset[str]]:
    """The hashes of every package of a lock by its `name version`."""
    logical = re.sub(r"\\\n", " ", re.sub(r"^ *#.*\n", "", lock, flags=re.MULTILINE)).splitlines()
    return {
        line.split(" --hash")[0].split(";")[0].strip().replace("==", " "): frozenset(re.findall(r"--hash=(\S+)", line))
        for line in logical
        if line.strip()
    }


def _compiled(source: Path, home: Path, options: tuple[str, ...], before: str) -> str:
    with tempfile.TemporaryDirectory(prefix="torchyard-") as scratch:
        lock, wheels = Path(scratch) / "requirements.lock", Path(scratch) / "pylock.toml"
        # uv prefers what it finds there.
        lock.write_text(before, encoding="utf-8")
        _uv(source, home, (*options, "--generate-hashes", "--no-header"), lock)
        text = lock.read_text(encoding="utf-8")
        if options is not _IMAGE:
            return text
        _uv(lock, home, (*options, "--no-deps"), wheels)
        return one_file_each(text, tomllib.loads(wheels.read_text(encoding="utf-8")))


def one_file_each(lock: str, wheels: Mapping[str, Any]) -> str:
    """A lock whose packages have the hash of one file each, so that this is what the image has: of the wheels that a
    pylock.toml lists (https://peps.python.org/pep-0751), the one that fits it best.

    Raises:
        PinsError: a package has none.
    """
    try:
        selected = list(Pylock.from_dict(wheels).select(environment=_ENVIRONMENT, tags=_TAGS))
    except PylockSelectError as error:
        raise PinsError(f"{error}\nThe images have wheels only: pin a version that has one for them.") from error
    taken = {package.name: file.hashes["sha256"] for package, file in selected if isinstance(file, PackageWheel)}

    def only(found: re.Match[str]) -> str:
        one = taken[canonicalize_name(found[1])]
        return f"{found[0].partition(_CONTINUED)[0]}{_CONTINUED}    --hash=sha256:{one}\n"

    return _HASHED.sub(only, lock)


def _uv(source: Path, home: Path, options: tuple[str, ...], out: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    command: list[str | Path] = [uv, "pip", "compile", source, *options, "--quiet", f"-o{out}"]
    done = subprocess.run(command, cwd=home, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise PinsError(
            f"{source} could not be resolved:\n{done.stderr.rstrip()}\n"
            "Is the package index reachable, and do the versions in it allow each other?"
        )
