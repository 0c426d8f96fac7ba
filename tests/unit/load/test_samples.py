"""Samples as requests of every protocol, and the verdict on what comes back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from tritonclient.grpc import service_pb2

from pipeline.artifacts import Tensor, Tolerance
from pipeline.load.bodies import body
from pipeline.load.samples import RawTensor, Sample, encoded, samples, values, wrong
from tests.unit import values as made

TOLERANCE = Tolerance(absolute=0.01, relative=0.01)
X = RawTensor(name="x", datatype="FP32", shape=(1, 2), content=np.array([1, 2.5], "<f4").tobytes())
TEXT = RawTensor(name="text", datatype="BYTES", shape=(2,), content=b"\4\0\0\0a \xc3\xa9\0\0\0\0")
SAMPLE = Sample(inputs=(X, TEXT), outputs=(replace(X, name="y"), replace(TEXT, name="words")))


def _answer(*, y: list[float], words: list[str], shape: tuple[int, ...] = (1, 2)) -> bytes:
    outputs = [
        {"name": "y", "datatype": "FP32", "shape": shape, "data": y},
        {"name": "words", "datatype": "BYTES", "shape": [2], "data": words},
    ]
    return json.dumps({"outputs": outputs}).encode()


def test_samples_are_read_in_order_with_strings_as_such(tmp_path: Path) -> None:
    archive = made.archive(tmp_path)
    strings = np.frombuffer(TEXT.content, np.uint8)
    tensors = {f"{n}/input/x": np.full((1, 2), n, np.float32) for n in (10, 9)}
    archive.samples.path.write_bytes(save(tensors | {f"{n}/output/y": strings for n in (9, 10)}))
    spec = replace(
        archive.trained.spec,
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 2)),),
        outputs=(Tensor(name="y", datatype="BYTES", shape=(-1,)),),
    )
    found = samples(replace(archive, trained=replace(archive.trained, spec=spec)))
    assert [values(sample.inputs[0]).tolist() for sample in found] == [[[9, 9]], [[10, 10]]]
    assert found[0].outputs == (replace(TEXT, name="y"),)


def test_a_request_with_binary_tensors() -> None:
    request = body("tiny", SAMPLE, "rest-binary")
    length = int(dict(request.fields)["Inference-Header-Content-Length"])
    head = json.loads(request.content[:length])
    assert head["inputs"][0] == {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, 2],
        "parameters": {"binary_data_size": 8},
    }
    assert head["parameters"] == {"binary_data_output": True}
    assert request.content[length:] == X.content + TEXT.content


def test_a_request_in_json_and_as_it_goes_over_the_wire() -> None:
    request = body("tiny", SAMPLE, "rest-json")
    assert json.loads(request.content)["inputs"][1] == {
        "name": "text",
        "datatype": "BYTES",
        "shape": [2],
        "data": ["a é", ""],
    }
    head, _, content = request.http().partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\n")
    assert f"Content-Length: {len(content)}".encode() in head
    assert content == request.content


def test_a_request_over_grpc_is_one_frame() -> None:
    content = body("tiny", SAMPLE, "grpc").content
    assert content[0] == 0
    assert int.from_bytes(content[1:5], "big") == len(content) - 5
    message = service_pb2.ModelInferRequest.FromString(content[5:])
    assert (message.model_name, list(message.raw_input_contents)) == ("tiny", [X.content, TEXT.content])
    assert [list(each.shape) for each in message.inputs] == [[1, 2], [2]]


def test_a_right_answer_is_right_in_json_and_in_binary() -> None:
    assert wrong(SAMPLE, None, _answer(y=[1.009, 2.5], words=["a é", ""]), TOLERANCE) is None
    head = json.dumps(
        {
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
                {"name": "words", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 12}},
            ]
        }
    ).encode()
    assert wrong(SAMPLE, len(head), head + X.content + TEXT.content, TOLERANCE) is None
    told = wrong(SAMPLE, len(head), head + X.content[:4], TOLERANCE)
    assert told
    assert told.startswith("no answer of the protocol (ValueError")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (_answer(y=[1, 3.5], words=["a é", ""]), "output y differs by up to 1 in 1 of 2 elements"),
        (_answer(y=[1, 2.5], words=["a é", "x"]), "output words has other strings than expected"),
        (_answer(y=[1, 2.5], words=["a é", ""], shape=(2, 1)), "output y has shape [2, 1], expected [1, 2]"),
        (b'{"outputs": []}', "output y is missing"),
        (b'{"error": "no"}', "no answer of the protocol (KeyError: 'outputs')"),
        (b"[]", "no answer of the protocol (TypeError: list indices must be integers or slices, not str)"),
    ],
)
def test_a_wrong_answer_is_told(answer: bytes, told: str) -> None:
    assert wrong(SAMPLE, None, answer, TOLERANCE) == told


def test_bf16_is_compared_as_the_numbers_that_it_is() -> None:
    tensor = RawTensor(name="y", datatype="BF16", shape=(2,), content=encoded([1.0, -2.5], "BF16"))
    assert values(tensor).tolist() == [1.0, -2.5]
    sample = Sample(inputs=(), outputs=(tensor,))
    answer = json.dumps({"outputs": [{"name": "y", "datatype": "BF16", "shape": [2], "data": [1.0, 2.5]}]}).encode()
    assert wrong(sample, None, answer, TOLERANCE) == "output y differs by up to 5 in 1 of 2 elements"
