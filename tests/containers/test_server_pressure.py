"""The server under pressure: batches, full queues, deadlines, clients that hang up or crawl, and runs that hang."""

import http.client
import json
import select
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import requests

from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from server.errors import RunStuck
from tests.containers.conftest import SERVING, Running, Start

INFER = "v2/models/slow/infer"
UNLUCKY, ENDLESS, HUNGRY = 13.0, 15.0, 16.0


def _tensor(*values: float) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": list(values)}


def _ask(server: Running, first: float = 1.0, headers: dict[str, str] | None = None) -> requests.Response:
    body = {"id": str(first), "inputs": [_tensor(first, 0, 0)]}
    return requests.post(server.url(INFER), json=body, headers=headers, timeout=60)


def _together(server: Running, *values: float) -> list[requests.Response]:
    """The answers to requests that are sent at the same time."""
    with ThreadPoolExecutor(len(values)) as pool:
        return list(pool.map(lambda value: _ask(server, value), values))


def _events(server: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines()]


def _batched(folder: Path, size: int) -> Path:
    """Lets the model of a folder answer requests together."""
    path = folder / "contract.json"
    batching = {"max_size": size, "max_delay_ms": 0}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"batching": batching}))
    return folder


@pytest.fixture
def batched(start: Start, folder: Path) -> Iterator[Running]:
    """Each run takes the same tenths of a second, however many rows it has."""
    with start(_batched(folder, 8)) as running:
        running.wait_until_ready()
        yield running


def test_requests_are_answered_together_and_each_with_its_own(batched: Running) -> None:
    started = time.monotonic()
    _ask(batched)
    once = time.monotonic() - started
    started = time.monotonic()
    answers = _together(batched, *range(20, 37))
    seconds = time.monotonic() - started
    assert [answer.json()["outputs"][0]["data"][0] for answer in answers] == [2 * value for value in range(20, 37)]
    # 17 requests in batches of 8 are 3 or 4 runs.
    assert seconds < 10 * once


def test_a_small_request_does_not_wait_for_all_of_a_large_one(batched: Running) -> None:
    rows = [[float(row), 0, 0] for row in range(20, 420)]
    large = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 3], "data": rows}]}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(requests.post, batched.url(INFER), json=large, timeout=60)
        time.sleep(0.2)
        assert _ask(batched, 2.0).status_code == 200
        # Of its fifty parts most are still to come.
        assert not asked.done()
        answer = asked.result()
    assert answer.status_code == 200
    (output,) = answer.json()["outputs"]
    assert output["shape"][0] == len(rows)
    alone = _ask(batched, 419.0).json()["outputs"][0]
    width = len(alone["data"])
    assert output["data"][-width:] == alone["data"]


def test_one_bad_request_does_not_fail_its_neighbours(batched: Running) -> None:
    answers = _together(batched, 1, 2, UNLUCKY, 4, 5)
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200]
    failed = [event for event in _events(batched) if event["event"] == "model-failed"]
    assert [event["id"] for event in failed] == [str(UNLUCKY)]


@pytest.mark.parametrize(
    ("model", "possible", "told"),
    [
        ("doubled", True, "2 samples and probes got the same answers together as alone"),
        ("centred", False, "number 0 of 2 requests gets another answer than alone: y differs by up to"),
    ],
)
def test_whether_requests_can_be_answered_together_is_tried(
    engine: DockerEngine, runtime: Image, archives: Path, model: str, possible: bool, told: str
) -> None:
    command = ("/usr/bin/python3.13", "-m", "server.together", "/model", "--memory", "1024")
    mounts = (Mount(source=archives / model, target="/model"),)
    lines: list[str] = []
    engine.run(Job(image=runtime.digest, command=command, limits=SERVING, mounts=mounts), on_line=lines.append)
    found = json.loads(lines[-1])
    assert found["possible"] is possible
    assert told in found["because"]
    assert (found["max_size"] > 1, bool(found["row_ms"])) == (possible, possible)


def test_the_plan_is_logged_and_the_environments(start: Start, archives: Path) -> None:
    given = {"TORCHYARD_INSTANCES": "2", "TORCHYARD_THREADS": "1"}
    with start(archives / "slow", **given) as running:
        running.wait_until_ready()
        ready = _events(running)[-1]
        assert (ready["event"], ready["instances"], ready["threads"], ready["max_size"]) == ("ready", 2, 1, 1)
        assert [answer.status_code for answer in _together(running, 1, 2, 3, 4)] == [200] * 4


def test_a_full_queue_is_refused_at_once_and_health_answers(start: Start, archives: Path) -> None:
    with start(archives / "slow", TORCHYARD_QUEUE="2") as running:
        running.wait_until_ready()
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(_ask, running, number) for number in range(12)]
            time.sleep(0.05)
            assert requests.get(running.url("v2/health/live"), timeout=1).ok
            answers = [each.result() for each in asked]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert 200 in {answer.status_code for answer in answers}
        assert len(refused) >= 6
        for answer in refused:
            assert int(answer.headers["Retry-After"]) >= 1
            assert "The queue is full" in answer.json()["error"]
        assert _ask(running).ok


def test_late_requests_and_those_of_gone_clients_are_not_run(start: Start, archives: Path) -> None:
    with start(archives / "slow", TORCHYARD_DEADLINE_MS="60000") as running:
        running.wait_until_ready()
        started = time.monotonic()
        _ask(running)
        once = time.monotonic() - started
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(_ask, running)
            time.sleep(once / 4)
            gone = [_sent(running) for _ in range(40)]
            late = _ask(running, headers={"X-Envoy-Expected-Rq-Timeout-Ms": "20"})
            assert (late.status_code, "deadline passed" in late.json()["error"]) == (504, True)
            for each in gone:
                each.close()
            assert busy.result().ok
            started = time.monotonic()
            assert _ask(running).ok
            # Run all the same, they would take 40 times as long.
            assert time.monotonic() - started < 20 * once


def _sent(running: Running, first: float = 1.0) -> socket.socket:
    """A client whose request is complete, and who does not wait for the answer."""
    host, port = running.address.split(":")
    body = json.dumps({"inputs": [_tensor(first, 0, 0)]})
    client = socket.create_connection((host, int(port)))
    client.sendall(f"POST /{INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


_SCORES = """
import json, os, pathlib
found = {}
for process in pathlib.Path("/proc").glob("[0-9]*"):
    parses = b"spawn_main" in (process / "cmdline").read_bytes()
    if process.name != str(os.getpid()) and (parses or process.name == "1"):
        found["parses" if parses else "serves"] = int((process / "oom_score_adj").read_text())
print(json.dumps(found))
"""


def _scores(server: Running) -> dict[str, int]:
    """How ready the kernel is to end the server, and the process that parses for it."""
    done = server.container.exec_run(["/usr/bin/python3.13", "-c", _SCORES])
    found: dict[str, int] = json.loads(cast(bytes, done.output))
    return found


def test_large_json_holds_nobody_up_and_costs_its_own_request_only(start: Start, archives: Path) -> None:
    rows = 1_000_000
    data = ",".join(["0.12345678"] * 3 * rows)
    tensor = f'{{"name": "x", "datatype": "FP32", "shape": [{rows}, 3], "data": [{data}]}}'
    body = f'{{"inputs": [{tensor}], "parameters": {{"binary_data_output": true}}}}'.encode()
    with start(archives / "slow") as running:
        running.wait_until_ready()
        with ThreadPoolExecutor(1) as pool:
            large = pool.submit(requests.post, running.url(INFER), data=body, timeout=60)
            longest = 0.0
            while not large.done():
                started = time.monotonic()
                assert requests.get(running.url("v2/health/live"), timeout=5).ok
                longest = max(longest, time.monotonic() - started)
            assert large.result().status_code == 200
        # As many numbers again in lists of their own take more than half the memory of the container.
        nested = b'{"inputs": [' + b"[1]," * 15_000_000 + b"1]}"
        answer = requests.post(running.url(INFER), data=nested, timeout=60)
        assert (answer.status_code, "takes more memory" in answer.json()["error"]) == (413, True)
        # Where there is not enough for both, the kernel ends the process that parses, and not the server.
        assert _scores(running) == {"serves": 0, "parses": 1000}
        assert _ask(running).ok
    assert longest < 1


def test_memory_that_is_not_there_costs_its_own_request_only(start: Start, archives: Path) -> None:
    with start(archives / "slow") as running:
        running.wait_until_ready()
        for _ in range(3):
            hungry = _ask(running, HUNGRY)
            assert hungry.status_code == 500
            assert "allocate" in hungry.json()["error"]
            assert _ask(running).ok


def _ended(connections: list[http.client.HTTPConnection]) -> list[socket.socket]:
    """Those that the server has closed: it sends nothing unasked, so that only an end can be read."""
    return select.select([each.sock for each in connections], [], [], 0)[0]


def test_the_front_has_limits(start: Start, archives: Path) -> None:
    with start(archives / "slow", TORCHYARD_CONNECTIONS="20") as running:
        running.wait_until_ready()
        host, port = running.address.split(":")
        for head, status in ((b"X: " + b"a" * 40_000, 431), (b"".join(b"x%d: 1\r\n" % n for n in range(200)), 431)):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
                assert client.recv(99).startswith(b"HTTP/1.1 %d " % status)
        idle = [http.client.HTTPConnection(host, int(port)) for _ in range(60)]
        for connection in idle:
            connection.connect()
        # The proxy passes connections on in any order: a further one is the last only when it has passed on all.
        deadline = time.monotonic() + 10
        while len(_ended(idle)) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(_ended(idle)) == 40
        assert requests.get(running.url("v2/health/live"), timeout=5).ok
        assert _ask(running).ok
        for connection in idle:
            connection.close()


def test_clients_that_crawl_are_given_up(start: Start, archives: Path) -> None:
    with start(archives / "slow") as running:
        running.wait_until_ready()
        host, port = running.address.split(":")
        started = time.monotonic()
        with (
            socket.create_connection((host, int(port)), 30) as head,
            socket.create_connection((host, int(port)), 30) as body,
        ):
            head.sendall(b"GET /v2 HTTP/1.1\r\nHo")
            body.sendall(f"POST /{INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
            for client in (head, body):
                assert client.recv(99).startswith(b"HTTP/1.1 408 ")
        assert 9 < time.monotonic() - started < 20


def test_what_the_kernel_holds_for_a_client_counts_and_is_let_go_of(engine: DockerEngine, runtime: Image) -> None:
    script = Path(__file__).with_name("pace_trial.py")
    command = ("/usr/bin/python3.13", "/trial.py")
    mounts = (Mount(source=script, target="/trial.py"),)
    lines: list[str] = []
    engine.run(Job(image=runtime.digest, command=command, limits=SERVING, mounts=mounts), on_line=lines.append)
    (buffered, waiting, _, less, end, got), (*_, ordinary, more) = map(json.loads, lines)
    assert buffered + 2**18 < waiting <= 2**25
    assert less <= 2**25 - 2**22
    # After an ordinary end the client is still given what the server's kernel had.
    assert (end, ordinary) == ("reset", "end")
    assert got + 2**18 < more


def test_a_run_that_hangs_is_not_live_and_a_second_signal_ends_it(start: Start, archives: Path) -> None:
    with start(archives / "slow", TORCHYARD_STUCK_SECONDS="1") as running:
        running.wait_until_ready()
        assert requests.get(running.url("v2/health/live"), timeout=5).ok
        with _sent(running, ENDLESS):
            deadline = time.monotonic() + 10
            while requests.get(running.url("v2/health/live"), timeout=5).ok and time.monotonic() < deadline:
                time.sleep(0.1)
            reply = requests.get(running.url("v2/health/live"), timeout=5)
            assert (reply.status_code, "STUCK_SECONDS" in reply.json()["error"]) == (503, True)
            running.container.kill(signal="SIGTERM")
            time.sleep(1)
            running.container.reload()
            assert running.container.status == "running"
            running.container.kill(signal="SIGTERM")
            assert running.exit_code() == 128 + signal.SIGTERM
        events = [(event["event"], event["level"]) for event in _events(running)]
        assert events[-3:] == [("stuck", "error"), ("draining", "info"), ("ended", "warning")]


def test_a_run_of_a_client_that_left_is_waited_for_at_the_end(start: Start, archives: Path) -> None:
    with start(archives / "patient", TORCHYARD_STOP_SECONDS="40") as running:
        running.wait_until_ready()
        body = json.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [10_000]}]})
        with pytest.raises(requests.ReadTimeout):
            requests.post(running.url("v2/models/patient/infer"), data=body, timeout=0.5)
        stopped = time.monotonic()
        running.container.kill(signal="SIGTERM")
        assert running.exit_code() == 0, running.log()
        # Long after the last connection was closed.
        assert time.monotonic() - stopped > 1.5


def test_who_waits_for_a_run_that_does_not_end_is_told_when_the_server_has_to(start: Start, archives: Path) -> None:
    with start(archives / "slow", TORCHYARD_STOP_SECONDS="3") as running, ThreadPoolExecutor(1) as pool:
        running.wait_until_ready()
        asked = pool.submit(_ask, running, ENDLESS)
        time.sleep(0.5)
        running.container.kill(signal="SIGTERM")
        reply = asked.result()
        assert (reply.status_code, reply.headers["Retry-After"], reply.headers["Connection"]) == (503, "1", "close")
        assert "stopped before it had answered" in reply.json()["error"]
        assert running.exit_code() == RunStuck.exit_code
        last = _events(running)[-1]
        assert (last["level"], "its requests were given up" in last["error"]) == ("error", True)


def test_the_logs_level_changes_at_run_time(start: Start, archives: Path) -> None:
    with start(archives / "slow", TORCHYARD_LOG_LEVEL="warning") as running:
        running.wait_until_ready()
        assert not running.log()
        for _ in range(2):
            running.container.kill(signal="SIGUSR1")
            time.sleep(0.2)
        assert _ask(running, 7.0).ok
        deadline = time.monotonic() + 10
        # A request is logged after it is answered. The health check's own ones are there, too.
        while not (asked := [each for each in _events(running) if each.get("path") == f"/{INFER}"]):
            assert time.monotonic() < deadline, running.log()
            time.sleep(0.1)
        levels = [event["tells"] for event in _events(running) if event["event"] == "log-level"]
        assert levels == ["info", "debug"]
        assert [(each["event"], each["id"], each["status"]) for each in asked] == [("request", "7.0", 200)]
