"""How a gRPC call ends: the status codes, and which of them says what HTTP's statuses say.

https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
"""

from enum import IntEnum
from urllib.parse import quote

from server.refusal import Refusal


class Code(IntEnum):
    """The codes that this server gives."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Failed(Exception):
    """A call that ends with another code than OK; the message says what a client can do about it. `http` is the
    status of HTTP, which is 200 for whoever speaks gRPC."""

    def __init__(self, code: Code, message: str, *, http: int = 200) -> None:
        super().__init__(message)
        self.code = code
        self.http = http


_CODES = {
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.UNIMPLEMENTED,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
# What a status message may hold as it is: printable ASCII but the percent sign.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
# Longer than any message should be, and short enough for every client's limit of headers.
_LONGEST = 2048


def failed(refusal: Refusal) -> Failed:
    """A refusal as gRPC says it. A 503 that says when to come back is a full queue, another one is not ready."""
    if refusal.status == 503 and refusal.retry_after is not None:
        return Failed(Code.RESOURCE_EXHAUSTED, str(refusal))
    return Failed(_CODES.get(refusal.status, Code.INVALID_ARGUMENT), str(refusal))


def details(message: str) -> str:
    """A message as the header `grpc-message` says it."""
    return quote(message[:_LONGEST], safe=_PLAIN, errors="replace")[: 3 * _LONGEST]
