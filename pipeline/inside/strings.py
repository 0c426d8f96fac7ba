"""Strings as a tensor of bytes: the one form in which samples can keep them, and in which they go over the wire.

Each is its length in bytes (4 bytes, little-endian) and then its UTF-8, one after the other (binary tensor data
extension of the Open Inference Protocol).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.inside.order import Refused


def serialized(values: Sequence[str], *, what: str) -> Tensor:
    """UINT8 [bytes].

    Raises:
        Refused: half of a surrogate pair, which UTF-8 cannot write, is in `what`.
    """
    content = bytearray()
    for index, value in enumerate(values):
        try:
            written = value.encode()
        except UnicodeEncodeError as error:
            raise Refused(
                f"String {index} of {what} is {value!r:.100}, which is not text that UTF-8 can write ({error.reason}). "
                "Read the data with the encoding that it was written in."
            ) from error
        content += len(written).to_bytes(4, "little") + written
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def strings(tensor: Tensor) -> list[str]:
    """What `serialized` wrote."""
    content, found, at = tensor.numpy().tobytes(), [], 0
    while at < len(content):
        start = at + 4
        at = start + int.from_bytes(content[at:start], "little")
        found.append(content[start:at].decode())
    return found
