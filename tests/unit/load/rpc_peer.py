"""The same for gRPC: a server that says frames, at the other end of a pair of sockets."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from hpack import Encoder

from tests.unit.load.peer import Stopping
from tests.unit.server import grpc_frames
from tests.unit.server.grpc_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
)

# No request of some hundred bytes passes without asking for room, and none in one frame.
WINDOW = 200


def fine(stream: int, content: bytes = b"fine") -> bytes:
    """A whole answer that ends with OK."""
    begun = grpc_frames.frame(HEADERS, END_HEADERS, stream, Encoder().encode([(":status", "200", True)]))
    return begun + grpc_frames.data(stream, grpc_frames.message(content)) + status(stream, 0)


def status(stream: int, code: int) -> bytes:
    """The end of an answer, or all of one."""
    block = Encoder().encode([("grpc-status", str(code), True), ("grpc-message", "so it is", True)])
    return grpc_frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def go_away(last: int) -> bytes:
    """GOAWAY, without an error."""
    return grpc_frames.frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4))


def _room(stream: int, size: int) -> bytes:
    return grpc_frames.frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


class RpcPeer(Stopping):
    """Answers each call that is complete, or whose first bytes are there if it is `hasty`, with the frames that
    `answering` says of its stream, after `seconds`; empty ones close the connection. If it `greets` it begins with its
    settings, a small window among them, and a ping."""

    def __init__(
        self, answering: Callable[[int], bytes], *, seconds: float = 0.0, greets: bool = True, hasty: bool = False
    ) -> None:
        super().__init__(lambda _: b"")
        self._frames = answering
        self._seconds = seconds
        self._greets = greets
        self._hasty = hasty
        self.calls: list[bytes] = []
        self.acknowledged: set[int] = set()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            if self._greets:
                window = grpc_frames.frame(SETTINGS, 0, 0, b"\0\4" + WINDOW.to_bytes(4, "big"))
                connection.sendall(window + grpc_frames.frame(PING, 0, 0, b"12345678"))
            received, contents = b"", dict[int, bytes]()
            while content := connection.recv(2**16):
                received = (received + content).removeprefix(PREFACE[:24])
                while len(received) >= 9 and len(received) >= (end := 9 + int.from_bytes(received[:3], "big")):
                    kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big")
                    payload, received = received[9:end], received[end:]
                    if kind in {SETTINGS, PING} and flags & 1:
                        self.acknowledged.add(kind)
                    if kind == DATA:
                        contents[stream] = contents.get(stream, b"") + payload
                        if self._greets:
                            connection.sendall(_room(0, len(payload)) + _room(stream, len(payload)))
                        if (flags & END_STREAM or self._hasty) and not self._answer(connection, stream, contents):
                            return

    def _answer(self, connection: socket.socket, stream: int, contents: dict[int, bytes]) -> bool:
        self.calls.append(contents.pop(stream))
        time.sleep(self._seconds)
        frames = self._frames(stream)
        connection.sendall(frames)
        return bool(frames)
