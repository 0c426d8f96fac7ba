"""The gRPC server on a fake HTTP/2 and without sockets: services, statuses, limits, deadlines and the end."""

import asyncio
import copy
import gc
import gzip
import json
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server import log
from server.grpc import protobuf, rpc_connection, service
from server.grpc.calls import Call
from server.grpc.messages import Messages
from server.grpc.rpc import Server
from server.grpc.rpc_connection import Connection, Limits, Served
from server.grpc.service import Services
from server.grpc.status import Code, Failed
from server.http.app import State
from server.inference.statistics import Statistics
from server.model import contract
from server.model.answers import Answer
from server.model.contract import Contract
from server.model.datatypes import DATATYPES, encode
from server.model.engine import Input
from server.model.served import ServedModel
from server.refusal import Refusal
from tests.unit.server import fake_http2, grpc_frames, models
from tests.unit.server.fake_engine import FakeEngine

SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
MESSAGE = 4096
X = np.array([1, 2, 3], np.float32)
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3]}


@dataclass
class Here:
    """Runs the model in the calling thread, or raises what it is told to, or waits."""

    served: ServedModel
    statistics: Statistics = field(default_factory=Statistics)
    raises: Exception | None = None
    waits: bool = False
    gate: asyncio.Event | None = None
    deadlines: list[float | None] = field(default_factory=list)
    cancelled: int = 0

    async def answer(self, inputs: Sequence[Input], *, deadline: float | None = None) -> Sequence[Answer]:
        self.deadlines.append(deadline)
        if self.raises:
            raise self.raises
        if self.gate:
            await self.gate.wait()
        if self.waits:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return self.served.answer(inputs)


class Transport(asyncio.Transport):
    """Hands what is written to a reader."""

    def __init__(self, reader: grpc_frames.Reader) -> None:
        super().__init__()
        self.reader = reader
        self.closed = False

    def write(self, data: Any) -> None:
        self.reader.take(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0


@dataclass
class Stage:
    """A server with one connection, and what its client sees."""

    inference: Here
    messages: Messages
    served: Served
    state: State = "ready"
    stuck: bool = False
    reader: grpc_frames.Reader = field(default_factory=grpc_frames.Reader)

    def connect(self) -> tuple[Connection, Transport]:
        connection = Connection(self.served, asyncio.get_running_loop())
        transport = Transport(self.reader)
        connection.connection_made(transport)
        connection.data_received(grpc_frames.PREFACE)
        return connection, transport

    def play(self, *said: bytes, turns: int = 20, seconds: float = 0) -> grpc_frames.Reader:
        """Says these bytes on a new connection and lets the loop turn, for so many seconds at least."""

        self.reader = grpc_frames.Reader()

        async def played() -> None:
            connection, _ = self.connect()
            for each in said:
                connection.data_received(each)
            for _ in range(turns):
                await asyncio.sleep(seconds / turns)
            connection.connection_lost(None)

        asyncio.run(played())
        return self.reader

    def call(self, path: str, content: bytes = b"", **fields: str) -> grpc_frames.Answer:
        return self.play(grpc_frames.call(1, path, content, **fields)).answers[1]

    def ask(self, method: str, **fields: Any) -> Any:
        """The response of a method of the inference service to a request with these fields."""
        described = self.messages.pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName(method)
        request = self.messages.get(described.input_type.full_name)(**fields)
        answer = self.call(f"{SERVICE}/{method}", request.SerializeToString())
        assert answer.status == 0, answer.headers
        (content,) = answer.messages
        return self.messages.get(described.output_type.full_name).FromString(content)

    def request(self, **fields: Any) -> bytes:
        """A ModelInferRequest of one row in raw contents, or what `fields` say instead."""
        whole = {"model_name": "tiny", "inputs": [TENSOR], "raw_input_contents": [X.tobytes()], **fields}
        content: bytes = self.messages.get("inference.ModelInferRequest")(**whole).SerializeToString()
        return content

    def response(self, answer: grpc_frames.Answer) -> Any:
        assert answer.status == 0, answer.headers
        (content,) = answer.messages
        return self.messages.get("inference.ModelInferResponse").FromString(content)


Make = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path, protocols: Messages) -> Make:
    def made(
        behaviour: str = "double",
        *,
        deadline: float | None = None,
        held: int = 10**6,
        slow: float = 60,
        **changes: Any,
    ) -> Stage:
        described = contract.read(models.write(tmp_path / "model", behaviour=behaviour, **changes))
        engine = FakeEngine()
        model = engine.load(str(tmp_path / "model" / "model.pt"), optimize=True)
        inference = Here(ServedModel(contract=described, engine=engine, model=model))
        served = Served(
            http2=fake_http2,
            limits=Limits(message=MESSAGE, held=held, connections=2),
            unary={},
            streaming={},
            requests=log.Requests(slow),
        )
        stage = Stage(inference, protocols, served)
        services = Services(described, inference, protocols, server=stage, deadline=deadline)
        served.unary, served.streaming = services.unary, services.streaming
        return stage

    return made


@pytest.fixture
def stage(make: Make) -> Stage:
    return make()


def test_health_and_metadata(stage: Stage) -> None:
    assert stage.ask("ServerLive").live
    assert stage.ask("ServerReady").ready
    assert stage.ask("ModelReady", name="tiny", version="1.0.0").ready
    assert stage.ask("ServerMetadata").name == "torchyard"
    metadata = stage.ask("ModelMetadata", name="tiny")
    assert (metadata.versions, metadata.inputs[0].name, list(metadata.inputs[0].shape)) == (["1.0.0"], "x", [-1, 3])


@pytest.mark.parametrize("state", ["loading", "draining"])
def test_ready_is_false_in_every_other_state(stage: Stage, state: State) -> None:
    stage.state = state
    assert not stage.ask("ServerReady").ready
    assert not stage.ask("ModelReady", name="tiny").ready
    assert stage.ask("ServerLive").live


def test_tritons_extensions(make: Make) -> None:
    stage = make(batching={"max_size": 8, "max_delay_ms": 2})
    config = stage.ask("ModelConfig", name="tiny").config
    assert (config.max_batch_size, list(config.input[0].dims), config.input[0].data_type) == (8, [3], 11)
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    stage.inference.statistics.success.add(7, 3)
    (found,) = stage.ask("ModelStatistics").model_stats
    assert (found.name, found.inference_stats.success.count, found.inference_stats.success.ns) == ("tiny", 3, 7)
    (model,) = stage.ask("RepositoryIndex").models
    assert (model.name, model.version, model.state) == ("tiny", "1.0.0", "READY")
    stage.state = "loading"
    assert not stage.ask("RepositoryIndex", ready=True).models


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_the_repository_is_read_only(stage: Stage, method: str) -> None:
    answer = stage.call(f"{SERVICE}/{method}")
    assert answer.status == Code.UNIMPLEMENTED
    assert "neither loads nor unloads" in answer.headers["grpc-message"]


def test_raw_contents_are_answered_with_raw_ones(stage: Stage) -> None:
    response = stage.response(stage.call(INFER, stage.request(id="7")))
    assert (response.model_name, response.model_version, response.id) == ("tiny", "1.0.0", "7")
    assert (response.outputs[0].name, list(response.outputs[0].shape)) == ("y", [1, 3])
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [2, 4, 6]
    assert not response.outputs[0].HasField("contents")


def test_typed_contents_are_answered_with_typed_ones(stage: Stage) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "contents": {"fp32_contents": [1, float("inf"), -3]}}
    response = stage.response(stage.call(INFER, stage.request(inputs=[tensor], raw_input_contents=[])))
    assert list(response.outputs[0].contents.fp32_contents) == [2, float("inf"), -6]
    assert not response.raw_output_contents


@pytest.mark.parametrize(
    ("datatype", "contents", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [1, 2**16 - 1]),
        ("UINT32", "uint_contents", [1, 2**32 - 1]),
        ("UINT64", "uint64_contents", [1, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, float("-inf")]),
        ("FP64", "fp64_contents", [1e-300, float("inf")]),
    ],
)
def test_typed_contents_of_a_datatype_come_back(
    make: Make, monkeypatch: pytest.MonkeyPatch, datatype: str, contents: str, values: list[Any]
) -> None:
    described = [{"name": "x", "datatype": datatype, "shape": [-1]}]
    stage = make(inputs=described, outputs=[{**described[0], "name": "y"}])

    async def echo(inputs: Sequence[Input], **_: object) -> Sequence[Answer]:
        (output,) = stage.inference.served.contract.outputs
        return [
            Answer(tensor=output, shape=tuple(shape), content=memoryview(bytes(content)).cast("B"))
            for _, shape, content in inputs
        ]

    monkeypatch.setattr(stage.inference, "answer", echo)
    tensor = {"name": "x", "datatype": datatype, "shape": [2]}
    typed = [{**tensor, "contents": {contents: values}}]
    response = stage.response(stage.call(INFER, stage.request(inputs=typed, raw_input_contents=[])))
    assert response.outputs[0].datatype == datatype
    assert list(getattr(response.outputs[0].contents, contents)) == values
    raw = encode(DATATYPES[datatype], values)
    response = stage.response(stage.call(INFER, stage.request(inputs=[tensor], raw_input_contents=[bytes(raw)])))
    assert response.raw_output_contents[0] == bytes(raw)


def test_a_stuck_run_is_told_of(stage: Stage) -> None:
    stage.stuck = True
    assert not stage.ask("ServerLive").live
    assert not stage.ask("ServerReady").ready
    assert not stage.ask("ModelReady", name="tiny").ready
    check = stage.call("/grpc.health.v1.Health/Check")
    status = stage.messages.get("grpc.health.v1.HealthCheckResponse").FromString(check.messages[0]).status
    assert status == 2  # NOT_SERVING


def test_parameters_of_the_clients_own_come_back(stage: Stage) -> None:
    parameters = {"mine": {"string_param": "kept"}, "timeout": {"int64_param": 5_000_000}}
    response = stage.response(stage.call(INFER, stage.request(parameters=parameters)))
    assert dict(response.parameters.items()).keys() == {"mine"}
    assert response.parameters["mine"].string_param == "kept"


def test_strings_either_way(make: Make) -> None:
    text = [{"name": "x", "datatype": "BYTES", "shape": [-1]}]
    stage = make("echo", inputs=text, outputs=[{**text[0], "name": "y"}])
    tensor = {"name": "x", "datatype": "BYTES", "shape": [2]}
    typed = [{**tensor, "contents": {"bytes_contents": [b"", "Æ".encode()]}}]
    response = stage.response(stage.call(INFER, stage.request(inputs=typed, raw_input_contents=[])))
    assert list(response.outputs[0].contents.bytes_contents) == [b"", "Æ".encode()]
    raw = bytes(4) + b"\2\0\0\0" + "Æ".encode()
    response = stage.response(stage.call(INFER, stage.request(inputs=[tensor], raw_input_contents=[raw])))
    assert response.raw_output_contents[0] == raw


_X = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
_WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "model": ({"model_name": "other"}, 5, "There is no model 'other'; this server has 'tiny'"),
    "version": ({"model_version": "2"}, 5, "has no version '2'"),
    "no inputs": ({"inputs": [], "raw_input_contents": []}, 3, "inputs: x missing"),
    "name": ({"inputs": [_X | {"name": "z"}]}, 3, 'inputs[0].name: expected one of x, got "z"'),
    "twice": ({"inputs": [_X, _X], "raw_input_contents": [X.tobytes()] * 2}, 3, "x is there twice"),
    "datatype": ({"inputs": [_X | {"datatype": "FP64"}]}, 3, 'datatype: expected FP32, got "FP64"'),
    "rank": ({"inputs": [_X | {"shape": [3]}]}, 3, "shape: expected [-1, 3], where -1 is free, got [3]"),
    "negative": ({"inputs": [_X | {"shape": [-1, 3]}]}, 3, "shape: expected a list of whole numbers from 0"),
    "huge": ({"inputs": [_X | {"shape": [2**62, 3]}]}, 3, f"takes {2**62 * 12} bytes, got 12"),
    "no room": ({"inputs": [_X | {"shape": [0, 3]}]}, 3, "takes 0 bytes, got 12"),
    "raw short": ({"raw_input_contents": [b"\0" * 11]}, 3, "raw_input_contents[0] (x): FP32 of shape [1, 3] takes 12"),
    "raw many": ({"raw_input_contents": [b"", b""]}, 3, "raw_input_contents: expected one for each of 1 inputs, got 2"),
    "both": ({"inputs": [_X | {"contents": {"fp32_contents": [1]}}]}, 3, "contents: expected none beside raw"),
    "other field": (
        {"inputs": [_X | {"contents": {"int_contents": [1, 2, 3]}}], "raw_input_contents": []},
        3,
        "contents: FP32 takes fp32_contents, got int_contents",
    ),
    "typed short": (
        {"inputs": [_X | {"contents": {"fp32_contents": [1]}}], "raw_input_contents": []},
        3,
        "shape [1, 3] takes 3 values, got 1",
    ),
    "no contents": ({"raw_input_contents": []}, 3, "shape [1, 3] takes 3 values, got 0"),
    "output": ({"outputs": [{"name": "z"}]}, 3, "outputs[0].name: expected one of y"),
    "output twice": ({"outputs": [{"name": "y"}] * 2}, 3, "outputs[1].name: y is there twice"),
    "shared memory": (
        {"inputs": [_X | {"parameters": {"shared_memory_region": {"string_param": "a"}}}]},
        3,
        "does not have that extension",
    ),
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_wrong_requests_are_refused_with_the_reason(stage: Stage, wrong: str) -> None:
    fields, code, told = _WRONG[wrong]
    answer = stage.call(INFER, stage.request(**fields))
    assert (answer.status, answer.messages) == (code, [])
    assert told in answer.headers["grpc-message"]


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f"])
def test_what_is_no_message_is_an_invalid_argument(stage: Stage, content: bytes) -> None:
    answer = stage.call(INFER, content)
    assert answer.status == Code.INVALID_ARGUMENT
    assert answer.headers["grpc-message"].startswith("the message: ")


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal(503, "full", retry_after=1), Code.RESOURCE_EXHAUSTED),
        (Refusal(503, "not ready"), Code.UNAVAILABLE),
        (Refusal(504, "late"), Code.DEADLINE_EXCEEDED),
        (Refusal(400, "wrong"), Code.INVALID_ARGUMENT),
        (Refusal(413, "large"), Code.RESOURCE_EXHAUSTED),
        (Refusal(500, "failed"), Code.INTERNAL),
    ],
)
def test_refusals_have_their_codes(stage: Stage, refusal: Refusal, code: Code) -> None:
    stage.inference.raises = refusal
    answer = stage.call(INFER, stage.request())
    assert (answer.status, answer.headers["grpc-message"]) == (code, str(refusal))


def test_the_log_tells_of_calls_by_their_id(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    stage = make(slow=0)
    stage.ask("ModelInfer", model_name="tiny", id="7", inputs=[TENSOR], raw_input_contents=[X.tobytes()])
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["level"], line["id"], line["status"]) == ("slow-request", "warning", "7", "OK")
    assert line["path"] == INFER
    log.set_level("debug")
    try:
        stage = make()
        stage.call(INFER, stage.request(id="8", raw_input_contents=[b"short"]))
        stage.ask("ServerLive")
    finally:
        log.set_level("info")
    refused, live = map(json.loads, capsys.readouterr().err.splitlines())
    assert (refused["event"], refused["id"], refused["status"]) == ("request", "8", "INVALID_ARGUMENT")
    assert (live["path"], live["id"], live["status"]) == (f"{SERVICE}/ServerLive", None, "OK")


def test_large_typed_contents_are_read_and_written_beside_the_loop(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, threads = make(), list[str]()
    monkeypatch.setattr(service, "_LARGE", 64)
    monkeypatch.setattr(protobuf, "_TOGETHER", 4)

    def seen(contract: Contract, message: Any, raw: Sequence[memoryview]) -> protobuf.Request:
        threads.append(threading.current_thread().name)
        return parse(contract, message, raw)

    parse = protobuf.parse
    monkeypatch.setattr(protobuf, "parse", seen)
    values = list(map(float, range(30)))
    tensor = {**TENSOR, "shape": [10, 3], "contents": {"fp32_contents": values}}
    content = stage.request(inputs=[tensor], raw_input_contents=[])
    answer = stage.play(grpc_frames.call(1, INFER, content), seconds=0.2).answers[1]
    assert list(stage.response(answer).outputs[0].contents.fp32_contents) == [2 * value for value in values]
    assert threads == ["typed-contents_0"]


def test_an_element_that_does_not_fit_is_named_by_its_place_among_all(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protobuf, "_TOGETHER", 4)
    tensor = {"name": "x", "datatype": "INT8", "shape": [-1, 3]}
    stage = make(inputs=[tensor], outputs=[{**tensor, "name": "y"}])
    wrong = {"name": "x", "datatype": "INT8", "shape": [3, 3], "contents": {"int_contents": [*range(8), 200]}}
    answer = stage.call(INFER, stage.request(inputs=[wrong], raw_input_contents=[]))
    assert answer.status == Code.INVALID_ARGUMENT
    assert "inputs[0] (x).contents[8]: INT8 takes -128 to 127, got 200" in answer.headers["grpc-message"]


def test_a_bug_is_internal_and_in_the_log(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.inference.raises = ZeroDivisionError("no such luck")
    answer = stage.call(INFER, stage.request())
    assert answer.status == Code.INTERNAL
    assert "no such luck" not in answer.headers["grpc-message"]
    assert json.loads(capsys.readouterr().err)["error"] == "no such luck"


def test_a_model_that_raises_is_internal(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    stage = make("fails")
    answer = stage.call(INFER, stage.request(id="9"))
    assert answer.status == Code.INTERNAL
    assert answer.headers["grpc-message"] == "The model failed at this request: RuntimeError: out of cheese"
    assert json.loads(capsys.readouterr().err)["id"] == "9"


def test_while_loading_inference_is_unavailable(stage: Stage) -> None:
    stage.state = "loading"
    assert stage.call(INFER, stage.request()).status == Code.UNAVAILABLE
    stage.state = "draining"
    assert stage.call(INFER, stage.request()).status == Code.OK


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        (grpc_frames.call(1, "/nobody/Nothing", b""), 12, "There is no method /nobody/Nothing."),
        (grpc_frames.call(1, INFER, b"", content_type="text/html"), 3, "content-type: expected"),
        (grpc_frames.call(1, INFER, b"", grpc_timeout="soon"), 3, "grpc-timeout: expected"),
        (grpc_frames.call(1, INFER, b"", grpc_encoding="br"), 12, "grpc-encoding: expected one of gzip"),
        (grpc_frames.headers(1, INFER, ends=True), 3, "takes one message, and none came"),
        (
            grpc_frames.headers(1, INFER) + grpc_frames.data(1, grpc_frames.message(b"") * 2, ends=True),
            3,
            "takes one message, and another one came",
        ),
        (grpc_frames.headers(1, INFER) + grpc_frames.data(1, b"\0\0\0", ends=True), 3, "in the middle of a message"),
        (
            grpc_frames.headers(1, INFER) + grpc_frames.data(1, grpc_frames.message(b"", compressed=True), ends=True),
            3,
            "compressed",
        ),
        (grpc_frames.call(1, INFER, bytes(MESSAGE + 1)), 8, f"A message of {MESSAGE + 1} bytes; at most {MESSAGE}"),
    ],
)
def test_calls_that_are_wrong_below_the_message(stage: Stage, said: bytes, code: int, told: str) -> None:
    answer = stage.play(said).answers[1]
    assert (answer.status, answer.messages) == (code, [])
    assert told in answer.headers["grpc-message"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_either_way(make: Make, encoding: str) -> None:
    text = [{"name": "x", "datatype": "BYTES", "shape": [-1]}]
    stage = make("echo", inputs=text, outputs=[{**text[0], "name": "y"}])
    raw = (1920).to_bytes(4, "little") + b"a" * 1920
    content = stage.request(inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}], raw_input_contents=[raw])
    compressed = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    said = grpc_frames.headers(1, INFER, grpc_encoding=encoding)
    said += grpc_frames.data(1, grpc_frames.message(compressed, compressed=True), ends=True)
    answer = stage.play(said).answers[1]
    assert answer.headers["grpc-encoding"] == encoding
    assert answer.content[0] == 1
    (packed,) = answer.messages
    unpacked = gzip.decompress(packed) if encoding == "gzip" else zlib.decompress(packed)
    response = stage.messages.get("inference.ModelInferResponse").FromString(unpacked)
    assert response.raw_output_contents[0] == raw


def test_a_bomb_is_refused_at_the_limit(stage: Stage) -> None:
    bomb = gzip.compress(bytes(100 * MESSAGE))
    said = grpc_frames.headers(1, INFER, grpc_encoding="gzip")
    said += grpc_frames.data(1, grpc_frames.message(bomb, compressed=True), ends=True)
    answer = stage.play(said).answers[1]
    assert answer.status == Code.RESOURCE_EXHAUSTED
    assert f"at most {MESSAGE} bytes are taken" in answer.headers["grpc-message"]


def test_the_earliest_deadline_counts(make: Make) -> None:
    stage = make(deadline=5.0)
    stage.call(INFER, stage.request())
    stage.call(INFER, stage.request(), grpc_timeout="1S")
    stage.call(INFER, stage.request(parameters={"timeout": {"int64_param": 1_000_000}}))
    stage.call(INFER, stage.request(parameters={"timeout": {"uint64_param": 2_000_000}}), grpc_timeout="1H")
    stage.call(INFER, stage.request(), grpc_timeout="1H")
    now = time.monotonic()
    assert [round(deadline - now) for deadline in stage.inference.deadlines if deadline] == [5, 1, 1, 2, 5]


@pytest.mark.parametrize("parameter", [{"int64_param": -1}, {"string_param": "1"}, {"bool_param": True}, {}])
def test_a_timeout_that_is_none_is_refused(make: Make, parameter: dict[str, object]) -> None:
    stage = make()
    answer = stage.call(INFER, stage.request(parameters={"timeout": parameter}))
    assert answer.status == Code.INVALID_ARGUMENT
    assert "parameters.timeout: expected a whole number of microseconds" in answer.headers["grpc-message"]


def test_a_request_that_is_not_complete_by_its_deadline_is_ended(stage: Stage) -> None:
    async def late() -> None:
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.headers(1, INFER, grpc_timeout="1m"))
        await asyncio.sleep(0.05)

    asyncio.run(late())
    assert stage.reader.answers[1].status == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("how", ["reset", "hang up"])
def test_the_work_of_a_client_that_goes_away_is_dropped(
    make: Make, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = make(slow=0)
    stage.inference.waits = True

    async def gone() -> None:
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.call(1, INFER, stage.request()))
        await asyncio.sleep(0.01)
        if how == "reset":
            connection.data_received(grpc_frames.frame(grpc_frames.RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
        else:
            connection.connection_lost(None)
        await asyncio.sleep(0.01)

    asyncio.run(gone())
    assert stage.inference.cancelled == 1
    assert not stage.reader.answers
    assert json.loads(capsys.readouterr().err)["status"] == "CANCELLED"


def test_all_messages_together_are_bounded(make: Make) -> None:
    stage = make(held=MESSAGE)
    part = b"\0" + MESSAGE.to_bytes(4, "big") + bytes(MESSAGE - 100)

    async def two() -> None:
        first, second = stage.connect()[0], stage.connect()[0]
        for connection in (first, second):
            connection.data_received(grpc_frames.headers(1, INFER) + grpc_frames.data(1, part))
        assert stage.served.held < MESSAGE
        first.connection_lost(None)
        assert stage.served.held == 0

    asyncio.run(two())
    assert stage.reader.answers[1].status == Code.RESOURCE_EXHAUSTED
    assert "holds as many bytes of messages as it may" in stage.reader.answers[1].headers["grpc-message"]


def test_a_whole_message_counts_until_its_call_is_answered(make: Make) -> None:
    """Also where its call does not end, or waits for the model: it is memory all the same."""
    stage = make(held=2 * MESSAGE)
    part = grpc_frames.message(bytes(MESSAGE - 100))

    async def many() -> None:
        connections = [stage.connect()[0] for _ in range(2)]
        for connection in connections:
            for number in (1, 3):
                connection.data_received(grpc_frames.headers(number, INFER) + grpc_frames.data(number, part))
            assert stage.served.held <= 2 * MESSAGE
        assert stage.reader.answers[1].status == stage.reader.answers[3].status == Code.RESOURCE_EXHAUSTED
        for connection in connections:
            connection.connection_lost(None)
        assert stage.served.held == 0
        stage.inference.waits = True
        connection = stage.connect()[0]
        connection.data_received(grpc_frames.call(1, INFER, stage.request()))
        await asyncio.sleep(0.01)
        assert stage.served.held == len(stage.request())
        connection.connection_lost(None)
        assert stage.served.held == 0

    asyncio.run(many())


def test_answers_that_nobody_reads_count_and_further_ones_are_refused(make: Make) -> None:
    stage = make(held=20_000)
    rows = np.ones((300, 3), np.float32)
    asked = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": list(rows.shape)}], raw_input_contents=[rows.tobytes()]
    )

    async def unread() -> None:
        connection = stage.connect()[0]
        for number in range(1, 61, 2):
            connection.data_received(grpc_frames.call(number, INFER, asked))
            await asyncio.sleep(0.001)
            assert stage.served.held <= 20_000
        # What the client's window of 65,535 bytes takes has gone out, and the refusals wait behind it.
        assert stage.served.held > 20_000 - 2 * rows.nbytes
        for stream in (0, *range(1, 61, 2)):
            connection.data_received(
                grpc_frames.frame(grpc_frames.WINDOW_UPDATE, 0, stream, (2**20).to_bytes(4, "big"))
            )
        assert stage.served.held == 0
        connection.connection_lost(None)

    asyncio.run(unread())
    statuses = [answer.status for answer in stage.reader.answers.values()]
    assert len(statuses) == 30
    assert set(statuses) == {Code.OK, Code.RESOURCE_EXHAUSTED}


def test_answers_that_are_ready_together_count_one_after_the_other(make: Make) -> None:
    """Also before any of them is handed to the transport."""
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in ("y", "z")]
    stage = make("pair", held=30_000, outputs=outputs)
    rows = np.ones((300, 3), np.float32)
    asked = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": list(rows.shape)}], raw_input_contents=[rows.tobytes()]
    )

    async def together() -> None:
        connection = stage.connect()[0]
        # The client's window of 65,535 bytes takes the first ones.
        for number in range(1, 19, 2):
            connection.data_received(grpc_frames.call(number, INFER, asked))
            await asyncio.sleep(0.001)
        stage.inference.gate = asyncio.Event()
        for number in range(21, 31, 2):
            connection.data_received(grpc_frames.call(number, INFER, asked))
        await asyncio.sleep(0.001)
        stage.inference.gate.set()
        await asyncio.sleep(0.001)
        assert 30_000 - 2 * rows.nbytes - 1000 < stage.served.held <= 30_000
        connection.connection_lost(None)
        assert stage.served.held == 0

    asyncio.run(together())


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_an_answer_that_would_never_fit_is_sent_where_nothing_else_is_held(make: Make, encoding: str) -> None:
    rows = np.random.default_rng(0).random((200, 3), np.float32)
    stage = make()
    content = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": list(rows.shape)}], raw_input_contents=[rows.tobytes()]
    )
    sent = gzip.compress(content) if encoding else content
    # Room for the request, as it came and as it became, and half of the answer.
    held = len(content) + (len(sent) if encoding else 0) + rows.nbytes // 2
    stage.served.limits = replace(stage.served.limits, held=held)
    data = grpc_frames.data(1, grpc_frames.message(sent, compressed=bool(encoding)), ends=True)
    assert stage.play(grpc_frames.headers(1, INFER, grpc_encoding=encoding) + data).answers[1].status == Code.OK


class Seen(bytearray):
    """Bytes that can be seen to go."""


@pytest.mark.parametrize("error", [Refusal(400, "no"), Failed(Code.NOT_FOUND, "no"), ZeroDivisionError()])
def test_what_a_refused_call_held_is_let_go_of_at_once(stage: Stage, error: Exception) -> None:
    """Not when the garbage collector finds it some time."""
    kept = list[weakref.ref[Seen]]()

    async def refuse(content: bytes, _: Call) -> bytes:
        seen = Seen(content)
        kept.append(weakref.ref(seen))
        raise copy.copy(error)

    stage.served.unary = {INFER.encode(): refuse}
    gc.disable()
    try:
        assert stage.play(*(grpc_frames.call(number, INFER, b"?") for number in (1, 3))).answers[3].status
        assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()


def test_the_deadline_counts_from_when_the_call_came(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while typed contents wait to be read."""
    monkeypatch.setattr(service, "_LARGE", 10)
    stage, gate = make(deadline=0.05), threading.Event()
    content = stage.request(inputs=[{**TENSOR, "contents": {"fp32_contents": [1, 2, 3]}}], raw_input_contents=[])
    service._BESIDE.submit(gate.wait, 10)
    try:
        answer = stage.play(grpc_frames.call(1, INFER, content), seconds=0.3).answers[1]
    finally:
        gate.set()
    assert (answer.status, stage.inference.deadlines) == (Code.DEADLINE_EXCEEDED, [])
    assert "deadline passed before it was read" in answer.headers["grpc-message"]
    assert (stage.inference.statistics.expired, stage.inference.statistics.fail.count) == (1, 1)


def test_a_message_counts_as_large_as_it_becomes(make: Make) -> None:
    stage = make(held=MESSAGE)
    small = gzip.compress(bytes(MESSAGE - 10))
    assert len(small) < 100
    content = grpc_frames.headers(1, INFER, grpc_encoding="gzip")
    content += grpc_frames.data(1, grpc_frames.message(small, compressed=True), ends=True)

    async def one() -> None:
        connection = stage.connect()[0]
        stage.served.held = 20
        connection.data_received(content)
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert stage.served.held == 20

    asyncio.run(one())
    assert stage.reader.answers[1].status == Code.RESOURCE_EXHAUSTED
    assert "holds as many bytes of messages as it may" in stage.reader.answers[1].headers["grpc-message"]


def test_a_stream_takes_questions_only_and_lets_go_of_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make()
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

    async def asking() -> None:
        connection = stage.connect()[0]
        connection.data_received(grpc_frames.headers(1, path))
        for _ in range(3):
            connection.data_received(grpc_frames.data(1, grpc_frames.message(b"\x3a\x00")))
            assert stage.served.held == 2
            for _ in range(10):
                await asyncio.sleep(0)
            assert stage.served.held == 0
        connection.connection_lost(None)

    asyncio.run(asking())
    monkeypatch.setattr(rpc_connection, "_STREAMED", 100)
    answer = stage.play(grpc_frames.headers(1, path) + grpc_frames.data(1, grpc_frames.message(bytes(101)))).answers[1]
    assert answer.status == Code.RESOURCE_EXHAUSTED
    assert "This stream takes messages of 100 bytes" in answer.headers["grpc-message"]


def test_of_too_many_connections_the_idlest_makes_room(stage: Stage) -> None:
    async def many() -> list[bool]:
        (first, one), (second, two), (_, three) = (stage.connect() for _ in range(3))
        assert [one.closed, two.closed, three.closed] == [True, False, False]
        # Until asyncio says that it is closed, the next one takes the place of another.
        assert not stage.connect()[1].closed
        assert two.closed
        for connection in (first, second):
            connection.connection_lost(None)
        for connection in tuple(stage.served.connections):
            connection.data_received(grpc_frames.headers(1, INFER))
        return [stage.connect()[1].closed for _ in range(2)]

    # Whoever has a call keeps its connection.
    assert asyncio.run(many()) == [True, True]


def test_slow_requests_and_idle_connections_are_ended(stage: Stage) -> None:
    async def slow() -> None:
        connection, transport = stage.connect()
        connection.data_received(grpc_frames.headers(1, INFER))
        now = asyncio.get_running_loop().time()
        connection.end_slow(now + 30)
        assert 1 not in stage.reader.answers
        connection.end_slow(now + 100)
        assert stage.reader.answers[1].status == Code.DEADLINE_EXCEEDED
        connection.end_slow(now + 500)
        assert not transport.closed
        connection.end_slow(now + 1000)
        assert transport.closed

    asyncio.run(slow())


def test_draining_sends_clients_elsewhere_and_finishes_what_was_accepted(stage: Stage) -> None:
    stage.inference.waits = True

    async def drained() -> None:
        server = Server(stage.served)
        connection, transport = stage.connect()
        connection.data_received(grpc_frames.call(1, INFER, stage.request()))
        connection.data_received(grpc_frames.headers(3, "/grpc.health.v1.Health/Watch"))
        await asyncio.sleep(0)
        server.drain()
        assert stage.reader.went_away == [2**31 - 1]
        server.stop(0.05)
        await server.stopped()
        assert stage.reader.answers[3].status == Code.UNAVAILABLE
        assert 1 not in stage.reader.answers
        assert transport.closed

    asyncio.run(drained())


def test_a_connection_that_is_made_while_draining_answers_and_sends_its_client_elsewhere(stage: Stage) -> None:
    async def drained() -> None:
        Server(stage.served).drain()
        connection, transport = stage.connect()
        # Not before a call came: a client that has just been given the connection would find it useless.
        assert stage.reader.went_away == []
        for number in (1, 3):
            connection.data_received(grpc_frames.call(number, INFER, stage.request()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert stage.reader.went_away == [2**31 - 1]
        assert [stage.reader.answers[number].status for number in (1, 3)] == [Code.OK, Code.OK]
        assert not transport.closed

    asyncio.run(drained())


def test_watching_tells_each_change(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.grpc.service._WATCH_SECONDS", 0)
    health = stage.messages.get("grpc.health.v1.HealthCheckResponse")

    async def watched() -> None:
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.call(1, "/grpc.health.v1.Health/Watch", b""))
        for state in ("ready", "draining"):
            stage.state = state
            for _ in range(5):
                await asyncio.sleep(0)

    asyncio.run(watched())
    assert [health.FromString(each).status for each in stage.reader.answers[1].messages] == [1, 2]


def test_health_by_service(stage: Stage) -> None:
    request = stage.messages.get("grpc.health.v1.HealthCheckRequest")
    known = stage.call("/grpc.health.v1.Health/Check", request(service=SERVICE[1:]).SerializeToString())
    assert known.status == Code.OK
    unknown = stage.call("/grpc.health.v1.Health/Check", request(service="nobody").SerializeToString())
    assert unknown.status == Code.NOT_FOUND


def test_reflection_names_services_and_their_files(stage: Stage) -> None:
    request = stage.messages.get("grpc.reflection.v1alpha.ServerReflectionRequest")
    response = stage.messages.get("grpc.reflection.v1alpha.ServerReflectionResponse")
    asked = [
        {"list_services": ""},
        {"file_containing_symbol": "inference.ModelInferRequest"},
        {"file_by_filename": "health.proto"},
        {"file_containing_symbol": "nobody"},
        {"all_extension_numbers_of_type": "inference.ModelInferRequest"},
    ]
    content = b"".join(grpc_frames.message(request(**each).SerializeToString()) for each in asked)
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    answer = stage.play(grpc_frames.headers(1, path) + grpc_frames.data(1, content, ends=True)).answers[1]
    services, symbol, file, unknown, numbers = (response.FromString(each) for each in answer.messages)
    assert [each.name for each in services.list_services_response.service][1:] == [
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]
    assert b"GRPCInferenceService" in symbol.file_descriptor_response.file_descriptor_proto[0]
    assert b"HealthCheckRequest" in file.file_descriptor_response.file_descriptor_proto[0]
    assert unknown.error_response.error_code == Code.NOT_FOUND
    assert numbers.all_extension_numbers_response.base_type_name == "inference.ModelInferRequest"
    assert answer.status == Code.OK
