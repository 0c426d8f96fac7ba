"""Tensor data in JSON: flat or nested lists of values, checked against datatype and shape."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

from server.model import strings
from server.model.datatypes import Datatype, Value, encode
from server.model.engine import Bytes
from server.model.strings import NotStrings
from server.refusal import Refusal

_TYPES: dict[str, set[type]] = {"boolean": {bool}, "integer": {int}, "number": {int, float}, "string": {str}}
_EXPECTED = {"boolean": "true or false", "integer": "whole numbers", "number": "numbers", "string": "strings"}


def to_bytes(field: str, data: object, datatype: Datatype, shape: Sequence[int]) -> Bytes:
    """The bytes of a tensor whose `data` came as JSON: one flat list in row-major order, or lists nested as `shape` is.

    Raises:
        Refusal: 400, naming `field` and the first element that is wrong.
    """
    if not isinstance(data, list):
        raise Refusal(400, f"{field}: expected a list, got {kind_of(data)}.")
    nested = bool(data) and isinstance(data[0], list)
    values = _flattened(field, data, shape) if nested else data
    expected = math.prod(shape)
    if len(values) != expected:
        raise Refusal(400, f"{field}: shape {list(shape)} takes {expected} values, got {len(values)}.")
    _refuse_other_kinds(field, values, datatype)
    if datatype.kind == "string":
        return _strings(field, values)
    _refuse_out_of_range(field, values, datatype)
    return encode(datatype, values)


def kind_of(value: object) -> str:
    """What JSON calls a value."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _flattened(field: str, data: list[Any], shape: Sequence[int]) -> list[Any]:
    level: list[Any] = [data]
    for depth, size in enumerate(shape):
        for each in level:
            if not isinstance(each, list) or len(each) != size:
                got = f"{len(each)} values" if isinstance(each, list) else kind_of(each)
                raise Refusal(
                    400, f"{field}: shape {list(shape)} takes lists of {size} values at depth {depth}, got {got}."
                )
        level = list(chain.from_iterable(level))
    return level


def _refuse_other_kinds(field: str, values: list[Any], datatype: Datatype) -> None:
    allowed = _TYPES[datatype.kind]
    if not set(map(type, values)) <= allowed:
        index, value = next((index, value) for index, value in enumerate(values) if type(value) not in allowed)
        got = f"{value}" if type(value) in {int, float} else kind_of(value)
        raise Refusal(400, f"{field}[{index}]: {datatype.name} takes {_EXPECTED[datatype.kind]}, got {got}.")


def _strings(field: str, values: list[str]) -> Bytes:
    try:
        content = strings.encode(values, longest=strings.LONGEST)
    except NotStrings as error:
        raise Refusal(400, f"{field}[{error.index}]: {error.reason}.") from error
    if len(content) > strings.LARGEST:
        raise Refusal(400, f"{field}: {len(content)} bytes of strings, and at most {strings.LARGEST} are taken.")
    return content


def _refuse_out_of_range(field: str, values: list[Value], datatype: Datatype) -> None:
    if values and not (datatype.takes(min(values)) and datatype.takes(max(values))):
        index, value = next((index, value) for index, value in enumerate(values) if not datatype.takes(value))
        raise Refusal(
            400, f"{field}[{index}]: {datatype.name} takes {datatype.least} to {datatype.most}, got {_shown(value)}."
        )


def _shown(value: Value) -> str:
    """A number at a length that fits a message; Python refuses to print integers of many thousand digits."""
    return "a larger number" if abs(value) > 1e300 else str(value)
