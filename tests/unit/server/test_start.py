"""The entry points: exit codes, and what is said when a model cannot be served or replayed."""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from server import __main__ as program
from server import health, log, measure, replay
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine where the image has the C++ one, and an environment that is put back."""
    monkeypatch.setitem(sys.modules, "_engine", FakeEngine())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr("signal.signal", lambda *_: None)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


class Peer:
    """A connection whose other side answers each request with the same bytes, in two pieces."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._pieces: list[bytes] = []
        self.closed = False

    def setsockopt(self, *_: int) -> None: ...

    def sendall(self, request: bytes) -> None:
        assert request.startswith(b"POST /v2/models/tiny/infer HTTP/1.1\r\n")
        assert request.endswith(models.X.tobytes())
        self._pieces = [self._answer[:9], self._answer[9:]]

    def recv(self, _: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        self.closed = True


def _measure(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    arguments = ["--model", str(folder), "--requests", "10", "--seconds", "0.05", "--server", "127.0.0.1:8080"]
    monkeypatch.setattr(sys, "argv", ["server.measure", *arguments])
    return measure.main()


def _replay(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["server.replay", *arguments])
    return replay.main()


def test_replay_prints_the_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    y = 2 * models.X + np.array([[0, 0.25, 0]], np.float32)
    folder = models.write(tmp_path, content=models.samples(y), tolerance={"absolute": 0.5, "relative": 0})
    assert _replay(monkeypatch, "--model", str(folder)) == 0
    assert json.loads(capsys.readouterr().out) == {
        "samples": 2,
        "probes": 0,
        "outputs": {"y": {"max_abs": 0.25, "max_rel": pytest.approx(0.25 / 4.75)}},
    }


def test_replay_replays_probes_that_lie_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models.write(tmp_path)
    (folder / "probes.safetensors").write_bytes(models.samples(2 * models.X + np.float32(0.5)))
    assert _replay(monkeypatch, "--model", str(folder)) == 3
    assert "probe 0: output y differs by up to 0.5" in capsys.readouterr().err


def test_replay_only_measures_probes_that_no_tolerance_is_meant_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models.write(tmp_path, probes={"count": 2, "judged": False})
    (folder / "probes.safetensors").write_bytes(models.samples(2 * models.X + np.float32(0.5)))
    assert _replay(monkeypatch, "--model", str(folder)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["probes"], printed["outputs"]["y"]["max_abs"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [("samples", 3, "does not give the answers"), ("digest", 4, "its sha256 is"), ("archive", 5, "cannot load")],
)
def test_replay_has_an_exit_code_for_each_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    code: int,
    told: str,
) -> None:
    folder = models.write(
        tmp_path,
        behaviour="unknown" if fault == "archive" else "double",
        content=models.samples(models.X) if fault == "samples" else None,
    )
    if fault == "digest":
        (folder / "model.pt").write_text("DOUBLE")
    assert _replay(monkeypatch, "--model", str(folder)) == code
    captured = capsys.readouterr()
    assert told in captured.err
    assert not captured.out


def test_replay_loads_a_bare_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "any.pt").write_text("double")
    assert _replay(monkeypatch, "--archive", str(tmp_path / "any.pt")) == 0
    assert json.loads(capsys.readouterr().out) == {"loaded": True, "methods": ["forward"]}
    assert _replay(monkeypatch, "--archive", str(tmp_path / "none.pt")) == 5


def test_measure_prints_both_in_milliseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = Peer(ANSWER)
    monkeypatch.setattr("socket.create_connection", lambda *_: peer)
    monkeypatch.setenv("TORCHYARD_THREADS", "2")
    assert _measure(monkeypatch, models.write(tmp_path)) == 0
    printed = json.loads(capsys.readouterr().out)
    for name in ("in_process", "over_the_wire"):
        row = printed[name]
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    one, many = printed["callers"]
    assert (one["callers"], one["threads"], many["callers"], many["threads"]) == (1, 2, 2, 1)
    assert all(each["throughput"] > 0 and each["p50_ms"] > 0 for each in (one, many))
    assert peer.closed


def test_measure_of_a_damaged_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models.write(tmp_path)
    (folder / "model.pt").write_text("DOUBLE")
    assert _measure(monkeypatch, folder) == 4
    assert "its sha256 is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nloading", "503 Service Unavailable: loading"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "in the middle of an answer"),
    ],
)
def test_measure_says_why_a_server_cannot_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bytes, told: str
) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_: Peer(answer))
    assert _measure(monkeypatch, models.write(tmp_path)) == 2
    assert told in capsys.readouterr().err


def test_turns_alternate_and_do_not_count_their_beginning() -> None:
    order: list[str] = []
    measured = measure.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 20)
    assert [len(latencies) for latencies in measured.values()] == [20, 20]
    assert "".join(order) == ("a" * 13 + "b" * 13) * 2


def test_percentiles_are_in_milliseconds() -> None:
    assert measure.percentiles([0.001 * value for value in range(1, 102)]) == pytest.approx(
        {"p50_ms": 51, "p95_ms": 96, "p99_ms": 100}
    )


@pytest.mark.parametrize(("threads", "code"), [("none", 2), ("1", 6)])
def test_the_server_says_why_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], threads: str, code: int
) -> None:
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    monkeypatch.setenv("TORCHYARD_THREADS", threads)
    assert program.main() == code
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (last["event"], last["level"], last["exit_code"]) == ("failed", "error", code)


def test_a_bug_at_the_start_is_logged_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no such luck")

    serving = ModuleType("server.serving")
    serving.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "server.serving", serving)
    monkeypatch.setattr("server.serving", serving, raising=False)
    monkeypatch.setattr(program, "FOLDER", models.write(tmp_path))
    assert program.main() == 1
    failed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert any("ZeroDivisionError" in line.get("traceback", "") for line in failed)


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n200", False),
        (b"", False),
        (b"200", False),
    ],
)
def test_health_reads_the_status(answer: bytes, ready: bool) -> None:
    assert health.is_ready(answer) is ready


def test_health_says_that_nobody_answers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("socket.create_connection", refused)
    assert health.main() == 1
    assert "nothing answers on port 8080" in capsys.readouterr().err


def test_library_warnings_become_events(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.root.handlers[:]
    logging.root.handlers.clear()
    try:
        log.capture_libraries()
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        logging.getLogger("uvicorn.error").info("Started")
    finally:
        logging.root.handlers[:] = before
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["logger"]) == (
        "Invalid HTTP request received.",
        "warning",
        "uvicorn.error",
    )
    assert event["time"].endswith("Z")
