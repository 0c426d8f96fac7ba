"""The commands: their names and help, and how an error ends one."""

import errno
import getpass
import os
import shutil
import signal
from pathlib import Path
from typing import NoReturn

import pytest
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.program import Program

import tasks
from pipeline.errors import PipelineError, RecordError, SpaceError, SpecError

NAMESPACE = Collection.from_module(tasks)
COMMANDS = [
    *("approve", "assemble", "audit", "bench", "build-serving", "check", "clean", "compile", "diff", "doctor"),
    *("explain", "export", "fetch", "images", "keys", "lint", "matrix", "pins", "promote", "registry", "release"),
    *("reproduce", "rollback", "serve", "smoke", "soak", "status", "storm", "test", "train", "verify"),
]


def test_the_commands_are_these() -> None:
    assert sorted(NAMESPACE.task_names) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command = NAMESPACE[name]
    assert command.__doc__
    assert command.__doc__.count("\n") == 0
    options = [argument for argument in command.get_arguments() if not argument.help]
    assert not options


def _ending(error: BaseException) -> Exit:
    @tasks.command()
    def failing(_: Context) -> NoReturn:
        raise error

    with pytest.raises(Exit) as ended:
        failing(Context())
    return ended.value


@pytest.mark.parametrize("kind", PipelineError.__subclasses__())
def test_an_expected_error_ends_with_its_message_and_code(kind: type[PipelineError]) -> None:
    ended = _ending(kind("what, why, and what to do"))
    assert (ended.code, ended.message) == (kind.exit_code, "error: what, why, and what to do")


@pytest.mark.parametrize("channel", ["", "nowhere"])
@pytest.mark.parametrize(("name", "option"), [("promote", "to"), ("approve", "to"), ("rollback", "channel")])
def test_a_channel_that_is_not_there_is_refused_before_anything_is_built_or_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, option: str, channel: str
) -> None:
    monkeypatch.setattr(tasks, "connect", lambda: pytest.fail("the engine is asked"))
    with pytest.raises(Exit) as ended:
        NAMESPACE[name](Context(), model="tiny", **{option: channel})
    assert f"promotion.toml has no channel {channel!r}. There is: staging, production." in str(ended.value.message)


def test_a_full_disk_is_told_as_one() -> None:
    ended = _ending(OSError(errno.ENOSPC, "No space left on device", "build/x"))
    assert ended.code == SpaceError.exit_code
    assert "The disk is full at build/x" in str(ended.message)


def test_a_disk_without_room_for_temporary_files_is_full() -> None:
    """As tempfile tells of it, and as a write does, which names no file."""
    for error in (
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        OSError(errno.ENOSPC, "No space left on device"),
    ):
        ended = _ending(error)
        assert ended.code == SpaceError.exit_code
        assert "or that of temporary files" in str(ended.message)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_supervisor_and_a_terminal_that_closes_interrupt(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    try:

        @tasks.command()
        def stopped(_: Context) -> None:
            signal.raise_signal(number)
            pytest.fail("it goes on")

        with pytest.raises(Exit) as ended:
            stopped(Context())
    finally:
        signal.signal(number, before)
    assert ended.value.code == 130


def test_what_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        @tasks.command()
        def working(_: Context) -> None:
            signal.raise_signal(signal.SIGHUP)

        working(Context())
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["registry", "--port", "many"], "--port many: it has to be a whole number."),
        (["soak", "--model", "resnet", "--minutes", "an hour"], "--minutes an hour: it has to be a number."),
        (["bench", "--model", "resnet", "--rounds", "1.5"], "--rounds 1.5: it has to be a whole number."),
    ],
)
def test_what_is_no_number_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "connect", lambda: pytest.fail("the engine is asked"))
    with pytest.raises(SystemExit) as ended:
        Program(namespace=NAMESPACE).run(["inv", *arguments])
    assert (ended.value.code, told in capsys.readouterr().err) == (SpecError.exit_code, True)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two models built."""
    build = tmp_path / "home/build"
    for name in ("gate", "resnet"):
        (build / name).mkdir(parents=True)
    monkeypatch.setattr(tasks, "BUILD", build)
    monkeypatch.chdir(build.parent)
    return build


@pytest.mark.parametrize(
    ("model", "left"),
    [
        ("gate", ["resnet"]),
        ("model_src/gate/", ["resnet"]),
        ("tests/../gate", ["resnet"]),
        ("nobody", ["gate", "resnet"]),
        ("..", ["gate", "resnet"]),
        (".", ["gate", "resnet"]),
    ],
)
def test_clean_removes_what_was_built_of_a_model_and_nothing_else(built: Path, model: str, left: list[str]) -> None:
    (built.parent / "sources").touch()
    NAMESPACE["clean"](Context(), model=model)
    assert sorted(path.name for path in built.iterdir()) == left
    assert (built.parent / "sources").exists()


def test_what_cannot_be_removed_is_told(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path / "weights"))

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(Exit) as ended:
        NAMESPACE["clean"](Context(), model="gate")
    assert ended.value.code == RecordError.exit_code
    assert f"{built / 'gate/weights'} cannot be removed (Permission denied)" in str(ended.value.message)


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 1000"), OSError("No username set")])
def test_who_has_no_name_goes_by_his_number(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nameless() -> NoReturn:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert tasks._user() == str(os.getuid())


def test_clean_of_no_folder_is_refused(built: Path) -> None:
    with pytest.raises(Exit) as ended:
        NAMESPACE["clean"](Context(), model="/")
    assert ended.value.code == SpecError.exit_code
    NAMESPACE["clean"](Context())
    assert not built.exists()


def test_an_interrupt_says_that_nothing_half_made_is_left() -> None:
    ended = _ending(KeyboardInterrupt())
    assert (ended.code, "nothing half-made" in str(ended.message)) == (130, True)


@pytest.mark.parametrize("error", [ValueError("a bug"), PermissionError(errno.EACCES, "denied")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    @tasks.command()
    def failing(_: Context) -> NoReturn:
        raise error

    with pytest.raises(type(error)):
        failing(Context())


def test_a_value_becomes_an_output_on_github_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    tasks._hand_on("digest", "sha256:0")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    tasks._hand_on("digest", "sha256:1")
    tasks._hand_on("other", "2")
    assert (tmp_path / "outputs").read_text() == "digest=sha256:1\nother=2\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "diff"])
def test_help_after_a_command_is_about_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Program(namespace=NAMESPACE).run(["inv", name, "--help"], exit=False)
    told = capsys.readouterr().out
    assert str(NAMESPACE[name].__doc__) in " ".join(told.split())


def test_an_argument_that_is_missing_is_named() -> None:
    with pytest.raises(Exit) as ended:
        NAMESPACE["build-serving"](Context())
    assert ended.value.code == SpecError.exit_code
    assert "--model is missing. `inv build-serving --help` says what it means." in str(ended.value.message)


def test_a_gate_without_a_model_asks_which() -> None:
    with pytest.raises(Exit) as ended:
        NAMESPACE["check"](Context())
    assert ended.value.code == SpecError.exit_code
    assert "--model NAME" in str(ended.value.message)


def test_an_unknown_model_is_told_before_anything_is_asked_of_the_engine() -> None:
    with pytest.raises(Exit) as ended:
        NAMESPACE["train"](Context(), model="resent")
    assert ended.value.code == SpecError.exit_code
    assert "resnet" in str(ended.value.message)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("", "No release of any model is there. Next: inv release --model resnet"),
        ("gate", "No release of gate is there"),
    ],
)
def test_where_nothing_is_released_status_says_so(
    model: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "_office", lambda: None)
    monkeypatch.setattr(tasks, "survey", lambda *_, **__: iter(()))
    tasks.status(Context(), model=model)
    assert said in capsys.readouterr().out
