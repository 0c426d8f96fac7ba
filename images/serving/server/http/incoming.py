"""The body of a large request, read by the kernel into where it stays.

uvicorn passes a body on in pieces of 64 KiB, copies each four times and stops reading meanwhile: 0.9 ms for 600 kB and
5 ms for 2.5 MB on loopback, where this takes 0.3 and 0.9.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.http.connection import Connection

# A smaller body comes in a few pieces, and costs uvicorn less than changing over.
LEAST = 2**18
# Chunks get larger as a body does, so that a client takes memory by what it sends and not by what it announces.
_SMALLEST, _LARGEST = 2**14, 2**18
# Chunks that nobody took yet; then no more is read until somebody does.
_WAITING = 4


class Incoming(asyncio.BufferedProtocol):
    """Stands in for a connection until the body of its request is there, `left` bytes more than `first`."""

    def __init__(self, connection: "Connection", first: bytes, left: int) -> None:
        self._connection = connection
        self._cycle = connection.cycle
        self._left = left
        self._chunks: deque[bytes | bytearray] = deque([first] if first else [])
        self._buffer = bytearray()
        self._filled = 0
        self._size = _SMALLEST
        self._ended = False

    def get_buffer(self, _: int) -> memoryview:
        """Called by the loop, which reads into it."""
        if not self._buffer:
            self._buffer, self._filled = bytearray(min(self._left, self._size)), 0
            self._size = min(2 * self._size, _LARGEST)
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Called by the loop when it has read so many bytes."""
        self._filled += count
        self._left -= count
        self._connection.received(count)
        if self._filled < len(self._buffer):
            return
        self._chunks.append(self._buffer)
        self._buffer = bytearray()
        if self._cycle.response_complete:
            # Nobody takes what comes after the answer, or came just before it.
            self._chunks.clear()
        if not self._left:
            self._connection.go_on()
        else:
            self._cycle.message_event.set()
            if len(self._chunks) >= _WAITING:
                self._connection.flow.pause_reading()

    async def receive(self) -> dict[str, Any]:
        """What the application awaits (ASGI 3)."""
        cycle = self._cycle
        while (self._ended or not self._chunks) and not (cycle.disconnected or cycle.response_complete):
            self._connection.flow.resume_reading()
            cycle.message_event.clear()
            await cycle.message_event.wait()
        if cycle.disconnected or cycle.response_complete:
            return {"type": "http.disconnect"}
        chunk = self._chunks.popleft()
        self._ended = not (self._chunks or self._left)
        return {"type": "http.request", "body": chunk, "more_body": not self._ended}

    def eof_received(self) -> None:
        """Called by the loop."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._connection.resume_writing()
