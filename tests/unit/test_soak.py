"""What a soak calls growth, and what it says of a server that leaks, errs or stays as it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import soak as soaking
from pipeline.engine import Job
from pipeline.errors import SoakError, SpecError
from pipeline.load.generator import Generator
from pipeline.soak import Sample, is_fine, judged, soak
from tests.unit import served
from tests.unit.fake_engine import FakeEngine, FakeServing
from tests.unit.test_bench import World

MIB = 2**20


def _samples(*, leak: float = 0.0, descriptors: float = 0.0, count: int = 60) -> list[Sample]:
    """A minute-long warm-up by 50 MiB, and then so many bytes and descriptors more with every sample."""
    return [
        Sample(
            seconds=10.0 * at,
            working_set=200 * MIB + (at % 3) * MIB - max(0, 6 - at) * 8 * MIB,
            anonymous=int(150 * MIB + at * leak),
            resident=220 * MIB,
            descriptors=int(20 + at % 2 + at * descriptors),
        )
        for at in range(count)
    ]


def test_a_server_that_settles_is_steady() -> None:
    growths = judged(_samples())
    assert [growth.figure for growth in growths] == ["working_set", "anonymous", "resident", "descriptors"]
    assert not any(growth.too_much for growth in growths)


def test_a_leak_is_found_within_ten_minutes() -> None:
    grown = {growth.figure: growth for growth in judged(_samples(leak=0.2 * MIB))}
    assert grown["anonymous"].grown == pytest.approx(44 * 0.2 * MIB, rel=0.01)
    assert [figure for figure, growth in grown.items() if growth.too_much] == ["anonymous"]


def test_a_descriptor_every_minute_is_found() -> None:
    grown = {growth.figure: growth for growth in judged(_samples(descriptors=1 / 6))}
    assert [figure for figure, growth in grown.items() if growth.too_much] == ["descriptors"]


@pytest.mark.parametrize(
    ("told", "fine"),
    [
        ("no_json: status 400", True),
        ("no_model: status 404", True),
        ("no_json: status 500", False),
        ("huge_shape: status 200", False),
        ("no_json: closed without an answer", False),
        ("no_inputs: TimeoutError: timed out", False),
        ("leave_in_the_body: left", True),
        ("reset: ConnectionResetError: reset by peer", True),
    ],
)
def test_wrong_requests_are_to_be_answered_and_leaving_clients_may_be_left(told: str, fine: bool) -> None:
    assert is_fine(told) == fine


@pytest.fixture
def tricks(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the clients that do wrong say; the good ones are those of the bench's tests."""
    world, played = World(), {"no_json: status 400": 3, "leave_at_once: left": 2}
    world.rates = {"torchyard-soak-tiny": 250}

    def run(job: Job, on_line: Callable[[str], None]) -> None:
        if "clients.mischief" in job.command:
            (job.mounts[0].source / "mischief.json").write_text(json.dumps(played))
        else:
            world.run(job, on_line)

    engine.on_run = run
    monkeypatch.setattr(soaking, "wait_until_ready", lambda _: 1.0)
    return played


def _soak(engine: FakeEngine, folder: Path, minutes: float = 0.5) -> None:
    image, load = served.image(folder, engine), served.load(engine)
    soak(image, minutes=minutes, load=load, engine=engine, build=folder / "build")


@pytest.mark.usefixtures("tricks")
def test_a_model_that_answers_nothing_in_a_second_is_no_case_for_a_soak(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generator, "estimate", lambda *_: 0.0)
    with pytest.raises(SoakError, match="fewer than one request in a second"):
        _soak(engine, tmp_path)


@pytest.mark.usefixtures("tricks")
def test_a_soak_says_how_the_server_is_and_keeps_it(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _soak(engine, tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "tiny:1.0.0-cpu: 75 good requests a second over rest-binary, rest-json, and 10 others"
    assert "working set 200.0 MiB, anonymous 150.0 MiB, resident 220.0 MiB, 10 descriptors" in printed[1]
    assert printed[-2] == "  descriptors: 10, +0.0 of at most 3: is steady"
    assert "stayed as it was for 0.5 minutes" in printed[-1]
    kept = json.loads((tmp_path / "build/soak.json").read_text())
    assert (len(kept["samples"]), len(kept["growth"]), kept["errors"]) == (8, 4, {})
    assert kept["requests"]["wrong or leaving"] == 8 * 5
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["soak.json"]


def test_a_wrong_request_that_breaks_the_server_fails(
    engine: FakeEngine, tmp_path: Path, tricks: dict[str, int]
) -> None:
    tricks["no_inputs: status 500"] = 1
    with pytest.raises(SoakError, match=r"did not stay as it was:\n  8 times no_inputs: status 500\n"):
        _soak(engine, tmp_path)


@pytest.mark.usefixtures("tricks")
def test_a_server_that_leaks_fails(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = iter(range(0, 1000, 2))
    process = FakeServing.process

    def leaking(self: FakeServing) -> object:
        self.descriptors = 10 + next(growing)
        return process(self)

    monkeypatch.setattr(FakeServing, "process", leaking)
    with pytest.raises(SoakError, match=r"descriptors: 20, \+\d+\.\d of at most 3: grew too much"):
        _soak(engine, tmp_path)


@pytest.mark.parametrize("minutes", [0.4, 1441])
def test_a_time_that_cannot_tell_is_refused(engine: FakeEngine, tmp_path: Path, minutes: float) -> None:
    with pytest.raises(SpecError, match=f"--minutes {minutes}"):
        _soak(engine, tmp_path, minutes)


@pytest.mark.usefixtures("tricks")
def test_nothing_else_works_on_the_model_meanwhile(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is served is not built again, and two do not measure each other."""
    held: list[bool] = []

    def ready(_: object) -> float:
        held.append(served.is_held(tmp_path / "build"))
        return 1.0

    monkeypatch.setattr(soaking, "wait_until_ready", ready)
    _soak(engine, tmp_path)
    assert set(held) == {True}
    assert not served.is_held(tmp_path / "build")
