"""How far the answers of one output are from the trained model's, over many samples."""

from collections.abc import Sequence

from server.model.answers import Answer, compare
from server.model.contract import Tensor, Tolerance
from server.model.datatypes import Value, decode
from server.model.samples import Expected


class Deviations:
    """Gathers the largest differences of an output, whether all answers were equal, and how many rows agree.

    A row is what a classifier gives: two or more numbers, along the last of two or more dimensions. It agrees when its
    largest number is at the same place.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._absolute = self._relative = 0.0
        self._equal = True
        self._agreeing = self._rows = 0

    def add(self, answer: Answer, expected: Expected, tolerance: Tolerance, *, judged: bool) -> str | None:
        """Counts an answer in; says what is wrong with it, if anything.

        Where it is not `judged` by the tolerance, it must still be finite where the expected one is.
        """
        if answer.shape != expected.shape:
            return f"has shape {list(answer.shape)}, expected {list(expected.shape)}"
        equal = answer.content == expected.content
        self._equal &= equal
        self._agree(answer, expected, equal=equal)
        difference = compare(answer, expected, tolerance)
        self._absolute = max(self._absolute, difference.absolute)
        self._relative = max(self._relative, difference.relative)
        if difference.beyond is None or (not judged and difference.absolute < float("inf")):
            return None
        return difference.told(expected)

    def found(self) -> dict[str, float | bool | None]:
        """As in the record of the archive."""
        agreement = self._agreeing / self._rows if self._rows else None
        return {"absolute": self._absolute, "relative": self._relative, "equal": self._equal, "agreement": agreement}

    def _agree(self, answer: Answer, expected: Expected, *, equal: bool) -> None:
        shape = answer.shape
        if self._tensor.datatype.kind != "number" or len(shape) < 2 or shape[-1] < 2 or 0 in shape:
            return
        width = shape[-1]
        rows = len(answer.content) // self._tensor.datatype.size // width
        self._rows += rows
        if equal:
            self._agreeing += rows
            return
        got, wanted = (decode(self._tensor.datatype, each.content) for each in (answer, expected))
        self._agreeing += sum(
            _largest(got[at : at + width]) == _largest(wanted[at : at + width]) for at in range(0, len(got), width)
        )


def _largest(row: Sequence[Value]) -> int:
    """The place of the first NaN, or else of the largest number, as torch's argmax has it."""
    nan = next((at for at, value in enumerate(row) if value != value), None)  # noqa: PLR0124 (only NaN is so)
    return row.index(max(row)) if nan is None else nan
