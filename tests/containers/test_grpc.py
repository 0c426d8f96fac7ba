"""The runtime image over gRPC, as Triton's clients, gRPC's own tools and hand-made frames use it; and over both
protocols every datatype, compression and what is wrong."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import hpack
import numpy as np
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.grpc import aio as triton_grpc_aio
from tritonclient.http import aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from tests.containers.conftest import SERVING, Running, Start
from tests.containers.test_server import HOME, PYTHON, TEXTS
from tests.unit.server import grpc_frames
from tests.unit.server.wire import NUMPY

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def every(start: Start, archives: Path) -> Iterator[Running]:
    """Serves a model of every datatype."""
    with start(archives / "every") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def words(start: Start, archives: Path) -> Iterator[Running]:
    """Serves a model of strings."""
    with start(archives / "words") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def perceptron(start: Start, archives: Path) -> Iterator[Running]:
    """Serves a model that takes microseconds."""
    with start(archives / "perceptron") as running:
        running.wait_until_ready()
        yield running


def test_the_real_http2_keeps_the_contract_of_the_fake(engine: DockerEngine, runtime: Image) -> None:
    folder = HOME / "tests" / "unit" / "server"
    mounts = (
        Mount(source=folder / "http2_contract.py", target="/contract/tests/unit/server/http2_contract.py"),
        Mount(source=folder / "grpc_frames.py", target="/contract/tests/unit/server/grpc_frames.py"),
        Mount(source=Path(hpack.__file__).parent, target="/contract/hpack"),
    )
    program = (
        "import sys, _http2; sys.path.append('/contract'); from tests.unit.server import http2_contract;"
        "http2_contract.hold(_http2); print('held')"
    )
    lines: list[str] = []
    engine.run(
        Job(image=runtime.digest, command=(PYTHON, "-c", program), limits=SERVING, mounts=mounts), on_line=lines.append
    )
    assert lines[-1] == "held"


def _value(datatype: str, rows: int) -> np.ndarray[Any, Any]:
    if datatype == "BOOL":
        return np.resize(np.array([True, False]), (rows, 2))
    kind = NUMPY[datatype]
    if datatype.startswith(("FP", "BF")):
        return np.resize(np.array([1.0, -0.5, 3.0, np.inf], kind), (rows, 2))
    limits = np.iinfo(kind)
    return np.resize(np.array([limits.min, limits.max, 1], kind), (rows, 2))


def _inputs(module: Any, rows: int, **options: Any) -> tuple[list[Any], dict[str, np.ndarray[Any, Any]]]:
    values = {name: _value(name, rows) for name in NUMPY}
    scalars = {"one": np.array(1.5), "other": np.array(2.0)}
    tensors = []
    for name, value in {**scalars, **values}.items():
        tensor = module.InferInput(name, list(value.shape), name if name in values else "FP64")
        tensor.set_data_from_numpy(value, **options)
        tensors.append(tensor)
    return tensors, {**values, "sum": np.array(3.5)}


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_datatype_in_binary(every: Running, protocol: str, rows: int) -> None:
    module, address = (triton_http, every.address) if protocol == "http" else (triton_grpc, every.grpc)
    with module.InferenceServerClient(address) as client:
        tensors, expected = _inputs(module, rows)
        answer = client.infer("every", tensors, model_version="1.0.0", request_id="a")
        for name, value in expected.items():
            got = answer.as_numpy(name)
            assert got.shape == value.shape, name
            np.testing.assert_array_equal(got, value, name)


def test_every_datatype_in_json(every: Running) -> None:
    names = [name for name in NUMPY if name not in {"FP16", "BF16"}]
    tensors, expected = [], {name: _value(name, 1) for name in names}
    for name, value in {"one": np.array(1.5), "other": np.array(2.0), **expected}.items():
        kind = name if name in expected else "FP64"
        data = value.tolist() if value.shape else [value.item()]
        tensors.append({"name": name, "datatype": kind, "shape": list(value.shape), "data": data})
    halves = {"shape": [1, 2], "data": [0.5, -1.0]}
    tensors += [{"name": name, "datatype": name, **halves} for name in ("FP16", "BF16")]
    response = requests.post(every.url("v2/models/every/infer"), json={"inputs": tensors}, timeout=30)
    assert response.status_code == 200, response.text
    outputs = {output["name"]: output for output in response.json()["outputs"]}
    for name, value in expected.items():
        assert outputs[name]["data"] == value.ravel().tolist(), name
        assert outputs[name]["shape"] == list(value.shape)
    assert outputs["FP16"]["data"] == outputs["BF16"]["data"] == [0.5, -1.0]
    assert (outputs["sum"]["shape"], outputs["sum"]["data"]) == ([], [3.5])


def test_typed_contents_of_every_datatype(every: Running) -> None:
    fields = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64"}
    fields |= dict.fromkeys(("INT8", "INT16", "INT32"), "int") | dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint")
    pb = triton_grpc.service_pb2
    request = pb.ModelInferRequest(model_name="every", id="typed")
    for name in ("one", "other"):
        request.inputs.add(name=name, datatype="FP64", shape=[]).contents.fp64_contents.append(1.5)
    for name in NUMPY:
        value = _value(name, 1) if name in fields else np.zeros((0, 2))
        tensor = request.inputs.add(name=name, datatype=name, shape=value.shape)
        if name in fields:
            getattr(tensor.contents, f"{fields[name]}_contents").extend(value.ravel().tolist())
    request.outputs.add(name="INT8")
    request.outputs.add(name="sum")
    request.outputs.add(name="FP32")
    with grpc.insecure_channel(every.grpc) as channel:
        stub = triton_grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "FP16 has no typed contents" in refused.value.details()
        tensors, _ = _inputs(triton_grpc, 1)
        raw = pb.ModelInferRequest(model_name="every")
        for tensor in tensors:
            raw.inputs.append(tensor._get_tensor())
            raw.raw_input_contents.append(tensor._get_content() or b"")
        response = stub.ModelInfer(raw)
        assert len(response.raw_output_contents) == len(response.outputs)


def test_strings_over_grpc(words: Running) -> None:
    with triton_grpc.InferenceServerClient(words.grpc) as client:
        tensor = triton_grpc.InferInput("text", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(np.array(TEXTS, dtype=np.object_))
        answer = client.infer("words", [tensor])
        assert [each.decode() for each in answer.as_numpy("loud")] == [text + "!" for text in TEXTS]
        assert answer.as_numpy("length").tolist() == [len(text.encode()) for text in TEXTS]
        tensor.set_data_from_numpy(np.array([b"\xff"] * len(TEXTS), dtype=np.object_))
        with pytest.raises(InferenceServerException, match="not UTF-8"):
            client.infer("words", [tensor])


def test_tritons_client_reads_everything(perceptron: Running) -> None:
    with (
        triton_grpc.InferenceServerClient(perceptron.grpc) as rpc,
        triton_http.InferenceServerClient(perceptron.address) as rest,
    ):
        for client in (rpc, rest):
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("perceptron", "1.0.0")
            with pytest.raises(InferenceServerException, match="loads nor unloads"):
                client.load_model("perceptron")
            with pytest.raises(InferenceServerException, match="loads nor unloads"):
                client.unload_model("perceptron")
        for as_json in ({}, {"as_json": True}):
            assert rpc.get_server_metadata(**as_json)
        assert rpc.get_model_metadata("perceptron").inputs[0].shape == [-1, 10]
        assert rpc.get_model_config("perceptron").config.max_batch_size == 64
        assert rest.get_model_config("perceptron")["max_batch_size"] == 64
        assert rest.get_model_config("perceptron")["input"][0]["dims"] == [10]
        assert rpc.get_model_repository_index().models[0].state == "READY"
        assert rest.get_model_repository_index()[0]["state"] == "READY"
        before = rpc.get_inference_statistics("perceptron").model_stats[0].inference_stats.success.count
        x = np.ones((2, 10), np.float32)
        for client, module in ((rpc, triton_grpc), (rest, triton_http)):
            tensor = module.InferInput("x", [2, 10], "FP32")
            tensor.set_data_from_numpy(x)
            client.infer("perceptron", [tensor], request_id="7", timeout=5_000_000)
        (after,) = rest.get_inference_statistics("perceptron")["model_stats"]
        assert after["inference_stats"]["success"]["count"] == before + 2


def test_both_protocols_give_the_same_bits(perceptron: Running) -> None:
    x = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    answers = []
    for module, address in ((triton_grpc, perceptron.grpc), (triton_http, perceptron.address)):
        with module.InferenceServerClient(address) as client:
            tensor = module.InferInput("x", [3, 10], "FP32")
            tensor.set_data_from_numpy(x)
            answers.append(client.infer("perceptron", [tensor]).as_numpy("y"))
    assert answers[0].tobytes() == answers[1].tobytes()


def test_tritons_asyncio_clients(perceptron: Running) -> None:
    x = np.ones((1, 10), np.float32)

    async def infer() -> None:
        for module, address in ((triton_grpc_aio, perceptron.grpc), (triton_http_aio, perceptron.address)):
            client = module.InferenceServerClient(address)
            try:
                assert await client.is_model_ready("perceptron")
                tensor = module.InferInput("x", [1, 10], "FP32")
                tensor.set_data_from_numpy(x)
                answers = await asyncio.gather(*(client.infer("perceptron", [tensor]) for _ in range(50)))
                for answer in answers:
                    np.testing.assert_allclose(answer.as_numpy("y"), answers[0].as_numpy("y"), rtol=1e-5)
            finally:
                await client.close()

    asyncio.run(infer())


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_with_tritons_clients(perceptron: Running, algorithm: str) -> None:
    x = np.ones((500, 10), np.float32)
    with triton_http.InferenceServerClient(perceptron.address) as client:
        tensor = triton_http.InferInput("x", [500, 10], "FP32")
        tensor.set_data_from_numpy(x)
        answer = client.infer(
            "perceptron",
            [tensor],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        expected = client.infer("perceptron", [tensor]).as_numpy("y")
        assert answer.as_numpy("y").tobytes() == expected.tobytes()
    with triton_grpc.InferenceServerClient(perceptron.grpc) as client:
        tensor = triton_grpc.InferInput("x", [500, 10], "FP32")
        tensor.set_data_from_numpy(x)
        answer = client.infer("perceptron", [tensor], compression_algorithm=algorithm)
        assert answer.as_numpy("y").tobytes() == expected.tobytes()


def test_health_and_reflection_with_grpcs_own_tools(perceptron: Running) -> None:
    with grpc.insecure_channel(perceptron.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in database.get_services()
        file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
        (service,) = file.service
        described = {method.name for method in service.method}
    assert {"ServerLive", "ModelInfer", "ModelStatistics"} <= described


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("/inference.GRPCInferenceService/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
        (INFER, b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (INFER, b"", grpc.StatusCode.NOT_FOUND),
        (INFER, bytes(65 * 2**20), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_what_is_wrong_has_its_code(perceptron: Running, path: str, content: bytes, code: grpc.StatusCode) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(perceptron.grpc, options=options) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(path)(content, timeout=30)
        assert refused.value.code() == code
        assert refused.value.details()


def test_a_large_tensor_passes(perceptron: Running) -> None:
    x = np.ones((1_000_000, 10), np.float32)
    with triton_grpc.InferenceServerClient(perceptron.grpc) as client:
        tensor = triton_grpc.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        assert client.infer("perceptron", [tensor]).as_numpy("y").shape == (1_000_000, 5)


def test_what_does_not_speak_http2_is_hung_up_on(perceptron: Running) -> None:
    host, port = perceptron.grpc.split(":")
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(100), grpc_frames.PREFACE + grpc_frames.data(0, b"x")):
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(said)
            while connection.recv(4096):
                pass


def _patient(milliseconds: int) -> Any:
    request = triton_grpc.service_pb2.ModelInferRequest(model_name="patient")
    request.inputs.add(name="x", datatype="INT64", shape=[1])
    request.raw_input_contents.append(milliseconds.to_bytes(8, "little"))
    return request


def test_deadlines_and_cancelled_calls(start: Start, archives: Path) -> None:
    with start(archives / "patient", TORCHYARD_INSTANCES="1") as running:
        running.wait_until_ready()
        with grpc.insecure_channel(running.grpc) as channel:
            stub = triton_grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            statistics = triton_grpc.service_pb2.ModelStatisticsRequest()
            before = stub.ModelStatistics(statistics).model_stats[0].execution_count
            calls = [stub.ModelInfer.future(_patient(200)) for _ in range(10)]
            with pytest.raises(grpc.RpcError) as late:
                stub.ModelInfer(_patient(1), timeout=0.05)
            assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            for call in calls:
                call.cancel()
            stub.ModelInfer(_patient(1), timeout=60)
            ran = stub.ModelStatistics(statistics).model_stats[0].execution_count - before
        assert ran <= 4, f"{ran} of 12 calls ran, 11 of which nobody waited for"


def test_sigterm_turns_ready_off_and_loses_no_call(start: Start, archives: Path) -> None:
    ended: list[Any] = []

    def client(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = triton_grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(3):
                try:
                    ended.append(stub.ModelInfer(_patient(50)).model_name)
                except grpc.RpcError as error:
                    ended.append(error.code())

    with start(archives / "patient", TORCHYARD_GRACE_MS="4000") as running:
        running.wait_until_ready()
        clients = [threading.Thread(target=client, args=(running.grpc,)) for _ in range(4)]
        for each in clients:
            each.start()
        time.sleep(0.1)
        running.container.kill(signal="SIGTERM")
        time.sleep(0.2)
        with grpc.insecure_channel(running.grpc) as channel:
            stub = triton_grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert not stub.ServerReady(triton_grpc.service_pb2.ServerReadyRequest()).ready
            assert stub.ServerLive(triton_grpc.service_pb2.ServerLiveRequest()).live
        for each in clients:
            each.join()
        assert running.exit_code() == 0, running.log()
    assert ended == ["patient"] * 12
