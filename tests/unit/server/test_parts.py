"""How a request that is larger than a batch is cut, and what its answer is."""

import asyncio
import tracemalloc
from collections.abc import Sequence

import pytest

from server.inference.parts import in_parts
from server.model import strings
from server.model.answers import Answer, ModelFailed
from server.model.contract import Tensor
from server.model.datatypes import DATATYPES
from server.model.engine import Input

_TENSOR = Tensor(name="y", datatype=DATATYPES["UINT8"], shape=(-1, 2))


def _answer(content: bytes, *shape: int) -> Answer:
    return Answer(tensor=_TENSOR, shape=shape, content=memoryview(content))


def _run(
    inputs: Sequence[Input], rows: int, size: int, *, seconds: float = 0.0
) -> tuple[list[Sequence[Input]], tuple[Answer, ...]]:
    """What was run, and what the answer to all of it is: the first input's bytes."""
    seen: list[Sequence[Input]] = []

    async def run(cut: Sequence[Input], count: int) -> tuple[Sequence[Answer], float]:
        seen.append(cut)
        return [_answer(bytes(cut[0][2]), count, 2)], seconds

    return seen, asyncio.run(in_parts(inputs, rows, size, run))


def test_inputs_are_cut_by_rows_without_a_copy() -> None:
    content = bytes(range(20))
    words = strings.encode([letter * index for index, letter in enumerate("abcdefghij")])
    inputs: list[Input] = [("UINT8", (10, 2), content), ("BYTES", (10,), words), ("FP32", (10, 0), b"")]
    seen, (answer,) = _run(inputs, 10, 4, seconds=1.0)
    assert [[list(shape) for _, shape, _ in cut] for cut in seen] == [
        [[4, 2], [4], [4, 0]],
        [[4, 2], [4], [4, 0]],
        [[2, 2], [2], [2, 0]],
    ]
    assert all(memoryview(cut[0][2]).obj is content for cut in seen)
    assert [word for cut in seen for word in strings.decode(cut[1][2])] == strings.decode(words)
    assert (answer.shape, bytes(answer.content)) == ((10, 2), content)


def test_parts_grow_while_they_are_short() -> None:
    inputs: list[Input] = [("UINT8", (20, 2), bytes(40))]
    seen, _ = _run(inputs, 20, 2)
    assert [cut[0][1][0] for cut in seen] == [2, 4, 8, 4, 2]


def test_few_sizes_are_run_however_many_rows_are_asked_for() -> None:
    """Statistics are kept of each size."""
    sizes = set()
    for rows in range(9, 1000):
        seen, (answer,) = _run([("UINT8", (rows, 2), bytes(2 * rows))], rows, 8)
        assert answer.shape == (rows, 2)
        sizes |= {cut[0][1][0] for cut in seen}
    assert sizes == {*range(1, 9), 16, 32, 64, 128, 256}


def test_rows_without_bytes_take_no_memory() -> None:
    tracemalloc.start()
    try:
        seen, _ = _run([("FP32", (2**16, 0), b"")], 2**16, 2**15)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(seen), most < 2**16) == (2, True)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4)])
def test_an_answer_that_has_not_a_row_for_each_row_is_an_error(shape: tuple[int, int]) -> None:
    async def run(_: Sequence[Input], count: int) -> tuple[Sequence[Answer], float]:
        return [_answer(bytes(16), *(shape if count == 2 else (4, 2)))], 0.0

    with pytest.raises(ModelFailed, match=r"output y: .*\[4, 2\].* cannot be joined"):
        asyncio.run(in_parts([("UINT8", (6, 2), bytes(12))], 6, 4, run))
