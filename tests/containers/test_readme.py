"""What the README tells people to type works, and prints what it says."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine.docker import DockerEngine

HOME = Path(__file__).resolve().parents[2]
README = (HOME / "README.md").read_text(encoding="utf-8")
CONSOLE = README.split("```console\n", 1)[1].split("```", 1)[0]


def _commands() -> list[str]:
    return re.findall(r"^\$ (.+)$", CONSOLE, re.MULTILINE)


def _promised(command: str) -> list[re.Pattern[str]]:
    """The lines that the README shows below a command; its ellipses stand for anything."""
    after = CONSOLE.split(f"$ {command}\n", 1)[1].split("\n$ ", 1)[0]
    lines = [line for line in after.splitlines() if line.strip("… ")]
    return [re.compile(re.escape(line).replace("…", ".*")) for line in lines]


@pytest.fixture(scope="module")
def built(engine: DockerEngine) -> str:
    """The output of the README's first command."""
    assert engine.info()
    build, _ = _commands()
    done = subprocess.run(
        shlex.split(build), cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0
    return done.stdout


def test_first_screen_has_two_commands() -> None:
    assert _commands() == ["./inv build-serving --model resnet", "./inv serve --model resnet"]


def test_build_serving_ends_as_promised(built: str) -> None:
    if "up to date" in built:
        return
    # At a desk some of the steps may have nothing to do.
    unchanged = re.findall(r"^(\w+) +unchanged$", built, re.MULTILINE)
    for line in _promised(_commands()[0]):
        assert line.search(built) or line.pattern.partition("\\")[0] in unchanged, line.pattern


def test_build_serving_again_does_nothing(built: str) -> None:
    assert built
    again = subprocess.run(shlex.split(_commands()[0]), cwd=HOME, capture_output=True, text=True, check=True).stdout
    assert "up to date, nothing to do" in again
    assert again.count("unchanged") == 6


@pytest.fixture
def serving(built: str) -> Iterator[list[str]]:
    """The lines that the README's second command prints until it asks to try; it is stopped with Ctrl-C."""
    assert built
    command = shlex.split(_commands()[1])
    with subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines: list[str] = []
        for line in process.stdout or ():
            lines.append(line)
            if "curl" in line:
                break
        yield lines
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        finally:
            # Where whoever started us ignores SIGINT, so does it.
            process.kill()


def test_serve_prints_a_curl_line_that_works(serving: list[str]) -> None:
    printed = "".join(serving)
    for line in _promised(_commands()[1]):
        assert line.search(printed), printed
    answer = subprocess.run(shlex.split(serving[-1]), cwd=HOME, capture_output=True, text=True, check=True).stdout
    assert '"outputs"' in answer
    assert '"logits"' in answer


def test_folder_map_is_true() -> None:
    folders = README.split("| folder |", 1)[1].split("\n\n", 1)[0]
    names = re.findall(r"^\| `([^`]+)` \|", folders, re.MULTILINE)
    assert names
    for name in names:
        assert (HOME / name).exists(), name
