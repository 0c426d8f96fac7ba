"""A git repository that keeps archives in Git LFS, on its default branch: https://git-lfs.com

Whoever may push to it is known to git already.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RegistryError
from pipeline.records import write_atomic

PREFIX = "git+"
# The blobs are large, and what names and signs them is not.
_ATTRIBUTES = ".gitattributes"
_TRACKED = "*/sha256/*/blobs/sha256/* filter=lfs diff=lfs merge=lfs -text"
_POINTER = b"version https://git-lfs.github.com/spec"
# What git says when the branch has moved since it was cloned, or is being moved.
_RACED = ("fetch first", "non-fast-forward", "cannot lock ref", "failed to update ref", "incorrect old value")
# Set inside git's hooks, for instance, and of another repository.
_FOREIGN = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX"}


class Raced(RegistryError):
    """Somebody else has pushed since the repository was cloned; nothing of ours was."""


@contextmanager
def opened(url: str, *, saying: str) -> Iterator["Checkout"]:
    """The files of a repository such as git+https://host/models.git; what was written is pushed as one commit.

    Raises:
        Raced: somebody else was faster.
        RegistryError: git or git-lfs is not installed, or the repository does not answer or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
        git = _Git(url, Path(folder))
        # A link in the repository could lead out of the folder.
        git("clone", "--quiet", "--depth=1", "--config=core.symlinks=false", "--", url.removeprefix(PREFIX), ".")
        git("lfs", "install", "--local", "--skip-smudge")
        checkout = Checkout(url, Path(folder), git)
        yield checkout
        if checkout.written:
            _push(git, checkout.written, saying)


class Checkout:
    """Implements `pipeline.stores.Files` on a clone, whose large files are fetched when they are read."""

    def __init__(self, url: str, folder: Path, git: "_Git") -> None:
        self._url = url
        self._folder = folder
        self._git = git
        self.written: list[str] = []

    def read(self, path: str) -> bytes | None:
        where = self._folder / path
        if not where.is_file():
            return None
        if where.read_bytes()[: len(_POINTER)] == _POINTER:
            self._git("lfs", "pull", f"--include={path}")
        return where.read_bytes()

    def write(self, path: str, content: bytes) -> None:
        if not self.written:
            self._track()
        try:
            write_atomic(self._folder / path, content)
        except (FileExistsError, NotADirectoryError) as error:
            raise RegistryError(f"{self._url}: something else has the name of a folder of {path}.") from error
        self.written.append(path)

    def has(self, path: str, size: int) -> bool:  # noqa: ARG002 (a commit has no half files)
        return (self._folder / path).is_file()

    def _track(self) -> None:
        """Adds our line to those of whatever else the repository keeps."""
        where = self._folder / _ATTRIBUTES
        lines = where.read_text(encoding="utf-8").splitlines() if where.is_file() else []
        if _TRACKED not in lines:
            write_atomic(where, "\n".join([*lines, _TRACKED, ""]))
        self.written.append(_ATTRIBUTES)


def _push(git: "_Git", paths: list[str], saying: str) -> None:
    git("add", "--", *paths)
    if not git("diff", "--cached", "--name-only"):
        return
    git("commit", "--quiet", f"--message={saying}")
    try:
        git("push", "--quiet", "origin", "HEAD")
    except RegistryError as error:
        if any(sign in str(error) for sign in _RACED):
            raise Raced(f"{error} Somebody else was faster, each time: run the same command again.") from error
        raise


class _Git:
    """Runs git in a folder. Nobody is asked for a password: there may be nobody."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = re.sub(r"//[^/@]*@", "//", url)
        self._folder = folder

    def __call__(self, *arguments: str) -> str:
        settings = ("user.name=Torchyard", "user.email=torchyard@localhost", "advice.pushUpdateRejected=false")
        mine = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        try:
            done = subprocess.run(
                ["git", *(word for each in settings for word in ("-c", each)), *arguments],  # noqa: S607 (this user's)
                cwd=self._folder,
                env={**mine, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"},
                capture_output=True,
                text=True,
                check=True,
            )
        except FileNotFoundError as error:
            raise RegistryError(f"{self._url}: git is not installed. Install git and git-lfs.") from error
        except subprocess.CalledProcessError as error:
            said = re.sub(r"//[^/@\s]*@", "//", error.stderr.strip())[-500:]
            hint = "Install git-lfs." if "is not a git command" in said else "May this user do that there?"
            raise RegistryError(f"{self._url}: git {arguments[0]} failed: {said} {hint}") from error
        return done.stdout
