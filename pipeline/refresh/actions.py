"""The commits of the actions that the workflows use: those of each action's newest release."""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipeline import progress
from pipeline.errors import PinsError
from pipeline.refresh.stale import Stale

_USES = re.compile(
    r"\buses: (?P<action>(?P<repository>[\w.-]+/[\w.-]+)[\w./-]*)@(?P<ref>\S+)"
    r"(?: +# *(?P<version>v\d+\.\d+\.\d+)\b)?(?: +#.*)?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = re.compile(r"^(?P<commit>[0-9a-f]{40})\trefs/tags/(?P<version>v\d+\.\d+\.\d+)(?:\^\{\})?$", re.MULTILINE)


def stale(home: Path, server: str = "https://github.com") -> Iterator[Stale]:
    """Every workflow, with each action at the commit of its newest release and the version beside it as a comment.

    Pre-releases, and tags that are no `vMAJOR.MINOR.PATCH`, are no releases.

    Raises:
        PinsError: the server cannot be asked, an action has no release, or the tag of a pinned one has moved.
    """
    tags = cache(lambda repository: _tags(f"{server}/{repository}"))
    for workflow in sorted(home.glob(".github/workflows/*.yml")):
        was = workflow.read_text(encoding="utf-8")
        text = _USES.sub(lambda use: _newest(use, tags(use["repository"])), was)
        uses = dict(zip(_all(was), _all(text), strict=True))
        changes = [line for old, new in uses.items() if old != new for line in (f"- {old}", f"+ {new}")]
        yield Stale(path=workflow, text=text, changes=tuple(changes))


def _all(workflow: str) -> list[str]:
    return [use[0] for use in _USES.finditer(workflow)]


def _newest(use: re.Match[str], releases: dict[str, str]) -> str:
    """The use of an action's newest release, unless the tag of the pinned one was moved or removed."""
    action, version, pinned = use["action"], use["version"], use["ref"]
    if not releases:
        raise PinsError(f"{action} has no release named vMAJOR.MINOR.PATCH. Pin another action, or a commit by hand.")
    if version and _COMMIT.fullmatch(pinned) and releases.get(version) != pinned:
        raise PinsError(
            f"{action} is pinned to {pinned} as {version}, and that tag is now "
            f"{releases.get(version, 'gone')}. A release does not move: look into what happened before you take it."
        )
    newest = max(releases, key=lambda name: tuple(int(number) for number in name[1:].split(".")))
    return f"uses: {action}@{releases[newest]} # {newest}"


def _tags(url: str) -> dict[str, str]:
    """The commit of each release of a repository by its version."""
    progress.say(f"asking {url} for its releases")
    command = ("git", "ls-remote", "--tags", url)
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        failure = (done.stderr.strip() or f"git ended with {done.returncode}") if done.returncode else ""
    except FileNotFoundError:
        failure = "git is not installed"
    except subprocess.TimeoutExpired:
        failure = "no answer within 60 s"
    if failure:
        raise PinsError(
            f"{url} cannot be asked for its releases: {failure}\n"
            "Nothing was written. Without GitHub, refresh the rest: inv pins --only debian, inv pins --only python."
        )
    # After an annotated tag comes the commit that it is about, under the same name and ^{}.
    return {tag["version"]: tag["commit"] for tag in _TAG.finditer(done.stdout)}
