"""What counts as accepted when a server is stopped, and what a storm says of it."""

import json
import struct
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

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
        ({"unanswered": [["in the middle", SENT + 1, True]]}, 0, {"accepted and lost, in the middle": 1}),
        ({"others": [[503, SENT + 0.1]]}, 1, {}),
        ({"others": [[503, SENT - 0.1], [500, SENT + 0.1]]}, 0, {"status 503": 1, "status 500": 1}),
        ({"early": 2}, 0, {"refused before SIGTERM": 2}),
    ],
)
def test_what_was_complete_before_sigterm_was_accepted(
    changes: dict[str, Any], turned_away: int, errors: dict[str, int]
) -> None:
    stop = judged("rest-binary", _outcome(**changes), Counter(), sent=SENT, code=0, seconds=0.5)
    assert (stop.answered, stop.refused) == (5, 4)
    assert (stop.turned_away, stop.errors) == (turned_away, errors)


def test_of_grpc_no_other_status_than_ok_is_an_answer() -> None:
    outcome = _outcome(others=[[14, SENT + 0.1], [8, SENT - 0.1], [14, SENT - 0.1]])
    stop = judged("grpc", outcome, Counter(), sent=SENT, code=0, seconds=0.5)
    assert stop.errors == {"accepted and lost, grpc-status 14": 2, "accepted and lost, grpc-status 8": 1}
    assert (stop.protocol, stop.turned_away) == ("grpc", 0)


def test_an_exit_code_and_wrong_answers_are_errors() -> None:
    stop = judged("rest-binary", _outcome(), Counter({"wrong answer": 2}), sent=SENT, code=137, seconds=0.5)
    assert stop.errors == {"wrong answer": 2, "exit code 137": 1}


class World:
    """What the storm's clients say they saw, by protocol, and which ports are listened at."""

    def __init__(self) -> None:
        self.rest = _outcome()
        self.grpc = _outcome(answers=[{"request": 0, "status": 200, "json": None, "body": _message(), "count": 7}])
        self.ports = {8080, 8081}
        self.loads = True

    def run(self, job: Job, on_line: Callable[[str], None]) -> None:
        """Stands in for the container of a job."""
        (out,) = (mount.source for mount in job.mounts)
        if "-c" in job.command:
            on_line("0" if any(str(port) in job.command[-1] for port in self.ports) else "111")
            return
        if self.loads:
            on_line("loaded")
        if "clients.rpc_storm" in job.command:
            assert "--port=8081" in job.command
            (out / "grpc.json").write_text(json.dumps(self.grpc))
        else:
            (out / "rest-binary.json").write_text(json.dumps(self.rest))


def _message(y: tuple[float, ...] = (1, 2)) -> str:
    """A ModelInferResponse, in base64."""
    response = service_pb2.ModelInferResponse(raw_output_contents=[struct.pack("<2f", *y)])
    response.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    return b64encode(response.SerializeToString()).decode()


@pytest.fixture
def world(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    engine.on_run = made.run
    monkeypatch.setattr(storming, "wait_until_ready", lambda _: 1.0)
    return made


def _storm(engine: FakeEngine, folder: Path, *, times: int = 2, clients: int = 3) -> None:
    image, load = served.image(folder, engine), served.load(engine)
    storm(image, times=times, clients=clients, load=load, engine=engine, build=folder / "build")


@pytest.mark.usefixtures("world")
def test_a_storm_stops_a_server_of_its_own_each_time(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _storm(engine, tmp_path, times=3)
    assert [each.terminated for each in engine.served] == [True, True, True]
    printed = capsys.readouterr().out.splitlines()
    told = "stopped 3 times under 3 clients of rest-binary and grpc: 17 requests answered, none lost, 0 turned away"
    assert told in printed[-1]
    stops = json.loads((tmp_path / "build/storm.json").read_text())["stops"]
    assert [(stop["protocol"], stop["answered"]) for stop in stops] == [
        ("rest-binary", 5),
        ("grpc", 7),
        ("rest-binary", 5),
    ]


def test_only_what_is_served_is_stormed(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.ports = {8080}
    _storm(engine, tmp_path)
    stops = json.loads((tmp_path / "build/storm.json").read_text())["stops"]
    assert [stop["protocol"] for stop in stops] == ["rest-binary", "rest-binary"]
    world.ports.clear()
    with pytest.raises(StormError, match="nothing listens for rest-binary or grpc"):
        _storm(engine, tmp_path)


def test_a_lost_request_is_told_and_fails(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.rest["unanswered"] = world.grpc["unanswered"] = [["closed", 1.0, False]]
    with pytest.raises(StormError, match=r"stopped 2 times under load(.|\n)*2 times accepted and lost, closed"):
        _storm(engine, tmp_path)
    assert json.loads((tmp_path / "build/storm.json").read_text())["stops"][0]["errors"]


def test_a_wrong_answer_fails(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.rest["answers"][0]["body"] = b64encode(b"{}").decode()
    with pytest.raises(StormError, match=r"times wrong answer: no answer of the protocol"):
        _storm(engine, tmp_path)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (_message((1, 2.5)), r"wrong answer: output y differs by up to 0\.5 in 1 of 2"),
        (b64encode(b"\xff").decode(), "wrong answer: no answer of the protocol"),
        ("", "wrong answer: output y is missing"),
    ],
)
def test_a_wrong_answer_over_grpc_fails(engine: FakeEngine, tmp_path: Path, world: World, body: str, told: str) -> None:
    world.grpc["answers"][0]["body"] = body
    with pytest.raises(StormError, match=f"7 times {told}"):
        _storm(engine, tmp_path)


def test_a_server_that_ended_by_itself_is_told(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.loads = False
    with pytest.raises(StormError, match=r"did not live to be stopped: it ended with exit code 0"):
        _storm(engine, tmp_path)


@pytest.mark.parametrize(("times", "clients"), [(0, 1), (1, 0), (1, 501)])
def test_no_storm_is_refused(engine: FakeEngine, tmp_path: Path, times: int, clients: int) -> None:
    with pytest.raises(SpecError, match=f"--times {times} --clients {clients}"):
        _storm(engine, tmp_path, times=times, clients=clients)


@pytest.mark.usefixtures("world")
def test_nothing_else_works_on_the_model_meanwhile(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is served is not built again, and two do not measure each other."""
    held: list[bool] = []

    def ready(_: object) -> float:
        held.append(served.is_held(tmp_path / "build"))
        return 1.0

    monkeypatch.setattr(storming, "wait_until_ready", ready)
    _storm(engine, tmp_path, times=1)
    assert set(held) == {True}
    assert not served.is_held(tmp_path / "build")
