"""The gRPC services: what they answer, and with which code they refuse."""

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from server import log
from server.grpc import protobuf, service
from server.grpc.raw import packed
from server.grpc.status import Code
from server.http.app import State
from server.model.answers import Answer, split
from server.model.contract import Contract
from server.model.datatypes import DATATYPES, encode
from server.model.engine import Input
from server.refusal import Refusal
from tests.unit.server import grpc_frames
from tests.unit.server.rpc_stage import INFER, SERVICE, TENSOR, Make, Stage, X


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
        stage.call("/nobody/Nothing", b"")
    finally:
        log.set_level("info")
    refused, live, unknown = map(json.loads, capsys.readouterr().err.splitlines())
    assert (refused["event"], refused["id"], refused["status"]) == ("request", "8", "INVALID_ARGUMENT")
    assert (live["path"], live["id"], live["status"]) == (f"{SERVICE}/ServerLive", None, "OK")
    assert (unknown["path"], unknown["status"]) == ("/nobody/Nothing", "UNIMPLEMENTED")


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


def test_answers_that_wait_to_be_typed_count(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other is made, and as many of them as there are clients would be held."""
    stage, gate, held = make(held=3000), threading.Event(), list[int]()
    monkeypatch.setattr(service, "_LARGE", 500)
    rows = {**TENSOR, "shape": [150, 3], "contents": {"fp32_contents": range(450)}}
    content = stage.request(inputs=[rows], raw_input_contents=[])

    async def waiting() -> None:
        monkeypatch.setattr(service, "unpacked", lambda _: (b"", []))
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.call(1, INFER, b""))
        await asyncio.sleep(0)
        held.append(stage.served.held.now)
        connection.data_received(grpc_frames.call(3, INFER, b""))
        await asyncio.sleep(0)
        gate.set()
        for _ in range(1000):
            if all(answer.ended for answer in stage.reader.answers.values()) and len(stage.reader.answers) == 2:
                break
            await asyncio.sleep(0.01)
        connection.connection_lost(None)

    message = stage.messages.get("inference.ModelInferRequest").FromString(content)
    monkeypatch.setattr(service, "_parsed", lambda *_: message)
    service._BESIDE.submit(gate.wait, 10)
    try:
        asyncio.run(waiting())
    finally:
        gate.set()
    assert held == [1800]
    assert [stage.reader.answers[number].status for number in (1, 3)] == [Code.OK, Code.RESOURCE_EXHAUSTED]


def test_raw_contents_are_not_copied_but_where_they_would_keep_more(stage: Stage) -> None:
    (tensor,) = stage.inference.served.contract.outputs
    renderer = protobuf.Renderer(stage.inference.served.contract, stage.messages)
    whole = memoryview(bytes(range(24)))
    request = protobuf.Request(
        message=stage.messages.get("inference.ModelInferRequest")(), inputs=(), outputs=(tensor.name,), raw=True
    )
    alone = Answer(tensor=tensor, shape=(2, 3), content=whole)
    for rows, shared in (((2,), True), ((1, 1), False)):
        for (answer,) in split([alone], rows):
            *_, content = renderer.render(request, [answer])
            assert content == answer.content
            assert (getattr(content, "obj", None) is whole.obj) == shared


@pytest.mark.parametrize("size", [0, 127, 128, 2**14 - 1, 2**14, 2**21])
def test_raw_contents_are_what_protobuf_reads(stage: Stage, size: int) -> None:
    kind = stage.messages.get("inference.ModelInferResponse")
    contents = [bytes([index]) * size for index in range(3)]
    read = kind.FromString(b"".join(packed(kind(id="7").SerializeToString(), contents)))
    assert (read.id, list(read.raw_output_contents)) == ("7", contents)


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
