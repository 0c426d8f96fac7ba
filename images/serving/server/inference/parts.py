"""A request that is larger than a batch, cut into parts that are run one after the other.

Others that wait get their turn in between, and no run takes memory in proportion to the largest request.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import TypeAlias

from server.model import strings
from server.model.answers import Answer, ModelFailed
from server.model.engine import Input

# A part that ran for less is mostly overhead, and the next one has twice as many rows.
_SHORT_SECONDS = 5e-3

# Runs inputs of so many rows, and tells how many seconds that took.
Runs: TypeAlias = Callable[[Sequence[Input], int], Awaitable[tuple[Sequence[Answer], float]]]


async def in_parts(inputs: Sequence[Input], rows: int, size: int, run: Runs) -> tuple[Answer, ...]:
    """The answers to inputs of so many `rows`, of which `run` is given `size` at first.

    Raises:
        ModelFailed: an output has not a row for each row of the inputs, or its rows differ in shape; what `run` raises.
    """
    places = [_places(each, rows) for each in inputs]
    parts: list[Sequence[Answer]] = []
    at, least = 0, size
    while at < rows:
        # What is left is halved, too: of sizes above the first one there are few, and statistics are kept of each.
        while size > max(least, rows - at):
            size //= 2
        end = min(rows, at + size)
        cut = [_cut(each, place, at, end) for each, place in zip(inputs, places, strict=True)]
        answers, seconds = await run(cut, end - at)
        parts.append(answers)
        at = end
        if seconds < _SHORT_SECONDS:
            size *= 2
    return tuple(_joined(same, rows) for same in zip(*parts, strict=True))


def _places(given: Input, rows: int) -> Callable[[int], int]:
    """Tells where a row begins among the bytes of an input, and where the last one ends."""
    datatype, _, content = given
    if datatype == "BYTES":
        return list(accumulate(strings.sizes(content), initial=0)).__getitem__
    width = len(content) // rows
    return lambda row: row * width


def _cut(given: Input, place: Callable[[int], int], at: int, end: int) -> Input:
    datatype, shape, content = given
    return datatype, (end - at, *shape[1:]), memoryview(content)[place(at) : place(end)]


def _joined(parts: Sequence[Answer], rows: int) -> Answer:
    first = parts[0]
    shape = (rows, *first.shape[1:])
    if sum(part.shape[0] for part in parts) != rows or any(part.shape[1:] != shape[1:] for part in parts):
        told = ", ".join(str(list(each)) for each in dict.fromkeys(part.shape for part in parts))
        raise ModelFailed(f"output {first.tensor.name}: parts of {rows} rows gave {told}, which cannot be joined.")
    return Answer(tensor=first.tensor, shape=shape, content=memoryview(b"".join(part.content for part in parts)))
