"""What forward() returned, matched with what the contract promises and compared with what a sample expects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from server.model import strings
from server.model.contract import Contract, Tensor, Tolerance
from server.model.datatypes import decode
from server.model.engine import Bytes, Output
from server.model.samples import Expected
from server.model.strings import NotStrings


class ModelFailed(Exception):
    """The model raised, or answered something other than its contract says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One named output: its shape as the model gave it, and its bytes."""

    tensor: Tensor
    shape: tuple[int, ...]
    content: Bytes

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, to which views of memory cannot be sent."""
        return partial(Answer, tensor=self.tensor, shape=self.shape, content=bytes(self.content)), ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The largest absolute and relative differences (the latter where something other than 0 was expected), and the
    index of the first element beyond tolerance. Of strings, which have to be equal, both are 0 or 1."""

    absolute: float
    relative: float
    beyond: int | None

    def told(self, expected: Expected) -> str:
        """What is wrong with an answer that is beyond tolerance."""
        more = f", where rounding may add {expected.rounding:g}" if expected.rounding else ""
        return f"differs by up to {self.absolute:.3g}, beyond tolerance first at element {self.beyond}{more}"


def named(contract: Contract, outputs: Sequence[Output]) -> tuple[Answer, ...]:
    """The outputs in the contract's order: by name where the model names them, else by position.

    Raises:
        ModelFailed: their number, names, datatypes or shapes are not the contract's, or a string is not UTF-8.
    """
    if len(outputs) != len(contract.outputs):
        raise ModelFailed(f"forward() returned {len(outputs)} outputs, and the contract has {len(contract.outputs)}.")
    by_name = {output.name: output for output in outputs if output.name is not None}
    if not by_name:
        return tuple(map(_answer, contract.outputs, outputs))
    missing = [tensor.name for tensor in contract.outputs if tensor.name not in by_name]
    if missing:
        raise ModelFailed(f"forward() returned {', '.join(by_name)}, and the contract has {', '.join(missing)}.")
    return tuple(_answer(tensor, by_name[tensor.name]) for tensor in contract.outputs)


def _answer(tensor: Tensor, output: Output) -> Answer:
    if output.datatype != tensor.datatype.name or not tensor.fits(output.shape):
        raise ModelFailed(
            f"output {tensor.name}: forward() returned {output.datatype} {list(output.shape)}, "
            f"and the contract has {tensor.datatype.name} {list(tensor.shape)}."
        )
    content = memoryview(output)
    if tensor.datatype.kind == "string":
        try:
            strings.decode(content, output.shape[0])
        except NotStrings as error:
            raise ModelFailed(f"output {tensor.name}: {error}.") from error
    return Answer(tensor=tensor, shape=output.shape, content=content)


def split(whole: Sequence[Answer], rows: Sequence[int]) -> list[tuple[Answer, ...]]:
    """The answers of requests that had so many rows each, as views of the answers to all of them.

    Raises:
        ModelFailed: an output has not a row for each row of the inputs.
    """
    return list(zip(*(_parts(answer, rows) for answer in whole), strict=True))


def _parts(answer: Answer, rows: Sequence[int]) -> list[Answer]:
    tensor, shape, content = answer.tensor, answer.shape, answer.content
    count = sum(rows)
    if shape[:1] != (count,):
        got = shape[0] if shape else "none"
        raise ModelFailed(f"output {tensor.name}: {count} rows of input have {got} in the answer; it cannot be split.")
    sizes = strings.sizes(content) if tensor.datatype.kind == "string" else [len(content) // max(count, 1)] * count
    parts, at, row = [], 0, 0
    for each in rows:
        size = sum(sizes[row : row + each])
        parts.append(Answer(tensor=tensor, shape=(each, *shape[1:]), content=content[at : at + size]))
        at, row = at + size, row + each
    return parts


def compare(answer: Answer, expected: Expected, tolerance: Tolerance) -> Difference:
    """How far an answer of the expected shape is off. NaN agrees with NaN, and infinity with itself, only."""
    allowed = tolerance.absolute + expected.rounding
    absolute = relative = 0.0
    beyond = None
    datatype = answer.tensor.datatype
    if answer.content == expected.content:
        return Difference(absolute=absolute, relative=relative, beyond=beyond)
    if datatype.kind == "string":
        texts = zip(strings.decode(answer.content), strings.decode(expected.content), strict=True)
        first = next(index for index, (text, other) in enumerate(texts) if text != other)
        return Difference(absolute=1.0, relative=1.0, beyond=first)
    pairs = zip(decode(datatype, answer.content), decode(datatype, expected.content), strict=True)
    for index, (got, wanted) in enumerate(pairs):
        if got == wanted or (got != got and wanted != wanted):  # noqa: PLR0124 (NaN is what differs from itself)
            continue
        off = abs(got - wanted)
        if not math.isfinite(off):
            off = math.inf
        absolute = max(absolute, off)
        relative = max(relative, off / abs(wanted)) if wanted else relative
        if beyond is None and (off == math.inf or off > allowed + tolerance.relative * abs(wanted)):
            beyond = index
    return Difference(absolute=absolute, relative=relative, beyond=beyond)
