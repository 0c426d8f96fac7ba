"""What holds for a tensor of a request however it came: name, datatype, shape and raw bytes against the contract."""

import json
import math
from collections.abc import Sequence

from server.model import strings
from server.model.contract import Tensor
from server.model.strings import NotStrings
from server.protocol.values import kind_of
from server.refusal import Refusal

# A tensor of no elements has no bytes that would bound its other dimensions.
_MOST_ELEMENTS = 2**24
# Nor its rows, each of which a model may answer.
_MOST_EMPTY_ROWS = 2**16
# What torch counts with.
_LARGEST_SIZE = 2**63


def named(field: str, name: object, known: Sequence[Tensor]) -> Tensor:
    """The tensor of the contract that a request names; `name` is of any type.

    Raises:
        Refusal: 400, as all of these, naming the field, what was expected and what came.
    """
    for tensor in known:
        if tensor.name == name:
            return tensor
    names = ", ".join(tensor.name for tensor in known)
    raise Refusal(400, f"{field}.name: expected one of {names}, got {_shown(name)}.")


def check_datatype(field: str, datatype: object, tensor: Tensor) -> None:
    """Raises Refusal unless it is the tensor's."""
    if datatype != tensor.datatype.name:
        raise Refusal(400, f"{field}.datatype: expected {tensor.datatype.name}, got {_shown(datatype)}.")


def check_shape(field: str, shape: object, tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor, which must be a list or tuple of sizes that fits the contract's."""
    declared = list(tensor.shape)
    listed = shape if isinstance(shape, list | tuple) else [None]
    # Python does not print numbers of thousands of digits.
    sizes = tuple(size for size in listed if type(size) is int and 0 <= size < _LARGEST_SIZE)
    if len(sizes) != len(listed):
        raise Refusal(400, f"{field}.shape: expected a list of whole numbers from 0 that fits {declared}.")
    if not tensor.fits(sizes):
        raise Refusal(400, f"{field}.shape: expected {declared}, where -1 is free, got {str(list(sizes))[:200]}.")
    if 0 in sizes:
        if math.prod(size or 1 for size in sizes) > _MOST_ELEMENTS:
            raise Refusal(400, f"{field}.shape: the sizes beside 0 are too large.")
        if sizes[0] > _MOST_EMPTY_ROWS:
            raise Refusal(400, f"{field}.shape: at most {_MOST_EMPTY_ROWS} rows without elements, got {sizes[0]}.")
    if tensor.datatype.kind == "string" and sizes[0] > strings.MOST:
        raise Refusal(400, f"{field}.shape: at most {strings.MOST} strings are taken, got {str(sizes[0])[:100]}.")
    return sizes


def check_raw(field: str, content: memoryview, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raises Refusal unless these bytes are a tensor of this shape."""
    if tensor.datatype.kind == "string":
        check_strings(field, content, shape[0])
        return
    expected = math.prod(shape) * tensor.datatype.size
    if len(content) != expected:
        came = len(content)
        raise Refusal(
            400, f"{field}: {tensor.datatype.name} of shape {list(shape)} takes {expected} bytes, got {came}."
        )
    if tensor.datatype.kind == "boolean":
        check_booleans(field, content)


def check_booleans(field: str, content: memoryview) -> None:
    """Raises Refusal unless each byte is 0 or 1."""
    if bytes(content).translate(None, b"\0\1"):
        raise Refusal(400, f"{field}: a BOOL is one byte, 0 or 1, and another value came.")


def check_strings(field: str, content: memoryview, count: int) -> None:
    """Raises Refusal unless these bytes are `count` strings."""
    if len(content) > strings.LARGEST:
        raise Refusal(400, f"{field}: {len(content)} bytes of strings, and at most {strings.LARGEST} are taken.")
    try:
        strings.decode(content, count, longest=strings.LONGEST)
    except NotStrings as error:
        raise Refusal(400, f"{field}: {error}.") from error


def _shown(value: object) -> str:
    return json.dumps(value)[:100] if isinstance(value, str) else kind_of(value)
