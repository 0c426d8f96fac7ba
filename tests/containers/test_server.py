"""The runtime image with a small model under the production contract: protocol, faults at start, and the end."""

import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from safetensors.numpy import load_file, save_file
from tritonclient import http as triton

from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import ContainerFailed
from tests.containers.conftest import SERVING, Running, Start, readable

HOME = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3.13"
X = np.array([[1.0, -2.5, 3.0]], dtype=np.float32)
INFER = "v2/models/slow/infer"
INFER_WORDS = "v2/models/words/infer"
TEXTS = ["", "good film", "Æther", "日本", "a\0b", "\U0001f600"]
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": X.ravel().tolist()}


@pytest.fixture(scope="module")
def server(start: Start, archives: Path) -> Iterator[Running]:
    with start(archives / "slow") as running:
        running.wait_until_ready()
        yield running


def test_the_real_engine_keeps_the_contract_of_the_fake(engine: DockerEngine, runtime: Image, archives: Path) -> None:
    contract = HOME / "tests" / "unit" / "server" / "engine_contract.py"
    mounts = (Mount(source=archives, target="/archives"), Mount(source=contract, target="/contract/engine_contract.py"))
    program = (
        "import sys, pathlib, _engine; sys.path.append('/contract'); import engine_contract;"
        "engine_contract.hold(_engine, pathlib.Path('/archives')); print('held')"
    )
    lines: list[str] = []
    job = Job(image=runtime.digest, command=(PYTHON, "-c", program), limits=SERVING, mounts=mounts)
    engine.run(job, on_line=lines.append)
    assert lines[-1] == "held"


def test_ready_and_healthy(server: Running) -> None:
    assert requests.get(server.url("v2/health/live"), timeout=5).json() == {"live": True}
    assert "binary_tensor_data" in requests.get(server.url("v2"), timeout=5).json()["extensions"]
    code, output = server.container.exec_run([PYTHON, "-m", "server.health"])
    assert (code, output) == (0, b"")


def test_threads_follow_the_quota(start: Start, archives: Path) -> None:
    with start(archives / "slow") as two, start(archives / "slow", TORCHYARD_THREADS="1") as one:
        two.wait_until_ready()
        one.wait_until_ready()
        assert json.loads(two.log().splitlines()[0])["threads"] == 2
        assert json.loads(one.log().splitlines()[0])["threads"] == 1


def test_inference_in_json(server: Running) -> None:
    response = requests.post(server.url(INFER), json={"id": "7", "inputs": [TENSOR]}, timeout=30)
    assert response.status_code == 200, response.text
    assert response.json()["id"] == "7"
    assert response.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, -5.0, 6.0]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_inference_with_tritons_client(server: Running, binary_in: bool, binary_out: bool) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("slow", "1.0.0")
        tensor = triton.InferInput("x", [3, 3], "FP32")
        rows = np.vstack([X, X, -X])
        tensor.set_data_from_numpy(rows, binary_data=binary_in)
        wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
        answer = client.infer("slow", [tensor], outputs=[wanted], request_id="a")
        assert answer.get_response()["id"] == "a"
        np.testing.assert_allclose(answer.as_numpy("y"), 2 * rows)


@pytest.fixture(scope="module")
def reader(start: Start, archives: Path) -> Iterator[Running]:
    """Serves a model of strings."""
    with start(archives / "words") as running:
        running.wait_until_ready()
        yield running


def test_strings_in_json(reader: Running) -> None:
    text = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
    response = requests.post(reader.url(INFER_WORDS), json={"inputs": [text]}, timeout=30)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"] == [
        {"name": "loud", "datatype": "BYTES", "shape": [6], "data": [text + "!" for text in TEXTS]},
        {"name": "length", "datatype": "INT64", "shape": [6], "data": [len(text.encode()) for text in TEXTS]},
    ]
    none = text | {"shape": [0], "data": []}
    response = requests.post(reader.url(INFER_WORDS), json={"inputs": [none]}, timeout=30)
    assert [output["data"] for output in response.json()["outputs"]] == [[], []]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_strings_with_tritons_client(reader: Running, binary_in: bool, binary_out: bool) -> None:
    with triton.InferenceServerClient(reader.address) as client:
        metadata = client.get_model_metadata("words")
        assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        tensor = triton.InferInput("text", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(np.array(TEXTS, dtype=np.object_), binary_data=binary_in)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("loud", "length")]
        answer = client.infer("words", [tensor], outputs=wanted)
        loud = [each.decode() if binary_out else each for each in answer.as_numpy("loud")]
        assert loud == [text + "!" for text in TEXTS]
        assert answer.as_numpy("length").tolist() == [len(text.encode()) for text in TEXTS]


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        (["a", 5], 400, "inputs[0] (text).data[1]: BYTES takes strings, got 5"),
        (["a", "\ud800"], 400, "inputs[0] (text).data[1]: half of a surrogate pair"),
        (["a", "cut:é"], 500, "output loud: string 1: not UTF-8"),
    ],
)
def test_wrong_strings_are_refused_and_the_next_are_served(
    reader: Running, data: list[Any], status: int, told: str
) -> None:
    text = {"name": "text", "datatype": "BYTES", "shape": [2], "data": data}
    response = requests.post(reader.url(INFER_WORDS), json={"inputs": [text]}, timeout=30)
    assert response.status_code == status
    assert told in response.json()["error"]
    assert requests.post(reader.url(INFER_WORDS), json={"inputs": [text | {"data": ["a", "b"]}]}, timeout=30).ok


def test_strings_are_measured_over_the_wire(reader: Running) -> None:
    command = [PYTHON, "-m", "server.measure", "--model", "/model", "--requests", "10", "--server", "127.0.0.1:8080"]
    code, output = reader.container.exec_run(command)
    assert isinstance(output, bytes)
    assert code == 0, output
    assert json.loads(output.splitlines()[-1])["over_the_wire"]["p50_ms"] > 0


def test_a_model_that_raises_is_a_500_and_the_next_request_is_served(server: Running) -> None:
    unlucky = requests.post(server.url(INFER), json={"inputs": [TENSOR | {"data": [13, 0, 0]}]}, timeout=30)
    assert unlucky.status_code == 500
    assert "unlucky number" in unlucky.json()["error"]
    assert requests.post(server.url(INFER), json={"inputs": [TENSOR]}, timeout=30).ok


def test_nan_is_refused_in_json_and_sent_in_binary(server: Running) -> None:
    tensor = TENSOR | {"data": [0, 14, 0]}
    response = requests.post(server.url(INFER), json={"inputs": [tensor]}, timeout=30)
    assert response.status_code == 406
    assert "y.data[1]" in response.json()["error"]
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    response = requests.post(server.url(INFER), json=asked, timeout=30)
    at = int(response.headers["Inference-Header-Content-Length"])
    assert np.isnan(np.frombuffer(response.content[at:], np.float32)[1])


def test_a_body_over_the_limit_is_a_413(start: Start, archives: Path) -> None:
    with start(archives / "slow", TORCHYARD_MAX_BODY_MIB="1") as small:
        small.wait_until_ready()
        response = requests.post(small.url(INFER), data=b" " * (2**20 + 1), timeout=30)
        assert response.status_code == 413
        assert requests.post(small.url(INFER), json={"inputs": [TENSOR]}, timeout=30).ok


def test_the_log_has_no_payloads(start: Start, archives: Path) -> None:
    """Neither of requests that are answered nor of those that are refused, at the level that tells most."""
    secret = "hunter2"
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [secret]}
    with start(archives / "words", TORCHYARD_LOG_LEVEL="debug") as running:
        running.wait_until_ready()
        url = running.url(INFER_WORDS)
        answered = requests.post(url, json={"id": "7", "inputs": [tensor]}, timeout=30)
        assert answered.json()["outputs"][0]["data"] == [f"{secret}!"]
        # The model cuts the second one in the middle of a character, and its answer cannot be sent.
        failing = {"inputs": [{**tensor, "data": [f"cut:\u00e9{secret}"]}]}
        assert requests.post(url, json=failing, timeout=30).status_code == 500
        for changes in ({"name": secret}, {"datatype": secret}, {"shape": secret}, {"data": secret}, {secret: secret}):
            requests.post(url, json={"inputs": [{**tensor, **changes}]}, timeout=30)
        requests.post(url, data=f'{{"{secret}'.encode(), timeout=30)
        with grpc.insecure_channel(running.grpc) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError):
                infer(secret.encode(), timeout=30)
        log = running.log()
    assert '"id": "7"' in log
    assert '"event": "model-failed"' in log
    assert secret not in log


def test_the_log_is_json_without_a_line_for_each_request(server: Running) -> None:
    events = [json.loads(line) for line in server.log().splitlines()]
    assert [event["event"] for event in events[:2]] == ["loading", "ready"]
    assert all({"time", "level", "event"} <= event.keys() for event in events)
    # On a machine that is busy with something else, requests are slow.
    assert {event["event"] for event in events[2:]} <= {"model-failed", "slow-request"}


def _damage_archive(folder: Path) -> None:
    content = bytearray((folder / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.pt").write_bytes(content)


def _damage_samples(folder: Path) -> None:
    content = bytearray((folder / "samples.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "samples.safetensors").write_bytes(content)


def _disagree(folder: Path) -> None:
    tensors = load_file(folder / "samples.safetensors")
    tensors["1/output/y"][0, 0] += 1
    save_file(tensors, folder / "samples.safetensors")
    readable(folder)
    _describe_again(folder, "samples")


def _replace_archive(folder: Path) -> None:
    (folder / "model.pt").write_bytes(b"no archive at all")
    _describe_again(folder, "archive")


def _remove_contract(folder: Path) -> None:
    (folder / "contract.json").unlink()


def _describe_again(folder: Path, part: str) -> None:
    contract = json.loads((folder / "contract.json").read_text())
    content = (folder / contract[part]["file"]).read_bytes()
    contract[part] |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "contract.json").write_text(json.dumps(contract))


_FAULTS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "archive": (_damage_archive, 4, "/model/model.pt: its sha256 is"),
    "samples": (_damage_samples, 4, "/model/samples.safetensors: its sha256 is"),
    "disagreement": (_disagree, 3, "sample 1: output y differs by up to 1"),
    "no archive": (_replace_archive, 5, "this runtime cannot load the archive"),
    "no contract": (_remove_contract, 6, "/model/contract.json: No such file"),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_fault_ends_the_server_with_its_reason(start: Start, folder: Path, fault: str) -> None:
    damage, code, told = _FAULTS[fault]
    damage(folder)
    with start(folder) as running:
        assert running.exit_code() == code, running.log()
        last = json.loads(running.log().splitlines()[-1])
    assert (last["event"], last["level"], last["exit_code"]) == ("failed", "error", code)
    assert told in last["error"]


@pytest.mark.parametrize("fault", ["archive", "disagreement", "no archive"])
def test_a_fault_ends_the_replay_with_its_reason(
    engine: DockerEngine, runtime: Image, folder: Path, fault: str
) -> None:
    damage, code, told = _FAULTS[fault]
    damage(folder)
    command = (PYTHON, "-m", "server.replay", "--model", "/model")
    job = Job(image=runtime.digest, command=command, limits=SERVING, mounts=(Mount(source=folder, target="/model"),))
    lines: list[str] = []
    with pytest.raises(ContainerFailed) as failed:
        engine.run(job, on_line=lines.append)
    assert failed.value.code == code
    assert any(told in line for line in lines)


def test_the_replay_prints_the_differences(engine: DockerEngine, runtime: Image, folder: Path) -> None:
    command = (PYTHON, "-m", "server.replay", "--model", "/model")
    job = Job(image=runtime.digest, command=command, limits=SERVING, mounts=(Mount(source=folder, target="/model"),))
    lines: list[str] = []
    engine.run(job, on_line=lines.append)
    assert json.loads(lines[-1]) == {
        "samples": 2,
        "probes": 0,
        "outputs": {"y": {"max_abs": 0.0, "max_rel": 0.0}},
    }


@dataclass
class Load:
    """Clients that send request after request; what each request before and after the signal came to."""

    url: str
    signalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    before: list[Any] = field(default_factory=list)
    after: list[Any] = field(default_factory=list)

    def client(self) -> None:
        with requests.Session() as session:
            while not self.ended.is_set():
                kept = self.after if self.signalled.is_set() else self.before
                try:
                    kept.append(session.post(self.url, json={"inputs": [TENSOR]}, timeout=60).status_code)
                except requests.RequestException as error:
                    kept.append(error)
                    if kept is self.after:
                        return


def test_sigterm_under_load_loses_nothing(start: Start, archives: Path) -> None:
    with start(archives / "slow") as running:
        running.wait_until_ready()
        load = Load(running.url(INFER))
        clients = [threading.Thread(target=load.client) for _ in range(8)]
        for client in clients:
            client.start()
        time.sleep(1)
        load.signalled.set()
        stopped = time.monotonic()
        running.container.kill(signal="SIGTERM")
        assert running.exit_code() == 0, running.log()
        seconds = time.monotonic() - stopped
        load.ended.set()
        for client in clients:
            client.join()
        events = [event["event"] for event in map(json.loads, running.log().splitlines())]
        assert [event for event in events if event != "slow-request"][-2:] == ["draining", "stopped"]
    assert len(load.before) >= 8
    assert set(load.before) == {200}
    assert {code for code in load.after if isinstance(code, int)} <= {200}
    assert seconds < 8


def test_sigterm_turns_ready_off_and_is_not_held_up_by_idle_connections(start: Start, archives: Path) -> None:
    with start(archives / "slow") as running:
        running.wait_until_ready()
        host, port = running.address.split(":")
        idle = [http.client.HTTPConnection(host, int(port)) for _ in range(5)]
        for connection in idle[:-1]:
            connection.request("GET", "/v2/health/live")
            connection.getresponse().read()
        idle[-1].connect()
        half = socket.create_connection((host, int(port)))
        half.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\n")
        stopped = time.monotonic()
        running.container.kill(signal="SIGTERM")
        time.sleep(0.1)
        response = requests.get(running.url("v2/health/ready"), timeout=5)
        assert (response.status_code, response.headers["Connection"]) == (503, "close")
        assert running.exit_code() == 0
        assert time.monotonic() - stopped < 4
        for connection in idle:
            connection.close()
        half.close()


def test_sigterm_while_rehearsing_ends_with_0_and_it_never_was_ready(start: Start, archives: Path) -> None:
    with start(archives / "slow") as running:
        said = ""
        while "rehearsing" not in said:
            with suppress(requests.ConnectionError):
                said = requests.get(running.url("v2/health/ready"), timeout=5).text
            assert '{"ready":true}' not in said, "it is ready, and was not seen to rehearse"
        running.container.kill(signal="SIGTERM")
        assert running.exit_code() == 0, running.log()
        events = [json.loads(line)["event"] for line in running.log().splitlines()]
        assert events == ["loading", "draining", "stopped"]


def test_sigterm_while_loading_ends_with_0(start: Start, archives: Path) -> None:
    with start(archives / "slow") as running:
        # Until Python runs, the kernel drops the signals of process 1.
        while "loading" not in running.log():
            time.sleep(0.01)
        running.container.kill(signal="SIGTERM")
        assert running.exit_code() == 0, running.log()
