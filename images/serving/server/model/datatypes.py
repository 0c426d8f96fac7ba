"""The tensor datatypes of the Open Inference Protocol: their bytes, ranges and Python values.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md#tensor-data-types
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.model.engine import Bytes

Kind: TypeAlias = Literal["boolean", "integer", "number", "string"]
Value: TypeAlias = bool | int | float

# The wire is little-endian, and so is every machine that this runtime is built for.
assert sys.byteorder == "little"


@dataclass(frozen=True, slots=True, kw_only=True)
class Datatype:
    """How a datatype is written: `size` bytes an element, `code` of struct and array, finite values `least` to `most`.

    What is between -`beyond` and `beyond` is rounded to one of them: the largest FP32 is commonly written 3.4028235e38,
    which is a little more than it is. BF16 has no code: it is the upper half of an FP32. BYTES have neither code nor
    size: see `server.model.strings`.
    """

    name: str
    kind: Kind
    size: int
    code: str
    least: float
    most: float
    safetensors: str
    beyond: float = 0

    def takes(self, value: Value) -> bool:
        """Whether a number has a finite value in this datatype."""
        return self.least <= value <= self.most or -self.beyond < value < self.beyond


def _integer(name: str, code: str, safetensors: str) -> Datatype:
    size = struct.calcsize(f"<{code}")
    signed = code.islower()
    least, most = (-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1) if signed else (0, 2 ** (8 * size) - 1)
    return Datatype(name=name, kind="integer", size=size, code=code, least=least, most=most, safetensors=safetensors)


def _float(name: str, code: str, most: float, safetensors: str, *, beyond: float) -> Datatype:
    size = struct.calcsize(f"<{code}") if code else 2
    return Datatype(
        name=name,
        kind="number",
        size=size,
        code=code,
        least=-most,
        most=most,
        safetensors=safetensors,
        beyond=beyond,
    )


DATATYPES = {
    datatype.name: datatype
    for datatype in (
        Datatype(name="BOOL", kind="boolean", size=1, code="B", least=0, most=1, safetensors="BOOL"),
        _integer("UINT8", "B", "U8"),
        _integer("UINT16", "H", "U16"),
        _integer("UINT32", "I", "U32"),
        _integer("UINT64", "Q", "U64"),
        _integer("INT8", "b", "I8"),
        _integer("INT16", "h", "I16"),
        _integer("INT32", "i", "I32"),
        _integer("INT64", "q", "I64"),
        # Half a step above the largest value; BF16 is rounded to FP32 first, and what that rounds up is a half, too.
        _float("FP16", "e", 65504.0, "F16", beyond=65520.0),
        _float("BF16", "", (2 - 2**-7) * 2.0**127, "BF16", beyond=(2 - 2**-8 - 2**-24) * 2.0**127),
        _float("FP32", "f", (2 - 2**-23) * 2.0**127, "F32", beyond=(2 - 2**-24) * 2.0**127),
        # No float is that large, but whole numbers are.
        _float("FP64", "d", sys.float_info.max, "F64", beyond=2**1024 - 2**970),
        Datatype(name="BYTES", kind="string", size=0, code="", least=0, most=0, safetensors="U8"),
    )
}


def encode(datatype: Datatype, values: Sequence[Value]) -> Bytes:
    """The little-endian bytes of values within the datatype's range, in memory that nobody else sees. Not for BYTES."""
    if datatype.name == "BF16":
        return _bfloat16(array("f", values))
    if datatype.name == "FP16":
        # array has no half precision; struct rounds to nearest, as IEEE 754 does.
        return bytearray(struct.pack(f"<{len(values)}e", *values))
    return memoryview(array(datatype.code, values)).cast("B")


def decode(datatype: Datatype, content: Bytes) -> list[Value]:
    """The values that little-endian bytes hold; the length is a multiple of the element's size. Not for BYTES."""
    if datatype.name == "BF16":
        halves = array("H", bytes(content))
        return array("f", array("I", (half << 16 for half in halves)).tobytes()).tolist()
    if datatype.name == "FP16":
        return list(struct.unpack(f"<{len(content) // 2}e", content))
    values: list[Value] = [*array(datatype.code, bytes(content))]
    return list(map(bool, values)) if datatype.kind == "boolean" else values


def _bfloat16(singles: "array[float]") -> bytearray:
    """The upper halves of FP32 numbers, rounded to the nearest, ties to even."""
    words = array("I", singles.tobytes())
    return bytearray(array("H", ((word + 0x7FFF + ((word >> 16) & 1)) >> 16 for word in words)).tobytes())
