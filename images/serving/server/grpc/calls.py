"""A gRPC call on its way through a connection, and what its client says about it.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from server import log
from server.grpc.status import Code, Failed, failed
from server.model.engine import Bytes
from server.pace import Pace
from server.protocol.compression import ENCODINGS
from server.refusal import Refusal

# A message of a call to the parts of its answer.
Unary: TypeAlias = Callable[[bytes, "Call"], Awaitable[Sequence[Bytes]]]
Streaming: TypeAlias = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]

_ENCODINGS = {b"", b"identity", *(each.encode() for each in ENCODINGS)}
# https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests
_CONTENT_TYPE = re.compile(rb"application/grpc(\s*[+;].*)?", re.IGNORECASE)
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@dataclass(slots=True, eq=False)
class Call:
    """A call whose answer is not complete; `waiting` is where a stream reads from, and `held` counts the bytes of its
    messages, at whose pace, `sending`, is looked from time to time. When it was `opened`, and its `deadline`, are in
    seconds of time.monotonic(); `id` is its client's name for it, which whoever reads its message tells."""

    number: int
    path: bytes
    unary: Unary | None
    encoding: bytes
    opened: float
    deadline: float | None = None
    id: str | None = None
    message: bytes | None = None
    held: int = 0
    waiting: "asyncio.Queue[bytes | None] | None" = None
    ended: bool = False
    task: "asyncio.Task[None] | None" = None
    timer: asyncio.TimerHandle | None = None
    sending: Pace | None = None


def check_headers(method: bytes, content_type: bytes, encoding: bytes) -> None:
    """Raises Failed unless these are headers of gRPC in an encoding that is known. Who speaks HTTP/2 and not gRPC
    reads the status of HTTP only."""
    if method != b"POST":
        raise Failed(Code.UNIMPLEMENTED, f"method: expected POST, got {method[:20].decode('latin-1')}.", http=405)
    if not _CONTENT_TYPE.fullmatch(content_type):
        got = content_type[:50].decode("latin-1")
        raise Failed(Code.INVALID_ARGUMENT, f"content-type: expected application/grpc, got {got!r}.", http=415)
    if encoding not in _ENCODINGS:
        got = encoding[:50].decode("latin-1")
        raise Failed(Code.UNIMPLEMENTED, f"grpc-encoding: expected one of gzip, deflate, identity, got {got}.")


def seconds(timeout: bytes) -> float:
    """The seconds that `grpc-timeout` names; raises Failed."""
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        got = timeout[:20].decode("latin-1")
        raise Failed(Code.INVALID_ARGUMENT, f"grpc-timeout: expected up to 8 digits and one of HMSmun, got {got!r}.")
    return int(found[1]) * _UNITS[found[2]]


def failure(error: Exception, **fields: object) -> Failed:
    """How a call ends that raised; what was not meant to happen is logged, with `fields`."""
    if isinstance(error, Failed):
        return error
    if isinstance(error, Refusal):
        return failed(error)
    log.crash("request-failed", error, **fields)
    if isinstance(error, MemoryError):
        return Failed(Code.RESOURCE_EXHAUSTED, "The server has not the memory for this request.")
    return Failed(Code.INTERNAL, "The server failed at this request; its log says why.")


def started(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """A task that has run up to its first wait, where Python can do that: a turn of the loop less for each call."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)


async def taken(waiting: "asyncio.Queue[bytes | None]") -> AsyncIterator[bytes]:
    """The messages of a stream, as they come, up to its end."""
    while (message := await waiting.get()) is not None:
        yield message
