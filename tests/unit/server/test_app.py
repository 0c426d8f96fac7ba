"""The application as uvicorn calls it, in process, with a model of the fake engine."""

import asyncio
import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server import log
from server.http import app as app_module
from server.http import routes
from server.http.app import App, State
from server.http.body import Bodies
from server.http.elsewhere import Elsewhere
from server.inference.statistics import Executions, Statistics, Tally
from server.model import contract
from server.model.answers import Answer
from server.model.engine import Input
from server.model.served import ServedModel
from server.protocol import compression
from server.refusal import Refusal
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine

MAX_BODY = 4096
INFER = "/v2/models/tiny/infer"
VERSIONED = "/v2/models/tiny/versions/1.0.0"
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}


@dataclass
class Here:
    """Runs the model in the calling thread, or refuses."""

    served: ServedModel
    refusal: Refusal | None = None
    seconds: float | None = None
    statistics: Statistics = field(default_factory=Statistics)

    async def answer(self, inputs: Sequence[Input], *, deadline: float | None = None) -> Sequence[Answer]:
        self.seconds = None if deadline is None else deadline - time.monotonic()
        if self.refusal:
            raise self.refusal
        return self.served.answer(inputs)


@dataclass
class Reply:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _app(
    folder: Path,
    behaviour: str = "double",
    refusal: Refusal | None = None,
    deadline: float | None = None,
    slow: float = 60,
) -> App:
    described = contract.read(models.write(folder, behaviour=behaviour))
    engine = FakeEngine()
    model = engine.load(str(folder / "model.pt"), optimize=True)
    here = Here(ServedModel(contract=described, engine=engine, model=model), refusal)
    bodies = Bodies(largest=MAX_BODY, most=2 * MAX_BODY)
    app = App(described, here, bodies=bodies, deadline=deadline, requests=log.Requests(slow))
    app.state = "ready"
    return app


@pytest.fixture
def app(tmp_path: Path) -> App:
    return _app(tmp_path)


def _call(
    app: App, method: str, path: str, *chunks: bytes, headers: Sequence[tuple[bytes, bytes]] = (), ends: bool = True
) -> Reply | None:
    """The reply, or None where none was sent. Without `ends` the client goes away after the chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    last = {"type": "http.request", "body": b""} if ends else {"type": "http.disconnect"}
    waiting = iter([*messages, last])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(waiting)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None
    start, body = sent
    reply = Reply(start["status"], dict(start["headers"]), body["body"])
    assert int(reply.headers[b"content-length"]) == len(reply.body)
    return reply


def _get(app: App, path: str) -> Reply:
    reply = _call(app, "GET", path)
    assert reply
    return reply


def _post(app: App, *chunks: bytes, path: str = INFER, headers: Sequence[tuple[bytes, bytes]] = ()) -> Reply:
    reply = _call(app, "POST", path, *chunks, headers=headers)
    assert reply
    return reply


def _json(**fields: Any) -> bytes:
    return json.dumps({"inputs": [TENSOR], **fields}).encode()


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_metadata(app: App, path: str) -> None:
    reply = _get(app, path)
    assert reply.status == 200
    assert reply.headers[b"content-type"] == b"application/json"
    assert (reply.json["name"], reply.json["version"]) == ("torchyard", "0.1.0")
    assert {"binary_tensor_data", "statistics"} <= set(reply.json["extensions"])


@pytest.mark.parametrize("path", ["/v2/models/tiny", VERSIONED])
def test_model_metadata(app: App, path: str) -> None:
    assert _get(app, path).json == {
        "name": "tiny",
        "versions": ["1.0.0"],
        "platform": "pytorch_torchscript",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }


READY = ["/v2/health/ready", "/v2/models/tiny/ready", f"{VERSIONED}/ready"]


@pytest.mark.parametrize("path", READY)
def test_ready_is_200_only_while_ready(app: App, path: str) -> None:
    assert (_get(app, path).status, _get(app, path).json["ready"]) == (200, True)
    for state in ("loading", "rehearsing", "draining"):
        app.state = state
        assert (_get(app, path).status, _get(app, path).json) == (503, {"error": f"Not ready: {state}."})


def test_live_and_metadata_in_every_state(app: App) -> None:
    for state in ("loading", "ready", "draining"):
        app.state = state
        assert _get(app, "/v2/health/live").json == {"live": True}
        assert _get(app, "/v2/models/tiny").status == 200


def test_while_loading_an_inference_is_a_503(app: App) -> None:
    app.state = "loading"
    assert _post(app, _json()).status == 503
    assert "'tiny' is loading" in _post(app, _json()).json["error"]


def test_while_draining_inferences_are_answered_and_connections_closed(app: App) -> None:
    assert b"connection" not in _post(app, _json()).headers
    app.state = "draining"
    reply = _post(app, _json())
    assert (reply.status, reply.headers[b"connection"]) == (200, b"close")


@pytest.mark.parametrize("path", [INFER, f"{VERSIONED}/infer"])
def test_inference_in_json(app: App, path: str) -> None:
    reply = _post(app, _json(id="7"), path=path)
    assert reply.status == 200
    assert reply.json == {
        "model_name": "tiny",
        "model_version": "1.0.0",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 4.0, 6.0]}],
    }


def test_inference_in_binary_and_in_many_chunks(app: App) -> None:
    content = np.array([1, 2, 3], np.float32).tobytes()
    tensor = {k: TENSOR[k] for k in ("name", "datatype", "shape")} | {"parameters": {"binary_data_size": 12}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = (b"inference-header-content-length", str(len(head)).encode())
    for chunks in ([head + content], [head, content], [bytes([byte]) for byte in head + content]):
        reply = _post(app, *chunks, headers=[length])
        assert reply.status == 200
        assert reply.headers[b"content-type"] == b"application/octet-stream"
        at = int(reply.headers[b"inference-header-content-length"])
        assert json.loads(reply.body[:at])["outputs"][0]["parameters"] == {"binary_data_size": 12}
        assert np.frombuffer(reply.body[at:], np.float32).tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/", "There is nothing at '/'"),
        ("/v2/nowhere", "There is nothing at '/v2/nowhere'"),
        ("/v2/models/other", "There is no model 'other'; this server has 'tiny'"),
        ("/v2/models/other/infer", "There is no model 'other'"),
        ("/v2/models/tiny/versions/2", "Model 'tiny' has no version '2'; this server has '1.0.0'"),
        ("/v2/models/tiny/explain", "There is nothing at"),
        ("/../../etc/passwd", "There is nothing at"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
def test_unknown_path_is_a_404(app: App, method: str, path: str, told: str) -> None:
    reply = _call(app, method, path)
    assert reply
    assert reply.status == 404
    assert told in reply.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/v2", b"GET, HEAD"), ("DELETE", "/v2/health/live", b"GET, HEAD"), ("GET", INFER, b"POST")],
)
def test_wrong_method_is_a_405(app: App, method: str, path: str, allow: bytes) -> None:
    reply = _call(app, method, path)
    assert reply
    assert (reply.status, reply.headers[b"allow"]) == (405, allow)
    assert f"{path}: expected" in reply.json["error"]


def test_head_is_a_get(app: App) -> None:
    reply = _call(app, "HEAD", "/v2/health/ready")
    assert reply
    assert reply.status == 200


def test_a_bad_request_says_what_is_wrong(app: App) -> None:
    reply = _post(app, b'{"inputs": []}')
    assert (reply.status, reply.json) == (400, {"error": "inputs: x missing; the model takes all of its inputs."})


@pytest.mark.parametrize("value", [b"-1", b"x", b"", b"1" * 30])
def test_a_header_length_that_is_none_is_a_400(app: App, value: bytes) -> None:
    reply = _post(app, _json(), headers=[(b"inference-header-content-length", value)])
    assert reply.status == 400
    assert "Inference-Header-Content-Length: expected a number of bytes" in reply.json["error"]


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
def test_an_unknown_encoding_is_a_415(app: App, encoding: str) -> None:
    reply = _post(app, b"...", headers=[(b"content-encoding", encoding.encode())])
    assert reply.status == 415
    assert f"expected one of gzip, deflate, identity, got '{encoding}'" in reply.json["error"]


_PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_both_ways(app: App, encoding: str) -> None:
    tensor = TENSOR | {"shape": [200, 3], "data": [1, 2, 3] * 200}
    body = _PACK[encoding](json.dumps({"inputs": [tensor]}).encode())
    asked = [(b"content-encoding", encoding.encode()), (b"accept-encoding", encoding.encode())]
    reply = _post(app, body, headers=asked)
    assert (reply.status, reply.headers[b"content-encoding"]) == (200, encoding.encode())
    assert json.loads(_UNPACK[encoding](reply.body))["outputs"][0]["data"] == [2, 4, 6] * 200


def test_an_answer_counts_until_it_is_compressed(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are taken faster than answers are compressed."""
    held = []

    async def deflated(_: str, body: bytes) -> bytes:
        held.append(app._bodies.held - len(body))
        return b"x"

    monkeypatch.setattr(compression, "INLINE", 1000)
    monkeypatch.setattr(compression, "deflated", deflated)
    asked = json.dumps({"inputs": [TENSOR | {"shape": [200, 3], "data": [1, 2, 3] * 200}]}).encode()
    assert _post(app, asked, headers=[(b"accept-encoding", b"gzip")]).body == b"x"
    assert (held, app._bodies.held) == ([len(asked)], 0)


def test_an_answer_that_is_compressed_at_once_is_refused_for_no_others_bytes(app: App) -> None:
    asked = json.dumps({"inputs": [TENSOR | {"shape": [200, 3], "data": [1, 2, 3] * 200}]}).encode()
    app._bodies.held = 2 * MAX_BODY - len(asked)
    assert _post(app, asked, headers=[(b"accept-encoding", b"gzip")]).headers[b"content-encoding"] == b"gzip"


def test_small_answers_are_not_compressed(app: App) -> None:
    reply = _post(app, _json(), headers=[(b"accept-encoding", b"gzip")])
    assert b"content-encoding" not in reply.headers


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (gzip.compress(bytes(100 * MAX_BODY)), 413, f"at most {MAX_BODY} bytes are taken, and it holds more"),
        (gzip.compress(b"{}")[:-4], 400, "its gzip ends too early"),
        (gzip.compress(b"{}") + b"x", 400, "1 bytes are left after its gzip"),
        (b"plain", 400, "not gzip"),
        (b"", 400, "its gzip ends too early"),
    ],
)
def test_what_is_not_gzip_or_holds_too_much_is_refused(app: App, body: bytes, status: int, told: str) -> None:
    reply = _post(app, body, headers=[(b"content-encoding", b"gzip")])
    assert reply.status == status
    assert told in reply.json["error"]


def test_parameters_of_the_clients_own_come_back(app: App) -> None:
    mine = {"a": "kept", "b": 2, "c": True, "d": 0.5}
    body = _json(parameters={**mine, "timeout": 5_000_000, "list": [1], "none": None}).replace(
        b"0.5", b'0.5, "e": 1e400'
    )
    reply = _post(app, body)
    assert reply.json["parameters"] == mine
    assert "parameters" not in _post(app, _json()).json


@pytest.mark.parametrize("path", ["/v2/models/tiny/config", f"{VERSIONED}/config"])
def test_configuration(app: App, path: str) -> None:
    config = _get(app, path).json
    assert (config["name"], config["max_batch_size"]) == ("tiny", 0)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}]


@pytest.mark.parametrize("path", ["/v2/models/stats", "/v2/models/tiny/stats", f"{VERSIONED}/stats"])
def test_statistics(app: App, path: str) -> None:
    found = app._inference.statistics
    found.success.add(7, 3)
    found.batches[2] = Executions(compute_infer=Tally(count=1, ns=5))
    (model,) = _get(app, path).json["model_stats"]
    assert (model["name"], model["version"]) == ("tiny", "1.0.0")
    assert model["inference_stats"]["success"] == {"count": 3, "ns": 7}
    assert model["batch_stats"][0]["batch_size"] == 2
    assert model["batch_stats"][0]["compute_infer"] == {"count": 1, "ns": 5}


def test_the_repository_has_one_model(app: App) -> None:
    model = {"name": "tiny", "version": "1.0.0", "state": "READY", "reason": ""}
    assert _post(app, b"", path="/v2/repository/index").json == [model]
    assert _post(app, b'{"ready": true}', path="/v2/repository/index").json == [model]
    app.state = "loading"
    assert _post(app, b'{"ready": true}', path="/v2/repository/index").json == []
    assert _post(app, b"{}", path="/v2/repository/index").json[0]["state"] == "LOADING"
    assert _post(app, b'{"ready": 1}', path="/v2/repository/index").status == 400
    told = _post(app, b'{"x": "' + bytes(2**12) + b'"}', path="/v2/repository/index")
    assert (told.status, told.json["error"]) == (413, "the body: at most 4096 bytes are taken.")


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_the_repository_is_read_only(app: App, verb: str) -> None:
    reply = _post(app, b"{}", path=f"/v2/repository/models/tiny/{verb}")
    assert (reply.status, reply.headers[b"allow"]) == (405, b"")
    assert "neither loads nor unloads" in reply.json["error"]


def test_metrics_are_prometheus_text(app: App) -> None:
    found = app._inference.statistics
    found.success.add(2_000_000_000, 4)
    found.rejected = 3
    reply = _get(app, "/metrics")
    assert reply.headers[b"content-type"].startswith(b"text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    requests = {sample.labels["outcome"]: sample for sample in families["torchyard_requests"].samples}
    assert {outcome: sample.value for outcome, sample in requests.items()} == {"success": 4, "fail": 0}
    assert requests["fail"].labels | {"outcome": ""} == {"model": "tiny", "version": "1.0.0", "outcome": ""}
    seconds = {sample.labels["outcome"]: sample.value for sample in families["torchyard_request_seconds"].samples}
    assert seconds["success"] == 2
    refused = {sample.labels["reason"]: sample.value for sample in families["torchyard_refused"].samples}
    assert refused == {"queue_full": 3, "deadline": 0}
    assert "process_resident_memory_bytes" in families


def test_openapi_states_what_the_model_takes(app: App) -> None:
    document = _get(app, "/openapi.json").json
    assert f"{VERSIONED}/infer" in document["paths"]
    (tensor,) = document["components"]["schemas"]["Request"]["properties"]["inputs"]["items"]["oneOf"]
    assert tensor["properties"]["datatype"] == {"const": "FP32"}
    assert tensor["properties"]["shape"]["prefixItems"] == [{"type": "integer", "minimum": 0}, {"const": 3}]
    assert set(document["paths"]) == {path for path, _ in routes._routes(app._contract, Statistics())}
    for path, operations in document["paths"].items():
        for method in operations:
            reply = _call(app, method.upper(), path, b"{}")
            assert reply
            assert reply.status in {200, 400}, path


@pytest.mark.parametrize("chunk", [1, 1000, MAX_BODY + 1, 100 * MAX_BODY])
def test_a_body_over_the_limit_is_a_413_and_its_end_is_not_waited_for(app: App, chunk: int) -> None:
    count = 3 * MAX_BODY // chunk + 1
    reply = _call(app, "POST", INFER, *[b" " * chunk] * count, ends=False)
    assert reply
    assert (reply.status, reply.headers[b"connection"]) == (413, b"close")
    assert f"at most {MAX_BODY} bytes" in reply.json["error"]


def test_a_body_at_the_limit_is_read(app: App) -> None:
    body = _json()
    assert _post(app, body + b" " * (MAX_BODY - len(body))).status == 200


def test_a_client_that_goes_away_gets_nothing(app: App) -> None:
    assert _call(app, "POST", INFER, b'{"inp', ends=False) is None


def test_a_model_that_raises_is_a_500_for_that_request_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = _app(tmp_path, "fails")
    reply = _post(app, _json())
    assert (reply.status, reply.json) == (
        500,
        {"error": "The model failed at this request: RuntimeError: out of cheese"},
    )
    (line,) = capsys.readouterr().err.splitlines()
    logged = json.loads(line)
    assert (logged["event"], logged["level"]) == ("model-failed", "error")
    assert _get(app, "/v2/health/ready").status == 200


def test_a_model_that_breaks_its_contract_is_a_500(tmp_path: Path) -> None:
    reply = _post(_app(tmp_path, "rows"), _json())
    assert reply.status == 500
    assert "returned INT64" in reply.json["error"]


def test_a_full_queue_is_a_503_that_says_when_to_ask_again(tmp_path: Path) -> None:
    reply = _post(_app(tmp_path, refusal=Refusal(503, "128 requests are waiting.", retry_after=3)), _json())
    assert (reply.status, reply.headers[b"retry-after"]) == (503, b"3")
    assert reply.json == {"error": "128 requests are waiting."}


def test_a_bug_is_a_500_and_in_the_log(
    app: App, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("server.protocol.repeated.parse", broken)
    reply = _post(app, _json())
    assert reply.status == 500
    assert "no such luck" not in reply.json["error"]
    logged = json.loads(capsys.readouterr().err)
    assert (logged["event"], logged["error"]) == ("request-failed", "no such luck")
    assert "ZeroDivisionError" in logged["traceback"]


@pytest.mark.parametrize(
    ("deadline", "header", "least", "most"),
    [(None, None, None, None), (5.0, None, 4, 5), (5.0, b"2000", 1, 2), (1.0, b"30000", 0, 1), (None, b"3000", 2, 3)],
)
def test_a_deadline_is_the_clients_or_the_servers(
    tmp_path: Path, deadline: float | None, header: bytes | None, least: float | None, most: float | None
) -> None:
    app = _app(tmp_path, deadline=deadline)
    headers = [(b"x-envoy-expected-rq-timeout-ms", header)] if header else []
    assert _post(app, _json(), headers=headers).status == 200
    seconds = app._inference.seconds  # type: ignore[attr-defined]
    if least is None or most is None:
        assert seconds is None
    else:
        assert least < seconds <= most


def test_a_deadline_that_is_no_number_is_a_400(app: App) -> None:
    reply = _post(app, _json(), headers=[(b"x-envoy-expected-rq-timeout-ms", b"soon")])
    assert reply.status == 400
    assert "X-Envoy-Expected-Rq-Timeout-Ms: expected a number of milliseconds, got 'soon'" in reply.json["error"]


@pytest.mark.parametrize(("timeout", "least", "most"), [(0, 4, 5), (2_000_000, 1, 2), (30_000_000, 4, 5)])
def test_a_deadline_may_be_in_the_request(tmp_path: Path, timeout: int, least: float, most: float) -> None:
    app = _app(tmp_path, deadline=5.0)
    # The second one's JSON is known from the first.
    for _ in range(2):
        assert _post(app, _json(parameters={"timeout": timeout})).status == 200
        assert least < app._inference.seconds <= most  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("timeout", "got"), [(-1, "-1"), (0.5, "0.5"), (2**63, str(2**63)), ("1", "a string"), (True, "a boolean")]
)
def test_a_timeout_that_is_none_is_a_400(app: App, timeout: object, got: str) -> None:
    reply = _post(app, _json(parameters={"timeout": timeout}))
    assert reply.status == 400
    assert f"parameters.timeout: expected a whole number of microseconds, got {got}." in reply.json["error"]


def test_a_stuck_model_is_neither_live_nor_ready(app: App) -> None:
    app.stuck = True
    assert (_get(app, READY[0]).status, _get(app, READY[0]).json["error"]) == (503, "Not ready: stuck.")
    reply = _get(app, "/v2/health/live")
    assert (reply.status, reply.json["error"][:9]) == (503, "Not live:")
    app.stuck = False
    assert _get(app, "/v2/health/live").status == 200


def test_slow_requests_are_in_the_log_by_their_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = _app(tmp_path, slow=0)
    assert [_post(app, _json(id=str(number))).status for number in (7, 8)] == [200, 200]
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["level"], line["id"], line["status"]) == ("slow-request", "warning", "7", 200)
    assert "data" not in json.dumps(line)


def test_each_request_is_in_the_log_at_debug_only(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    _post(app, _json(id="7"))
    assert not capsys.readouterr().err
    log.set_level("debug")
    try:
        _post(app, _json(id="8"))
    finally:
        log.set_level("info")
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["level"], line["id"], line["path"]) == ("request", "debug", "8", INFER)


def _cut_off(app: App, *, state: State) -> list[dict[str, Any]]:
    """What is sent for a request whose task is cancelled while the model runs, when the server is in that state."""
    sent: list[dict[str, Any]] = []
    body = _json()

    async def waits(*_: object, **__: object) -> Sequence[Answer]:
        await asyncio.sleep(60)
        raise AssertionError

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        scope = {"type": "http", "method": "POST", "path": INFER, "headers": []}
        task = asyncio.ensure_future(app(scope, receive, send))
        await asyncio.sleep(0.01)
        assert app._bodies.held == len(body)
        app.state = state
        task.cancel()
        await task
        assert app._bodies.held == 0

    app._inference.answer = waits  # type: ignore[method-assign]
    asyncio.run(main())
    return sent


def test_a_client_that_goes_away_while_the_model_runs_gets_nothing(tmp_path: Path) -> None:
    assert _cut_off(_app(tmp_path), state="ready") == []


def test_a_request_that_the_end_of_the_server_cuts_off_is_told(tmp_path: Path) -> None:
    head, body = _cut_off(_app(tmp_path), state="draining")
    assert head["status"] == 503
    assert {(b"retry-after", b"1"), (b"connection", b"close")} <= set(head["headers"])
    assert "The server stopped before it had answered" in json.loads(body["body"])["error"]


def test_bodies_that_are_held_leave_no_room_for_more(app: App) -> None:
    app._bodies.held = 2 * MAX_BODY - 10
    reply = _post(app, _json())
    assert (reply.status, reply.headers[b"retry-after"]) == (503, b"1")
    assert f"holds as many bytes of requests as it may, {2 * MAX_BODY}" in reply.json["error"]
    assert app._bodies.held == 2 * MAX_BODY - 10
    app._bodies.held = 0
    assert _post(app, _json()).status == 200
    assert app._bodies.held == 0


def test_what_a_body_becomes_is_held_too(app: App) -> None:
    body = gzip.compress(_json() + b" " * (MAX_BODY // 2))
    app._bodies.held = MAX_BODY + MAX_BODY // 2
    reply = _post(app, body, headers=[(b"content-encoding", b"gzip")])
    assert (reply.status, reply.headers[b"retry-after"]) == (503, b"1")
    assert app._bodies.held == MAX_BODY + MAX_BODY // 2
    app._bodies.held = 0
    assert _post(app, body, headers=[(b"content-encoding", b"gzip")]).status == 200
    assert app._bodies.held == 0


def _sending(app: App, body: bytes) -> tuple[list[int], list[dict[str, Any]]]:
    """The bytes that are held at each message that the application sends for an inference, and these messages."""
    held, sent = list[int](), list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        held.append(app._bodies.held)
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "headers": []}
    asyncio.run(app(scope, receive, send))
    return held, sent


def test_a_large_answer_counts_until_its_client_has_taken_it(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _sending(app, _json())[0] == [0, 0]
    monkeypatch.setattr(app_module, "_LARGE_ANSWER", 50)
    held, (start, *bodies) = _sending(app, _json())
    size = int(dict(start["headers"])[b"content-length"])
    assert held == [size] * 3
    assert app._bodies.held == 0
    # The second message is sent when the first one has been taken.
    assert [(len(each.get("body", b"")), each.get("more_body", False)) for each in bodies] == [(size, True), (0, False)]


def test_an_answer_for_which_there_is_no_room_is_a_503(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_LARGE_ANSWER", 50)
    body = _json()
    app._bodies.hold(2 * MAX_BODY - len(body))
    _, (start, _) = _sending(app, body)
    assert start["status"] == 503
    assert app._bodies.held == 2 * MAX_BODY - len(body)


def test_an_answer_that_would_never_fit_is_sent_where_nothing_else_is_held(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "_LARGE_ANSWER", 50)
    body = _json()
    app._bodies = Bodies(largest=MAX_BODY, most=len(body))
    held, (start, *_) = _sending(app, body)
    size = int(dict(start["headers"])[b"content-length"])
    assert size > len(body)
    assert (start["status"], held, app._bodies.held) == (200, [size] * 3, 0)


@pytest.mark.parametrize("at", [0, 2])
def test_a_client_that_leaves_before_it_has_taken_its_answer_holds_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Also where its answer has not begun, since it has not taken the one before."""
    monkeypatch.setattr(app_module, "_LARGE_ANSWER", 50)
    sent = list[dict[str, Any]]()

    async def leave() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": _json()}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if len(sent) > at:
                await asyncio.sleep(60)

        scope = {"type": "http", "method": "POST", "path": INFER, "headers": []}
        task = asyncio.ensure_future(app(scope, receive, send))
        await asyncio.sleep(0.01)
        assert app._bodies.held > 50
        task.cancel()
        await task

    asyncio.run(leave())
    assert app._bodies.held == 0


def test_a_deadline_passes_while_large_json_waits_to_be_read(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(app_module, "LARGE", 10)
    with ThreadPoolExecutor(1) as busy:
        busy.submit(gate.wait, 10)
        app._elsewhere = Elsewhere(app._contract, lambda: busy)
        reply = _post(app, _json(), headers=[(b"x-envoy-expected-rq-timeout-ms", b"20")])
        gate.set()
    assert (reply.status, reply.json["error"]) == (504, "The request's deadline passed before it was read.")
    statistics = app._inference.statistics
    assert (statistics.expired, statistics.fail.count) == (1, 1)
    assert statistics.fail.ns >= 20e6
