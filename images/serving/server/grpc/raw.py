"""Takes the raw tensors out of a ModelInferRequest before it is parsed, and puts them beside a ModelInferResponse,
without copying them.

What is left of a request is bounded: parsed, a field of two bytes takes up to a hundred.
https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Sequence

from server.model.engine import Bytes
from server.refusal import Refusal

_RAW_INPUT_CONTENTS, _RAW_OUTPUT_CONTENTS = 7, 6
# Fields of the message itself, most of which are tensors, and bytes of everything that is not raw contents.
_MOST_FIELDS = 4096
_LARGEST = 2**22
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def unpacked(content: bytes) -> tuple[bytes, list[memoryview]]:
    """A serialized message without its raw contents, and these, in their order.

    Raises:
        Refusal: 400, it is not a protobuf message; 413, there is more beside the raw contents than is taken.
    """
    view, raw, kept = memoryview(content), [], []
    at = since = fields = 0
    while at < len(content):
        start = at
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _LENGTH:
            size, at = _varint(content, at)
        else:
            size = _fixed(kind)
            if kind == _VARINT:
                _, at = _varint(content, at)
        end = at + size
        fields += 1
        if end > len(content):
            raise Refusal(400, f"the message: a field ends {end - len(content)} bytes after the message does.")
        if fields > _MOST_FIELDS:
            raise Refusal(413, f"the message: at most {_MOST_FIELDS} fields are taken, and it has more.")
        if tag == _RAW_INPUT_CONTENTS << 3 | _LENGTH:
            kept.append(view[since:start])
            raw.append(view[at:end])
            since = end
        at = end
    kept.append(view[since:])
    rest = b"".join(kept)
    if len(rest) > _LARGEST:
        told = f"at most {_LARGEST} bytes beside raw_input_contents are taken, got {len(rest)}"
        raise Refusal(413, f"the message: {told}; send the tensors as raw_input_contents.")
    return rest, raw


def packed(rest: bytes, raw: Sequence[Bytes]) -> list[Bytes]:
    """The parts of a serialized ModelInferResponse: what is not raw contents, and these."""
    parts: list[Bytes] = [rest]
    for content in raw:
        parts += [bytes([_RAW_OUTPUT_CONTENTS << 3 | _LENGTH]) + _number(len(content)), content]
    return parts


def _number(value: int) -> bytes:
    """As `_varint` reads it."""
    sevens = bytearray()
    while value > 0x7F:
        sevens.append(value & 0x7F | 0x80)
        value >>= 7
    sevens.append(value)
    return bytes(sevens)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where what follows it begins."""
    value = shift = 0
    for byte in content[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Refusal(400, f"the message: there is no number at byte {at}, where one has to be.")


def _fixed(kind: int) -> int:
    sizes = {_VARINT: 0, _FIXED64: 8, _FIXED32: 4}
    if kind not in sizes:
        raise Refusal(400, f"the message: a field is of wire type {kind}, which messages of today do not have.")
    return sizes[kind]
