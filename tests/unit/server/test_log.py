"""The log's levels, at start and at run time."""

import json
import logging
import signal
from collections.abc import Iterator

import pytest

from server import log


@pytest.fixture(autouse=True)
def _info() -> Iterator[None]:
    log.set_level("info")
    yield
    log.set_level("info")


def _events(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(("level", "told"), [("error", 1), ("warning", 2), ("info", 3), ("debug", 4)])
def test_the_log_tells_a_level_and_those_before(
    capsys: pytest.CaptureFixture[str], level: log.Level, told: int
) -> None:
    log.set_level(level)
    for each in log.LEVELS:
        log.event(each, level=each)
    assert _events(capsys) == list(log.LEVELS[:told])


def test_signals_step_through_the_levels_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for signum, level in [(signal.SIGUSR1, "debug"), (signal.SIGUSR1, "debug"), (signal.SIGUSR2, "info")]:
        log.step(signum)
        assert json.loads(capsys.readouterr().err)["tells"] == level
    for _ in range(4):
        log.step(signal.SIGUSR2)
    assert _events(capsys) == ["log-level"] * 4
    log.event("quiet", level="warning")
    assert not _events(capsys)
    log.event("loud", level="error")
    assert _events(capsys) == ["loud"]


def test_of_slow_requests_one_a_second_is_told_of_and_the_others_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("server.log.time.monotonic", lambda: now[0])
    requests = log.Requests(slow=0.5)
    for identity, seconds in (("1", 0.6), ("2", 0.7), ("3", 0.1), ("4", 0.6)):
        requests.tell("/", identity, 200, seconds)
    now[0] += 1
    requests.tell("/", "5", 200, 0.6)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["id"], line["slow_since_the_last"]) for line in told] == [
        ("slow-request", "1", 1),
        ("slow-request", "5", 3),
    ]
    log.set_level("debug")
    for identity, seconds in (("6", 0.1), ("7", 0.6)):
        requests.tell("/", identity, 200, seconds)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["id"]) for line in told] == [("request", "6"), ("request", "7")]


def test_of_what_a_library_warns_of_one_a_second_is_told_and_the_others_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("server.log.time.monotonic", lambda: now[0])
    library = logging.getLogger("library")
    library.propagate = False
    library.addHandler(log._Forward())
    try:
        for second in (100.0, 100.5, 100.9, 101.0):
            now[0] = second
            library.warning("Nonsense from %s", second)
        library.warning("Something else")
        for _ in range(2):
            library.error("Lost")
    finally:
        library.handlers.clear()
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line.get("since_the_last")) for line in told] == [
        ("Nonsense from 100.0", None),
        ("Nonsense from 101.0", 2),
        ("Something else", None),
        ("Lost", None),
        ("Lost", None),
    ]
