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
# Of every model's layout: the blobs are large, and what names and signs them is not.
_TRACKED = "*/blobs/sha256/* filter=lfs diff=lfs merge=lfs -text\n"
_TRIES = 5


@contextmanager
def opened(url: str, *, saying: str) -> Iterator["Checkout"]:
    """The files of a repository such as git+https://host/models.git, which is pushed if any was written.

    Raises:
        RegistryError: git or git-lfs is not installed, or the repository does not answer or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
        git = _Git(url, Path(folder))
        git("clone", "--quiet", "--depth=1", "--no-single-branch", url.removeprefix(PREFIX), ".")
        git("lfs", "install", "--local", "--skip-smudge")
        checkout = Checkout(Path(folder), git)
        yield checkout
        if checkout.written:
            _push(git, Path(folder), saying)


class Checkout:
    """Implements `pipeline.stores.Files` on a clone, whose large files are fetched when they are read."""

    def __init__(self, folder: Path, git: "_Git") -> None:
        self._folder = folder
        self._git = git
        self.written = False

    def read(self, path: str) -> bytes | None:
        where = self._folder / path
        if not where.is_file():
            return None
        if where.read_bytes()[:40].startswith(b"version https://git-lfs.github.com/spec"):
            self._git("lfs", "pull", f"--include={path}")
        return where.read_bytes()

    def write(self, path: str, content: bytes) -> None:
        if not self.written:
            write_atomic(self._folder / ".gitattributes", _TRACKED)
        self.written = True
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / path, content)

    def has(self, path: str) -> bool:
        return (self._folder / path).is_file()


def _push(git: "_Git", folder: Path, saying: str) -> None:
    """Commits and pushes, on top of what others have pushed meanwhile."""
    git("add", "--all")
    if not git("status", "--porcelain"):
        return
    git("commit", "--quiet", f"--message={saying}")
    branch = git("branch", "--show-current").strip()
    for number in range(1, _TRIES + 1):
        try:
            git("push", "--quiet", "origin", branch)
            return
        except RegistryError:
            if number == _TRIES:
                raise
        git("fetch", "--quiet", "--unshallow" if (folder / ".git" / "shallow").exists() else "--all")
        # Files are named by what they hold; of the index, which names them, either side's may win.
        git("rebase", "--quiet", "--strategy-option=theirs", f"origin/{branch}")


class _Git:
    """Runs git in a folder. Nobody is asked for a password: there may be nobody."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = re.sub(r"//[^/@]*@", "//", url)
        self._folder = folder

    def __call__(self, *arguments: str) -> str:
        who = ("-c", "user.name=Torchyard", "-c", "user.email=torchyard@localhost")
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
        try:
            done = subprocess.run(
                ["git", *who, *arguments],  # noqa: S607 (whichever git this user has)
                cwd=self._folder,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
        except FileNotFoundError as error:
            raise RegistryError(f"{self._url}: git is not installed. Install git and git-lfs.") from error
        except subprocess.CalledProcessError as error:
            said = re.sub(r"//[^/@\s]*@", "//", error.stderr.strip())[-500:]
            hint = "Install git-lfs." if "is not a git command" in said else "May this user push there?"
            raise RegistryError(f"{self._url}: git {arguments[0]} failed: {said} {hint}") from error
        return done.stdout
