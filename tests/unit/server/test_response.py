"""Answers as JSON and as binary tensors."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.model.answers import Answer
from server.protocol import response
from server.protocol.request import Request, Requested
from server.protocol.response import render
from server.refusal import Refusal
from tests.unit.server.test_request import CONTRACT


def _answers(y: list[float]) -> tuple[Answer, Answer]:
    content = memoryview(np.array(y, np.float32).tobytes())
    return (
        Answer(tensor=CONTRACT.outputs[0], shape=(len(y) // 3, 3), content=content),
        Answer(tensor=CONTRACT.outputs[1], shape=(), content=memoryview(np.int64(-7).tobytes())),
    )


def _wanted(**binary: bool) -> Request:
    return Request(
        id="a", parameters={}, inputs=(), outputs=tuple(Requested(name=n, binary=b) for n, b in binary.items())
    )


def test_json() -> None:
    response = render(CONTRACT, _wanted(z=False, y=False), _answers([1, 2, 3.5]))
    assert response.header_length is None
    assert json.loads(response.body) == {
        "model_name": "tiny",
        "model_version": "1.0.0",
        "id": "a",
        "outputs": [
            {"name": "z", "datatype": "INT64", "shape": [], "data": [-7]},
            {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.5]},
        ],
    }


def test_binary_follows_the_json_in_the_order_of_the_outputs() -> None:
    response = render(CONTRACT, _wanted(z=True, y=True), _answers([1, 2, 3]))
    head = json.loads(response.body[: response.header_length])
    assert [output["parameters"] for output in head["outputs"]] == [{"binary_data_size": 8}, {"binary_data_size": 12}]
    assert response.body[response.header_length :] == np.int64(-7).tobytes() + np.array([1, 2, 3], np.float32).tobytes()


def test_both_in_one_answer() -> None:
    response = render(CONTRACT, _wanted(y=True, z=False), _answers([1, 2, 3]))
    head = json.loads(response.body[: response.header_length])
    assert head["outputs"][1]["data"] == [-7]
    assert response.body[response.header_length :] == np.array([1, 2, 3], np.float32).tobytes()


def test_without_an_id_there_is_none() -> None:
    request = Request(id=None, parameters={}, inputs=(), outputs=(Requested(name="z", binary=False),))
    assert "id" not in json.loads(render(CONTRACT, request, _answers([])).body)


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_what_json_cannot_say_is_refused_and_binary_says_it(value: float, shown: str) -> None:
    answers = _answers([1, value, 3])
    with pytest.raises(Refusal, match=rf"outputs \(y.data\[1\]\): the model answered {shown}") as refusal:
        render(CONTRACT, _wanted(z=False, y=False), answers)
    assert refusal.value.status == 406
    response = render(CONTRACT, _wanted(y=True), answers)
    assert response.body[response.header_length :] == bytes(answers[0].content)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)).filter(lambda y: len(y) % 3 == 0))
def test_json_is_exact(y: list[float]) -> None:
    head = json.loads(render(CONTRACT, _wanted(y=False), _answers(y)).body)
    assert np.array(head["outputs"][0]["data"], np.float32).tobytes() == np.array(y, np.float32).tobytes()


@pytest.mark.parametrize("count", [0, 3, 6])
def test_many_elements_are_written_part_by_part(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(response, "_TOGETHER", 4)
    values = [float(value) for value in range(count)]
    (output,) = json.loads(render(CONTRACT, _wanted(y=False), _answers(values)).body)["outputs"]
    assert output["data"] == values


def test_an_element_of_a_later_part_is_named_by_its_place_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "_TOGETHER", 4)
    with pytest.raises(Refusal, match=r"outputs \(y.data\[5\]\): the model answered nan"):
        render(CONTRACT, _wanted(y=False), _answers([1, 2, 3, 4, 5, math.nan]))
