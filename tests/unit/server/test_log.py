"""The log's levels, at start and at run time."""

import json
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
