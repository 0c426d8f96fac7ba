"""Requests that repeat themselves are read as they were the first time, and are no less held to what is right."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.model import contract
from server.protocol import request
from server.protocol.repeated import Parser
from server.refusal import Refusal
from tests.unit.server import models

_SHAPE = {"datatype": "FP32", "shape": [-1, 2]}
INPUTS = [{"name": "a", **_SHAPE}, {"name": "b", **_SHAPE}, {"name": "flag", "datatype": "BOOL", "shape": [-1]}]


@pytest.fixture
def described(tmp_path: Path) -> contract.Contract:
    return contract.read(models.write(tmp_path, inputs=INPUTS))


def _head(*names: str, rows: int = 1, **fields: Any) -> bytes:
    sizes = {"a": 8 * rows, "b": 8 * rows, "flag": rows}
    entries = [
        {
            "name": name,
            "datatype": "BOOL" if name == "flag" else "FP32",
            "shape": [rows] if name == "flag" else [rows, 2],
            "parameters": {"binary_data_size": sizes[name]},
        }
        for name in names
    ]
    return json.dumps({"inputs": entries, **fields}).encode()


def _tensor(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


@pytest.mark.parametrize("order", [("a", "b", "flag"), ("flag", "b", "a"), ("b", "flag", "a")])
def test_the_second_time_is_as_the_first(described: contract.Contract, order: tuple[str, ...]) -> None:
    parser = Parser(described)
    head = _head(*order, id="7", parameters={"mine": 1, "binary_data_output": True})
    for number in range(3):
        parts = {"a": _tensor(number, 1), "b": _tensor(number, 2), "flag": b"\1"}
        body = head + b"".join(parts[name] for name in order)
        found = parser.parse(body, len(head))
        assert found == request.parse(described, body, len(head))
        assert [bytes(content) for _, _, content in found.inputs] == [parts[name] for name in ("a", "b", "flag")]
    assert len(parser._known) == 1


def test_what_comes_after_known_json_is_checked(described: contract.Contract) -> None:
    parser = Parser(described)
    head = _head("a", "b", "flag")
    good = head + bytes(16) + b"\1"
    parser.parse(good, len(head))
    for body, told in (
        (good[:-1] + b"\2", "a BOOL is one byte, 0 or 1"),
        (good[:-1], "only 0 are left"),
        (good + b"x", "1 bytes are left"),
    ):
        with pytest.raises(Refusal, match=told):
            parser.parse(body, len(head))
    with pytest.raises(Refusal, match="the body has"):
        parser.parse(head[:-1], len(head))


def test_json_tensors_are_not_remembered(described: contract.Contract) -> None:
    parser = Parser(described)
    entry = {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    head = json.dumps({"inputs": [entry, *json.loads(_head("b", "flag"))["inputs"]]}).encode()
    parser.parse(head + bytes(8) + b"\1", len(head))
    assert not parser._known


def test_what_is_remembered_is_bounded(described: contract.Contract) -> None:
    parser = Parser(described)
    for number in range(1000):
        head = _head("a", "b", "flag", id=str(number))
        parser.parse(head + bytes(17), len(head))
    assert len(parser._known) <= 256
    long = _head("a", "b", "flag", id="x" * 5000)
    parser.parse(long + bytes(17), len(long))
    assert long not in parser._known
