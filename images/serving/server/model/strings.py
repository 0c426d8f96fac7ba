"""BYTES: strings as binary tensors hold them, each its length (4 bytes, little-endian) and then its UTF-8.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from collections.abc import Sequence

from server.model.engine import Bytes

# What a tensor of a request may hold: bytes of one string, strings, and bytes of all with their lengths. TorchScript
# makes objects of 80 bytes of strings and their characters, so that the limit of the body is none for memory and time:
# a million empty strings, in a body of 4 MiB, took a small classifier 400 MiB and 19 s, and 60 MiB of text its life.
LONGEST = 2**20
MOST = 2**16
LARGEST = 2**23
_LENGTH = 4


class NotStrings(ValueError):
    """What is wrong with the element `index`."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"string {index}: {reason}")
        self.index = index
        self.reason = reason


def encode(values: Sequence[str], *, longest: int = 2**32 - 1) -> bytearray:
    """The bytes of strings.

    Raises:
        NotStrings: one holds half of a surrogate pair, which JSON can say and UTF-8 cannot, or is too long.
    """
    content = bytearray()
    for index, value in enumerate(values):
        try:
            written = value.encode()
        except UnicodeEncodeError as error:
            raise NotStrings(index, f"half of a surrogate pair at character {error.start}") from error
        _refuse_long(index, len(written), longest)
        content += len(written).to_bytes(_LENGTH, "little") + written
    return content


def decode(content: Bytes, count: int | None = None, *, longest: int = 2**32 - 1) -> list[str]:
    """The strings that bytes hold: `count` of them, or however many there are.

    Raises:
        NotStrings: they end too early or too late, or a string is not UTF-8 or too long.
    """
    raw, at = memoryview(content), 0
    strings: list[str] = []
    while at < len(raw) if count is None else len(strings) < count:
        index, left = len(strings), len(raw) - at
        if left < _LENGTH:
            raise NotStrings(index, f"its length takes {_LENGTH} bytes, and {left} are left")
        size = int.from_bytes(raw[at : at + _LENGTH], "little")
        at += _LENGTH
        _refuse_long(index, size, longest)
        if len(raw) - at < size:
            raise NotStrings(index, f"it takes {size} bytes, and {len(raw) - at} are left")
        try:
            strings.append(str(raw[at : at + size], "utf-8"))
        except UnicodeDecodeError as error:
            raise NotStrings(index, f"not UTF-8 ({error.reason} at byte {error.start})") from error
        at += size
    if at < len(raw):
        raise NotStrings(len(strings), f"{len(raw) - at} bytes are left after {count} strings")
    return strings


def sizes(content: Bytes) -> list[int]:
    """How many bytes each string takes with its length, of what `decode` takes."""
    raw, at = memoryview(content), 0
    found: list[int] = []
    while at < len(raw):
        found.append(_LENGTH + int.from_bytes(raw[at : at + _LENGTH], "little"))
        at += found[-1]
    return found


def _refuse_long(index: int, size: int, longest: int) -> None:
    if size > longest:
        raise NotStrings(index, f"it takes {size} bytes, and at most {longest} are taken")
