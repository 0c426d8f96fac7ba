"""Which commit is checked out, and whether anything else is in the tree."""

import re
import subprocess
from pathlib import Path

from pipeline.errors import ReleaseError
from pipeline.release.provenance import Source


def source(folder: Path) -> Source:
    """Asks git.

    Raises:
        ReleaseError: the folder is no git repository with a commit.
    """
    try:
        revision, status = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
        remote = _git(folder, "remote", "get-url", "origin") if "origin" in _git(folder, "remote").split() else ""
    except (OSError, subprocess.CalledProcessError) as error:
        raise ReleaseError(
            f"{folder}: git does not tell which commit this is ({error}). A release says what it was made from: "
            "work in a git repository with a commit."
        ) from error
    # Who fetched it is nobody's business, and may be a secret.
    return Source(revision=revision, remote=re.sub(r"//[^/@]*@", "//", remote), clean=not status)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout.strip()
