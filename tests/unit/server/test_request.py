"""Requests in JSON and binary form: what they mean, and every way in which they are refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.model.contract import Contract, File, Tensor, Tolerance
from server.model.datatypes import DATATYPES
from server.protocol import tensors
from server.protocol.request import Request, parse
from server.refusal import Refusal

_FILE = File(name="model.pt", sha256="0" * 64, size=1)
CONTRACT = Contract(
    name="tiny",
    version="1.0.0",
    inputs=(
        Tensor(name="x", datatype=DATATYPES["FP32"], shape=(-1, 3)),
        Tensor(name="n", datatype=DATATYPES["INT8"], shape=(2,)),
        Tensor(name="on", datatype=DATATYPES["BOOL"], shape=()),
    ),
    outputs=(
        Tensor(name="y", datatype=DATATYPES["FP32"], shape=(-1, 3)),
        Tensor(name="z", datatype=DATATYPES["INT64"], shape=()),
    ),
    tolerance=Tolerance(absolute=0.0, relative=0.0),
    archive=_FILE,
    samples=_FILE,
)
X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2.5, -3]}
N: dict[str, Any] = {"name": "n", "datatype": "INT8", "shape": [2], "data": [-128, 127]}
ON: dict[str, Any] = {"name": "on", "datatype": "BOOL", "shape": [], "data": [True]}
X_BYTES = np.array([1, 2.5, -3], np.float32).tobytes()


def _request(*inputs: Any, binary: bytes | None = None, **fields: Any) -> Request:
    head = json.dumps({"inputs": list(inputs), **fields}).encode()
    return parse(CONTRACT, head + (binary or b""), None if binary is None else len(head))


def _binary(tensor: dict[str, Any], size: Any) -> dict[str, Any]:
    kept = {key: value for key, value in tensor.items() if key != "data"}
    return {**kept, "parameters": {"binary_data_size": size}}


def _contents(request: Request) -> list[bytes]:
    return [bytes(content) for _, _, content in request.inputs]


def test_the_same_head_again_is_read_again_with_other_content() -> None:
    for content in (b"\x01\x80\x7f" + X_BYTES, b"\x00\x81\x7e" + X_BYTES):
        request = _request(_binary(ON, 1), _binary(N, 2), _binary(X, 12), binary=content)
        assert bytes(request.inputs[-1][2]) in content
        assert {bytes(each) for _, _, each in request.inputs} == {content[:1], content[1:3], content[3:]}


def test_json_in_any_order_becomes_the_order_of_forward() -> None:
    request = _request(ON, N, X)
    assert [(datatype, tuple(shape)) for datatype, shape, _ in request.inputs] == [
        ("FP32", (1, 3)),
        ("INT8", (2,)),
        ("BOOL", ()),
    ]
    assert _contents(request) == [X_BYTES, b"\x80\x7f", b"\x01"]


def test_nested_data_is_flattened() -> None:
    nested = X | {"shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6]]}
    assert _contents(_request(nested, N, ON))[0] == np.arange(1, 7, dtype=np.float32).tobytes()


def test_no_rows_are_a_tensor_too() -> None:
    request = _request(X | {"shape": [0, 3], "data": []}, N, ON)
    assert (tuple(request.inputs[0][1]), _contents(request)[0]) == ((0, 3), b"")


def test_binary_is_taken_in_the_order_of_the_request_without_a_copy() -> None:
    request = _request(_binary(ON, 1), _binary(N, 2), _binary(X, 12), binary=b"\x01\x80\x7f" + X_BYTES)
    assert _contents(request) == [X_BYTES, b"\x80\x7f", b"\x01"]
    assert isinstance(request.inputs[0][2], memoryview)


def test_json_and_binary_mix() -> None:
    assert _contents(_request(_binary(X, 12), N, _binary(ON, 1), binary=X_BYTES + b"\0")) == [
        X_BYTES,
        b"\x80\x7f",
        b"\0",
    ]


def test_every_output_is_json_unless_asked_otherwise() -> None:
    assert [(each.name, each.binary) for each in _request(X, N, ON).outputs] == [("y", False), ("z", False)]


def test_outputs_are_chosen_ordered_and_binary_one_by_one() -> None:
    wanted = [{"name": "z"}, {"name": "y", "parameters": {"binary_data": False}}]
    request = _request(X, N, ON, outputs=wanted, parameters={"binary_data_output": True})
    assert [(each.name, each.binary) for each in request.outputs] == [("z", True), ("y", False)]


def test_the_id_is_kept_and_strange_parameters_are_passed_over() -> None:
    request = _request(X | {"parameters": {"mine": 1}}, N, ON, id="7", parameters={"mine": 2})
    assert request.id == "7"


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3)))
def test_json_and_binary_mean_the_same(rows: list[list[float]]) -> None:
    content = np.array(rows, np.float32).tobytes()
    tensor = X | {"shape": [len(rows), 3], "data": [value for row in rows for value in row]}
    assert _contents(_request(tensor, N, ON))[0] == content
    assert _contents(_request(_binary(tensor, len(content)), N, ON, binary=content))[0] == content


_REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "missing input": ([X], {}, r"inputs: n, on missing"),
    "unknown input": ([X | {"name": "w"}], {}, r'inputs\[0\].name: expected one of x, n, on, got "w"'),
    "no name": ([{}], {}, r"inputs\[0\].name: expected one of x, n, on, got null"),
    "input twice": ([X, X], {}, r"inputs\[1\].name: x is there twice"),
    "not an object": ([5], {}, r"inputs\[0\]: expected an object, got a number"),
    "datatype": ([X | {"datatype": "FP64"}], {}, r'inputs\[0\] \(x\).datatype: expected FP32, got "FP64"'),
    "no datatype": ([X | {"datatype": None}], {}, r"datatype: expected FP32, got null"),
    "rank": ([X | {"shape": [3]}], {}, r"\(x\).shape: expected \[-1, 3\], where -1 is free, got \[3\]"),
    "fixed dimension": ([X | {"shape": [1, 4]}], {}, r"shape: expected \[-1, 3\].*got \[1, 4\]"),
    "negative dimension": ([X | {"shape": [-1, 3]}], {}, r"shape: expected a list of whole numbers from 0"),
    "boolean dimension": ([X | {"shape": [True, 3]}], {}, r"shape: expected a list of whole numbers"),
    "no shape": ([{"name": "x", "datatype": "FP32"}], {}, r"shape: expected a list of whole numbers"),
    "a size of thousands of digits": ([X | {"shape": [10**4299, 3]}], {}, r"shape: expected a list of whole numbers"),
    "huge shape": ([X | {"shape": [2**60, 3]}], {}, r"takes 3458764513820540928 values, got 3"),
    "no data": ([{k: X[k] for k in ("name", "datatype", "shape")}], {}, r"expected either data or .*binary_data_size"),
    "both": ([X | {"parameters": {"binary_data_size": 12}}], {}, r"expected either data or"),
    "data is no list": ([X | {"data": 5}], {}, r"\(x\).data: expected a list, got a number"),
    "too little": ([X | {"data": [1, 2]}], {}, r"data: shape \[1, 3\] takes 3 values, got 2"),
    "too much": ([X | {"data": [1, 2, 3, 4]}], {}, r"takes 3 values, got 4"),
    "ragged": ([X | {"shape": [2, 3], "data": [[1, 2, 3], [4]]}], {}, r"lists of 3 values at depth 1, got 1 values"),
    "half nested": ([X | {"shape": [2, 3], "data": [[1, 2, 3], None]}], {}, r"at depth 1, got null"),
    "string": ([X | {"data": [1, "2", 3]}], {}, r"data\[1\]: FP32 takes numbers, got a string"),
    "null": ([X | {"data": [1, None, 3]}], {}, r"data\[1\]: FP32 takes numbers, got null"),
    "boolean as number": ([X | {"data": [1, True, 3]}], {}, r"data\[1\]: FP32 takes numbers, got a boolean"),
    "deeper": ([X | {"data": [1, [2], 3]}], {}, r"data\[1\]: FP32 takes numbers, got a list"),
    "beyond FP32": ([X | {"data": [1, 1e39, 3]}], {}, r"data\[1\]: FP32 takes .* to 3.40.*e\+38, got 1e\+39"),
    "huge integer": ([X | {"data": [1, 10**400, 3]}], {}, r"data\[1\]: FP32 takes .*, got a larger number"),
    "fraction": ([X, N | {"data": [1, 2.0]}], {}, r"inputs\[1\] \(n\).data\[1\]: INT8 takes whole numbers, got 2.0"),
    "beyond INT8": ([X, N | {"data": [128, 0]}], {}, r"data\[0\]: INT8 takes -128 to 127, got 128"),
    "number as boolean": ([X, N, ON | {"data": [1]}], {}, r"\(on\).data\[0\]: BOOL takes true or false, got 1"),
    "id": ([X, N, ON], {"id": 7}, r"id: expected a string, got a number"),
    "parameters": ([X, N, ON], {"parameters": []}, r"parameters: expected an object, got a list"),
    "flag": ([X, N, ON], {"parameters": {"binary_data_output": 1}}, r"binary_data_output: expected true or false"),
    "shared memory": ([X | {"parameters": {"shared_memory_region": "a"}}], {}, r"does not have that extension"),
    "classification": ([X, N, ON], {"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, r"extension"),
    "unknown output": ([X, N, ON], {"outputs": [{"name": "x"}]}, r'outputs\[0\].name: expected one of y, z, got "x"'),
    "output twice": ([X, N, ON], {"outputs": [{"name": "y"}, {"name": "y"}]}, r"outputs\[1\].name: y is there twice"),
    "outputs": ([X, N, ON], {"outputs": {}}, r"outputs: expected a list of tensors, got an object"),
}


@pytest.mark.parametrize("kind", _REFUSED)
def test_json_is_refused(kind: str) -> None:
    inputs, fields, told = _REFUSED[kind]
    with pytest.raises(Refusal, match=told) as refusal:
        _request(*inputs, **fields)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body: not JSON"),
        (b"{", "the body: not JSON"),
        (b"\xff{}", "the body: not JSON"),
        (b"[" * 100_000, "the body: not JSON"),
        (b"[]", "the body: expected a JSON object, got a list"),
        (b"{}", "inputs: missing"),
        (b'{"inputs": [NaN]}', "NaN is not JSON"),
        (b'{"inputs": [-Infinity]}', "-Infinity is not JSON"),
        (b'{"inputs": [1' + b"0" * 5000 + b"]}", "the body: not JSON"),
        (b'{"inputs": 1}', "inputs: expected a list of tensors, got a number"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(Refusal, match=told):
        parse(CONTRACT, body, None)


@pytest.mark.parametrize(
    ("tensors", "binary", "told"),
    [
        ([_binary(X, 11)], X_BYTES, r"binary_data_size: FP32 of shape \[1, 3\] takes 12, got 11"),
        ([_binary(X, "12")], X_BYTES, r"takes 12, got a string"),
        ([_binary(X, True)], X_BYTES, r"takes 12, got a boolean"),
        ([_binary(X, 12)], X_BYTES[:-1], r"binary_data_size: 12 bytes, and only 11 are left"),
        ([_binary(X | {"shape": [2**40, 3]}, 12)], X_BYTES, r"takes 13194139533312, got 12"),
        ([_binary(X | {"shape": [0, 3]}, 0), N, ON], b"1", r"the body: 1 bytes are left"),
        ([X, N, _binary(ON, 1)], b"\x02", r"BOOL is one byte, 0 or 1"),
    ],
)
def test_binary_is_refused(tensors: list[Any], binary: bytes, told: str) -> None:
    with pytest.raises(Refusal, match=told):
        _request(*tensors, binary=binary)


def test_a_header_longer_than_the_body_is_refused() -> None:
    with pytest.raises(Refusal, match="Inference-Header-Content-Length: it is 3, and the body has 2 bytes"):
        parse(CONTRACT, b"{}", 3)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=9))
def test_any_json_as_data_is_a_tensor_or_a_refusal(data: Any) -> None:
    try:
        (content, *_) = _contents(_request(X | {"data": data}, N, ON))
    except Refusal:
        return
    assert len(content) == 12


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes_are_refused_and_no_more(body: bytes, length: int | None) -> None:
    with pytest.raises(Refusal):
        parse(CONTRACT, body, length)


def test_sizes_beside_a_0_are_bounded() -> None:
    """No bytes do it, and a sum along the 0 has all of them."""
    free = Tensor(name="x", datatype=DATATYPES["FP32"], shape=(-1, -1))
    assert tensors.check_shape("x", [0, 2**24], free) == (0, 2**24)
    with pytest.raises(Refusal, match=r"x\.shape: the sizes beside 0 are too large"):
        tensors.check_shape("x", [0, 2**24 + 1], free)


def test_rows_without_elements_are_bounded() -> None:
    """No bytes do it, and a model may answer each."""
    free = Tensor(name="x", datatype=DATATYPES["FP32"], shape=(-1, -1))
    assert tensors.check_shape("x", [2**16, 0], free) == (2**16, 0)
    with pytest.raises(Refusal, match=r"x\.shape: at most 65536 rows without elements, got 65537"):
        tensors.check_shape("x", [2**16 + 1, 0], free)
