"""The answers of a batch are cut into those of its requests, row for row."""

import pickle

import pytest

from server.model import strings
from server.model.answers import Answer, ModelFailed, split
from server.model.contract import Tensor
from server.model.datatypes import DATATYPES, encode

_NUMBERS = Tensor(name="y", datatype=DATATYPES["INT16"], shape=(-1, 2))
_TEXTS = Tensor(name="t", datatype=DATATYPES["BYTES"], shape=(-1,))


def _numbers(*rows: int) -> Answer:
    content = encode(DATATYPES["INT16"], [value for row in rows for value in (row, -row)])
    return Answer(tensor=_NUMBERS, shape=(len(rows), 2), content=memoryview(content))


def _texts(*texts: str) -> Answer:
    return Answer(tensor=_TEXTS, shape=(len(texts),), content=memoryview(strings.encode(texts)))


def test_each_request_gets_a_view_of_its_rows() -> None:
    whole = (_numbers(1, 2, 3, 4), _texts("a", "", "日本", "b"))
    parts = split(whole, [2, 0, 1, 1])
    assert [(y.shape, t.shape) for y, t in parts] == [((2, 2), (2,)), ((0, 2), (0,)), ((1, 2), (1,)), ((1, 2), (1,))]
    assert [bytes(y.content) for y, _ in parts] == [bytes(_numbers(*rows).content) for rows in ((1, 2), (), (3,), (4,))]
    assert [strings.decode(t.content) for _, t in parts] == [["a", ""], [], ["日本"], ["b"]]
    assert all(memoryview(y.content).obj is memoryview(whole[0].content).obj for y, _ in parts)


def test_an_answer_can_be_sent_to_another_process() -> None:
    """Its content is a view of memory, which cannot."""
    sent = pickle.loads(pickle.dumps(_numbers(1, 2)))
    assert (sent.tensor, sent.shape, bytes(sent.content)) == (_NUMBERS, (2, 2), bytes(_numbers(1, 2).content))


def test_no_rows_at_all_are_split_into_none() -> None:
    assert [y.shape for (y,) in split([_numbers()], [0, 0])] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("rows", [[1, 1], [4]])
def test_an_output_with_other_rows_is_told(rows: list[int]) -> None:
    with pytest.raises(ModelFailed, match=rf"output y: {sum(rows)} rows of input have 3 in the answer; it cannot be"):
        split([_numbers(1, 2, 3)], rows)
