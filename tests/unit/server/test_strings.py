"""Strings, from their bytes to a served model: what they mean in each form, and how each wrong one is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from server.errors import ContractInvalid, SamplesDisagree
from server.http.routes import Routes
from server.inference.statistics import Statistics
from server.model import contract, strings
from server.model.answers import Answer, Difference, ModelFailed, compare, named
from server.model.contract import Contract, Tensor, Tolerance
from server.model.datatypes import DATATYPES
from server.model.loading import Ready, prepare
from server.model.samples import Expected
from server.model.strings import LARGEST, LONGEST, MOST, NotStrings, decode, encode
from server.protocol.request import Request, Requested, parse
from server.protocol.response import render
from server.refusal import Refusal
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine, Output
from tests.unit.server.test_request import CONTRACT

EXACT = Tolerance(absolute=1e9, relative=1e9)
TEXT = Tensor(name="text", datatype=DATATYPES["BYTES"], shape=(-1,))
TWO = Tensor(name="two", datatype=DATATYPES["BYTES"], shape=(2,))
LENGTH = Tensor(name="length", datatype=DATATYPES["INT64"], shape=(-1,))
TEXTS: Contract = replace(CONTRACT, inputs=(TEXT, TWO), outputs=(TEXT, LENGTH))
WORDS = ["", "good film", "Æther", "日本", "a\0b", "\U0001f600"]
FIRST: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": [3], "data": ["good film", "", "日本"]}
SECOND: dict[str, Any] = {"name": "two", "datatype": "BYTES", "shape": [2], "data": ["a\0", "\U0001f600"]}
# JSON and UTF-8 can say all of Unicode but the halves of surrogate pairs.
LISTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])))


@given(LISTS)
def test_bytes_are_what_tritons_client_writes_and_reads(values: list[str]) -> None:
    content = encode(values)
    objects = np.array(values, dtype=np.object_)
    assert bytes(content) == (serialize_byte_tensor(objects).item() if values else b"")
    assert decode(content) == decode(content, len(values)) == values
    assert [each.decode() for each in deserialize_bytes_tensor(content)] == values


@pytest.mark.parametrize(
    ("content", "count", "told"),
    [
        (b"\1\0\0\0a\1\0\0", 2, "string 1: its length takes 4 bytes, and 3 are left"),
        (b"\1\0\0\0a\1\0\0", None, "string 1: its length takes 4 bytes, and 3 are left"),
        (b"\1\0\0\0a", 2, "string 1: its length takes 4 bytes, and 0 are left"),
        (b"\3\0\0\0ab", 1, "string 0: it takes 3 bytes, and 2 are left"),
        (b"\xff\xff\xff\xffab", 1, "string 0: it takes 4294967295 bytes, and 2 are left"),
        (b"\1\0\0\0ab", 1, "string 1: 1 bytes are left after 1 strings"),
        (b"\0\0\0\0", 0, "string 0: 4 bytes are left after 0 strings"),
        (b"\0\0\0\0\2\0\0\0\xc3(", 2, "string 1: not UTF-8 .invalid continuation byte at byte 0"),
        (b"\3\0\0\0a\xe6\x97", 1, "string 0: not UTF-8 .unexpected end of data at byte 1"),
        (b"\3\0\0\0\xed\xa0\x80", 1, "string 0: not UTF-8"),
    ],
)
def test_bytes_that_are_no_strings_are_refused(content: bytes, count: int | None, told: str) -> None:
    with pytest.raises(NotStrings, match=told):
        decode(content, count)


@given(st.binary(max_size=40), st.none() | st.integers(0, 5))
def test_any_bytes_are_strings_or_refused(content: bytes, count: int | None) -> None:
    try:
        values = decode(content, count)
    except NotStrings:
        return
    assert bytes(encode(values)) == content
    assert count in {None, len(values)}


def _request(*inputs: Any, binary: bytes | None = None) -> Request:
    head = json.dumps({"inputs": list(inputs)}).encode()
    return parse(TEXTS, head + (binary or b""), None if binary is None else len(head))


def _binary(tensor: dict[str, Any], size: Any) -> dict[str, Any]:
    kept = {key: value for key, value in tensor.items() if key != "data"}
    return {**kept, "parameters": {"binary_data_size": size}}


def test_json_and_binary_mean_the_same() -> None:
    first, second = bytes(encode(FIRST["data"])), bytes(encode(SECOND["data"]))
    binary = second + first
    for request in (
        _request(SECOND, FIRST),
        _request(_binary(SECOND, len(second)), _binary(FIRST, len(first)), binary=binary),
    ):
        assert [(datatype, tuple(shape), bytes(content)) for datatype, shape, content in request.inputs] == [
            ("BYTES", (3,), first),
            ("BYTES", (2,), second),
        ]


def test_no_strings_are_a_tensor_too() -> None:
    none = FIRST | {"shape": [0], "data": []}
    assert bytes(_request(none, SECOND).inputs[0][2]) == b""
    second = bytes(encode(SECOND["data"]))
    assert bytes(_request(_binary(none, 0), _binary(SECOND, len(second)), binary=second).inputs[0][2]) == b""


_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too few": (FIRST | {"data": ["a"]}, r"inputs\[0\] \(text\).data: shape \[3\] takes 3 values, got 1"),
    "too many": (FIRST | {"data": ["a"] * 4}, r"takes 3 values, got 4"),
    "a string alone": (FIRST | {"data": "abc"}, r"data: expected a list, got a string"),
    "number": (FIRST | {"data": ["a", 5, "b"]}, r"\(text\).data\[1\]: BYTES takes strings, got 5"),
    "null": (FIRST | {"data": ["a", "b", None]}, r"data\[2\]: BYTES takes strings, got null"),
    "boolean": (FIRST | {"data": [True, "a", "b"]}, r"data\[0\]: BYTES takes strings, got a boolean"),
    "nested": (FIRST | {"data": [["a"], ["b"], ["c"]]}, r"data\[0\]: BYTES takes strings, got a list"),
    "deeper": (FIRST | {"data": ["a", ["b"], "c"]}, r"data\[1\]: BYTES takes strings, got a list"),
    "surrogate": (FIRST | {"data": ["a", "b\ud800", "c"]}, r"data\[1\]: half of a surrogate pair at character 1"),
    "rank": (FIRST | {"shape": [3, 1]}, r"shape: expected \[-1\], where -1 is free, got \[3, 1\]"),
    "scalar": (FIRST | {"shape": []}, r"shape: expected \[-1\], where -1 is free, got \[\]"),
    "datatype": (FIRST | {"datatype": "FP32"}, r'datatype: expected BYTES, got "FP32"'),
    "longest": (
        FIRST | {"data": ["", "é" * (LONGEST // 2), "é" * (LONGEST // 2) + "a"]},
        rf"data\[2\]: it takes {LONGEST + 1} bytes, and at most {LONGEST} are taken",
    ),
    "largest": (
        FIRST | {"shape": [9], "data": ["a" * (LARGEST // 8 - 4)] * 8 + [""]},
        rf"\(text\).data: {LARGEST + 4} bytes of strings, and at most {LARGEST} are taken",
    ),
    "most": (FIRST | {"shape": [MOST + 1]}, rf"shape: at most {MOST} strings are taken, got {MOST + 1}"),
    "fixed": (FIRST | {"name": "two"}, r"\(two\).shape: expected \[2\], where -1 is free, got \[3\]"),
}


@pytest.mark.parametrize("kind", _REFUSED)
def test_json_is_refused(kind: str) -> None:
    tensor, told = _REFUSED[kind]
    with pytest.raises(Refusal, match=told) as refusal:
        _request(tensor, SECOND)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("content", "size", "told"),
    [
        (b"\1\0\0\0a" * 3, 14, r"\(text\).parameters.binary_data_size: string 2: it takes 1 bytes, and 0 are left"),
        (b"\1\0\0\0a" * 2, 10, r"string 2: its length takes 4 bytes, and 0 are left"),
        (b"\1\0\0\0a" * 4, 20, r"string 3: 5 bytes are left after 3 strings"),
        (b"\1\0\0\0a" * 2 + b"\1\0\0\0\xff", 15, r"string 2: not UTF-8 \(invalid start byte at byte 0\)"),
        (b"\1\0\0\0a" * 3, 16, r"16 bytes, and only 15 are left after the JSON"),
        (b"\1\0\0\0a" * 3, -1, r"expected a number of bytes, got -1"),
        (b"\1\0\0\0a" * 3, "15", r"expected a number of bytes, got a string"),
        (b"\1\0\0\0a" * 3, None, r"expected a number of bytes, got null"),
        (b"", LARGEST + 1, rf"{LARGEST + 1} bytes of strings, and at most {LARGEST} are taken"),
        (b"", 10**200, r"10{99} bytes of strings, and at most"),
        (b"\0\0\0\0\1\0\x10\0", 8, rf"string 1: it takes {LONGEST + 1} bytes, and at most {LONGEST} are taken"),
    ],
)
def test_binary_is_refused(content: bytes, size: Any, told: str) -> None:
    with pytest.raises(Refusal, match=told) as refusal:
        _request(_binary(FIRST, size), SECOND, binary=content)
    assert refusal.value.status == 400


def _answer(values: list[str]) -> Answer:
    return Answer(tensor=TEXT, shape=(len(values),), content=memoryview(encode(values)))


@given(LISTS)
def test_answers_in_json_and_binary(values: list[str]) -> None:
    wanted = {
        binary: Request(id=None, parameters={}, inputs=(), outputs=(Requested(name="text", binary=binary),))
        for binary in (True, False)
    }
    (output,) = json.loads(render(TEXTS, wanted[False], [_answer(values)]).body)["outputs"]
    assert output == {"name": "text", "datatype": "BYTES", "shape": [len(values)], "data": values}
    response = render(TEXTS, wanted[True], [_answer(values)])
    (output,) = json.loads(response.body[: response.header_length])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(encode(values))}
    assert decode(response.body[response.header_length :]) == values


def test_nan_beside_strings_is_still_found() -> None:
    number = Tensor(name="n", datatype=DATATYPES["FP32"], shape=(-1,))
    answers = [_answer(["nan"]), Answer(tensor=number, shape=(1,), content=memoryview(np.float32("nan").tobytes()))]
    wanted = tuple(Requested(name=name, binary=False) for name in ("text", "n"))
    with pytest.raises(Refusal, match=r"outputs \(n.data\[0\]\): the model answered nan"):
        render(TEXTS, Request(id=None, parameters={}, inputs=(), outputs=wanted), answers)


def test_an_answer_that_is_no_utf_8_is_the_models_failure() -> None:
    half = Output(b"\0\0\0\0\1\0\0\0\xc3")
    half.name, half.datatype, half.shape = None, "BYTES", (2,)
    with pytest.raises(ModelFailed, match=r"output text: string 1: not UTF-8 \(unexpected end of data at byte 0\)\."):
        named(replace(TEXTS, outputs=(TEXT,)), [half])


@pytest.mark.parametrize(
    ("got", "beyond"), [(["a", "b"], None), (["a", "B"], 1), (["", "b"], 0), (["a", "b "], 1), (["ab", ""], 0)]
)
def test_strings_are_equal_or_beyond_any_tolerance(got: list[str], beyond: int | None) -> None:
    expected = Expected(shape=(2,), content=encode(["a", "b"]))
    off = 0.0 if beyond is None else 1.0
    assert compare(_answer(got), expected, EXACT) == Difference(absolute=off, relative=off, beyond=beyond)


def test_metadata_names_the_datatype() -> None:
    told = json.loads(Routes(TEXTS, Statistics()).find("GET", "/v2/models/tiny").body)
    assert told["inputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
        {"name": "two", "datatype": "BYTES", "shape": [2]},
    ]


def _kept(content: bytes | bytearray) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytes(content), np.uint8)


def _written(folder: Path, changes: dict[str, Any] | None = None, *, behaviour: str = "echo") -> Path:
    """A model that gives its strings back; `changes` replace tensors of its samples."""
    tensors = {
        "0/input/x": _kept(encode(["a", "é"])),
        "0/output/y": _kept(encode(["a", "é"])),
        "1/input/x": _kept(encode(WORDS)),
        "1/output/y": _kept(encode(WORDS)),
    }
    declared = [{"datatype": "BYTES", "shape": [-1]}]
    return models.write(
        folder,
        behaviour=behaviour,
        content=save(tensors | (changes or {})),
        inputs=[{"name": "x", **each} for each in declared],
        outputs=[{"name": "y", **each} for each in declared],
    )


def _prepare(folder: Path) -> Ready:
    return prepare(contract.read(folder), folder, FakeEngine, threads=1)


def test_a_model_of_strings_gets_ready(tmp_path: Path) -> None:
    ready = _prepare(_written(tmp_path))
    assert ready.differences == {"y": {"max_abs": 0.0, "max_rel": 0.0}}
    assert ready.samples[1].inputs[0][:2] == ("BYTES", (len(WORDS),))
    assert strings.decode(ready.samples[1].inputs[0][2]) == WORDS


_FAULTS: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "another answer": (
        lambda folder: _written(folder, {"0/output/y": _kept(encode(["a", "e"]))}),
        SamplesDisagree,
        r"sample 0: output y is 'é' at element 1, expected 'e'",
    ),
    "another count": (
        lambda folder: _written(folder, {"0/output/y": _kept(encode(["a"]))}),
        SamplesDisagree,
        r"sample 0: output y has shape \[2\], expected \[1\]",
    ),
    "half a character": (
        lambda folder: _written(folder, behaviour="halves"),
        SamplesDisagree,
        r"sample 0: output y: string 1: not UTF-8",
    ),
    "numbers": (
        lambda folder: _written(folder, behaviour="lengths"),
        SamplesDisagree,
        r"output y: forward\(\) returned INT64 \[2\], and the contract has BYTES \[-1\]",
    ),
    "broken samples": (
        lambda folder: _written(folder, {"1/input/x": _kept(b"\2\0\0\0a")}),
        ContractInvalid,
        r"does not fit the contract: 1/input/x, string 0: it takes 2 bytes, and 1 are left",
    ),
    "samples of numbers": (
        lambda folder: _written(folder, {"0/input/x": np.zeros(2, np.float32)}),
        ContractInvalid,
        r"0/input/x is F32 \[2\], declared are U8 \[-1\]",
    ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_fault_is_refused(tmp_path: Path, fault: str) -> None:
    write, kind, told = _FAULTS[fault]
    with pytest.raises(kind, match=told):
        _prepare(write(tmp_path))


def test_a_contract_of_a_table_of_strings_is_refused(tmp_path: Path) -> None:
    models.write(tmp_path, inputs=[{"name": "x", "datatype": "BYTES", "shape": [-1, 3]}])
    with pytest.raises(ContractInvalid, match=r"x has the shape \[-1, 3\], and strings are a list, such as BYTES"):
        contract.read(tmp_path)
