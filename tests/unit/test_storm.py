"""What counts as accepted when a server is stopped, and what a storm says of it."""

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import storm as storming
from pipeline.engine import Job
from pipeline.errors import SpecError, StormError
from pipeline.storm import judged, storm
from tests.unit import served
from tests.unit.fake_engine import FakeEngine

SENT = 1000.0
Y = b64encode(json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode())


def _outcome(**changes: Any) -> dict[str, Any]:
    answers = [{"request": 0, "status": 200, "json": None, "body": Y.decode(), "count": 5}]
    return {"answers": answers, "others": [], "unanswered": [], "refused": 4, "early": 0} | changes


@pytest.mark.parametrize(
    ("changes", "turned_away", "errors"),
    [
        ({}, 0, {}),
        ({"unanswered": [["closed", SENT + 0.1, False]]}, 1, {}),
        ({"unanswered": [["closed", SENT - 0.1, False]]}, 0, {"accepted and lost, closed": 1}),
        ({"unanswered": [["closed", SENT + 1, True]]}, 0, {"accepted and lost, in the middle of the answer": 1}),
        ({"others": [[503, SENT + 0.1]]}, 1, {}),
        ({"others": [[503, SENT - 0.1], [500, SENT + 0.1]]}, 0, {"status 503": 1, "status 500": 1}),
        ({"early": 2}, 0, {"refused before SIGTERM": 2}),
    ],
)
def test_what_was_complete_before_sigterm_was_accepted(
    changes: dict[str, Any], turned_away: int, errors: dict[str, int]
) -> None:
    stop = judged(_outcome(**changes), Counter(), sent=SENT, code=0, seconds=0.5)
    assert (stop.answered, stop.refused) == (5, 4)
    assert (stop.turned_away, stop.errors) == (turned_away, errors)


def test_an_exit_code_and_wrong_answers_are_errors() -> None:
    stop = judged(_outcome(), Counter({"wrong answer": 2}), sent=SENT, code=137, seconds=0.5)
    assert stop.errors == {"wrong answer": 2, "exit code 137": 1}


@pytest.fixture
def world(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the storm's clients say they saw."""
    outcome = _outcome()

    def run(job: Job, on_line: Callable[[str], None]) -> None:
        on_line("loaded")
        (out,) = (mount.source for mount in job.mounts)
        (out / "rest-binary.json").write_text(json.dumps(outcome))

    engine.on_run = run
    monkeypatch.setattr(storming, "wait_until_ready", lambda _: 1.0)
    return outcome


def _storm(engine: FakeEngine, folder: Path, *, times: int = 2, clients: int = 3) -> None:
    image, load = served.image(folder, engine), served.load(engine)
    storm(image, times=times, clients=clients, load=load, engine=engine, build=folder / "build")


@pytest.mark.usefixtures("world")
def test_a_storm_stops_a_server_of_its_own_each_time(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _storm(engine, tmp_path)
    assert [each.terminated for each in engine.served] == [True, True]
    printed = capsys.readouterr().out.splitlines()
    assert "stopped 2 times under 3 clients: 10 requests answered, none lost, 0 turned away" in printed[-1]
    assert len(json.loads((tmp_path / "build/storm.json").read_text())["stops"]) == 2


def test_a_lost_request_is_told_and_fails(engine: FakeEngine, tmp_path: Path, world: dict[str, Any]) -> None:
    world["unanswered"] = [["closed", 1.0, False]]
    with pytest.raises(StormError, match=r"stopped 2 times under load(.|\n)*2 times accepted and lost, closed"):
        _storm(engine, tmp_path)
    assert json.loads((tmp_path / "build/storm.json").read_text())["stops"][0]["errors"]


def test_a_wrong_answer_fails(engine: FakeEngine, tmp_path: Path, world: dict[str, Any]) -> None:
    world["answers"][0]["body"] = b64encode(b"{}").decode()
    with pytest.raises(StormError, match=r"times wrong answer: no answer of the protocol"):
        _storm(engine, tmp_path)


def test_a_server_that_ended_by_itself_is_told(engine: FakeEngine, tmp_path: Path, world: dict[str, Any]) -> None:
    def run(job: Job, _: Callable[[str], None]) -> None:
        (out,) = (mount.source for mount in job.mounts)
        (out / "rest-binary.json").write_text(json.dumps(world))

    engine.on_run = run
    with pytest.raises(StormError, match=r"did not live to be stopped: it ended with exit code 0"):
        _storm(engine, tmp_path)


@pytest.mark.parametrize(("times", "clients"), [(0, 1), (1, 0), (1, 501)])
def test_no_storm_is_refused(engine: FakeEngine, tmp_path: Path, times: int, clients: int) -> None:
    with pytest.raises(SpecError, match=f"--times {times} --clients {clients}"):
        _storm(engine, tmp_path, times=times, clients=clients)
