"""The locks of Python packages: what uv makes of each requirements.in now."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline import progress
from pipeline.bootstrap import drift
from pipeline.errors import PinsError
from pipeline.refresh.stale import Stale

# The host has any Python from 3.11 on; an image has the one of Debian trixie, and wheels only: nothing is built in it.
_HOST = ("--universal", "--python-version", "3.11")
_IMAGE = ("--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:")


def sources(home: Path) -> tuple[Path, ...]:
    """Every requirements.in: the host's, and those of the images."""
    folders = ("images/*", "tests/containers/*")
    found = sorted(path for folder in folders for path in home.glob(f"{folder}/requirements.in"))
    return (home / "requirements.in", *found)


def stale(home: Path) -> Iterator[Stale]:
    """The lock beside each requirements.in, every package at the newest version that the others allow.

    Raises:
        PinsError: uv found no solution, or no index.
    """
    for path in sources(home):
        source, lock = path.relative_to(home), path.with_suffix(".lock")
        progress.say(f"resolving {source}")
        text = _compiled(source, home, _HOST if path.parent == home else _IMAGE)
        yield Stale(path=lock, text=text, changes=changes(lock.read_text(encoding="utf-8"), text))


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


def _compiled(source: Path, home: Path, options: tuple[str, ...]) -> str:
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory(prefix="torchyard-") as scratch:
        lock = Path(scratch) / "requirements.lock"
        command: list[str | Path] = [
            uv,
            "pip",
            "compile",
            source,
            *options,
            "--generate-hashes",
            "--no-header",
            "--quiet",
            f"-o{lock}",
        ]
        done = subprocess.run(command, cwd=home, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise PinsError(
                f"{source} could not be resolved:\n{done.stderr.rstrip()}\n"
                "Is the package index reachable, and do the versions in it allow each other?"
            )
        return lock.read_text(encoding="utf-8")
