"""The launcher on machines that lack things; what would install or start something is a stand-in that notes it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import EngineError, SpecError

HOME = Path(__file__).resolve().parents[2]
# Reaches the engine's part of the launcher, and then fails for want of a model, without asking the engine anything.
COMMAND = ("build-serving", "--model", "nobody")
Launch = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Runs ./inv where no engine answers until one was started; gives its exit code, output and what it called."""
    calls, stubs, clone = tmp_path / "calls", tmp_path / "bin", tmp_path / "clone"
    stubs.mkdir()
    clone.mkdir()
    calls.touch()
    for name in ("inv", "requirements.lock", "tasks.py", "pipeline", "model_src", "images"):
        (clone / name).symlink_to(HOME / name)
    (clone / "inv").unlink()
    shutil.copy(HOME / "inv", clone / "inv")
    (clone / ".venv").symlink_to(HOME / ".venv")

    def stub(name: str, script: str) -> None:
        (stubs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n{script}\n')
        (stubs / name).chmod(0o755)

    def run(*, uid: int = 0, command: tuple[str, ...] = COMMAND, **environment: str) -> tuple[int, str, list[str]]:
        for name in ("apt-get", "setsid", "dockerd", "systemctl", "mmdebstrap"):
            stub(name, "")
        # The launcher asks python3 on its standard input whether an engine answers.
        (stubs / "python3").write_text(f"#!/bin/sh\ngrep -qE '^(setsid|systemctl)' {calls}\n")
        (stubs / "python3").chmod(0o755)
        (stubs / "id").write_text(f'#!/bin/sh\n[ "$1" = -u ] && echo {uid} || echo someone\n')
        (stubs / "id").chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if name not in {"DOCKER_HOST", "TORCHYARD_ENGINE"}}
        done = subprocess.run(
            ["./inv", *command],
            cwd=clone,
            env=kept | {"PATH": f"{stubs}:{kept['PATH']}"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, calls.read_text().splitlines()

    return run


def test_root_without_an_engine_starts_one_and_says_so(launch: Launch) -> None:
    code, output, calls = launch()
    assert "torchyard: starting the container engine" in output
    assert any(call.startswith(("setsid dockerd", "systemctl start docker")) for call in calls)
    assert code == SpecError.exit_code, output


def test_others_are_told_what_to_run(launch: Launch) -> None:
    code, output, calls = launch(uid=1000)
    assert code == EngineError.exit_code
    assert "apt-get install docker.io iptables mmdebstrap" in output
    assert calls == []


@pytest.mark.parametrize("environment", [{"TORCHYARD_ENGINE": "external"}, {"DOCKER_HOST": "unix:///elsewhere.sock"}])
def test_an_engine_that_others_look_after_is_left_to_them(launch: Launch, environment: dict[str, str]) -> None:
    code, output, calls = launch(**environment)
    assert calls == []
    assert code == SpecError.exit_code, output


@pytest.mark.parametrize(
    "command", [(), ("--list",), ("clean", "--model", "nobody"), ("doctor", "--help"), ("pins", "--help")]
)
def test_commands_without_containers_ask_for_no_engine(launch: Launch, command: tuple[str, ...]) -> None:
    code, output, calls = launch(command=command)
    assert calls == []
    assert code == 0, output


def test_an_engine_that_does_not_exist_is_one_clear_error(launch: Launch) -> None:
    code, output, _ = launch(command=("images",), DOCKER_HOST="unix:///nowhere.sock")
    assert code == EngineError.exit_code
    assert "No container engine answers at unix:///nowhere.sock" in output
    assert "Traceback" not in output


def test_a_reader_that_has_seen_enough_is_no_bug() -> None:
    with subprocess.Popen(
        ["./inv", "clean", "--model", "nobody"], cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout
        assert command.stderr
        command.stdout.close()
        errors = command.stderr.read()
    assert command.returncode == 141
    assert errors == ""
