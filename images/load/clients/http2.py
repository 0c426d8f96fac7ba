"""One HTTP/2 connection with unary gRPC calls on it, which never waits, and knows what became of each of them.

By hand, since a library hides what counts here: when a call's last byte was handed to the kernel, and which calls the
server's GOAWAY names. It knows as much of HTTP/2 as a server of gRPC makes use of: no padding, no priorities, and
trailers of one frame. https://www.rfc-editor.org/rfc/rfc9113
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import struct
import time
from dataclasses import dataclass, field

from clients.connection import Lost, Wire
from clients.hpack import Inflate

REFUSED_STREAM = 7
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 4, 5
_WIDEST = 2**31 - 1


@dataclass(slots=True, eq=False)
class Call:
    """A call: its stream's number, which request it sends, what of that waits for room in the server's `window`, and
    when the last byte was handed to the kernel, in seconds since the epoch, or 0. Of its answer, whether it has begun,
    what has come of the content, the grpc-status, and the code of its end if it was reset."""

    number: int
    request: int
    rest: memoryview
    window: int
    end: int | None = None
    complete: float = 0.0
    answering: bool = False
    content: bytearray = field(default_factory=bytearray)
    status: int | None = None
    reset: int | None = None


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _fields(path: bytes) -> bytes:
    """The header block of a call to a path of less than 127 bytes: literals, without the dynamic table (RFC 7541)."""
    pairs = {b":method": b"POST", b":scheme": b"http", b":path": path, b":authority": b"localhost"}
    pairs |= {b"content-type": b"application/grpc", b"te": b"trailers"}
    return b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in pairs.items())


# Answers of any size come without asking for room; the connection's room is given back as it is used.
_HELLO = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WIDEST))
    + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WIDEST - 65535))
)


class Connection(Wire):
    """A connection for several calls at a time, which are `calls` until they have ended; to be watched for writing
    while `sending`.

    `spoken` says whether the server has said anything, and `last` is the number of the last call that it may have
    taken, once it said GOAWAY: those above it were not and will not be (section 6.8).
    """

    def __init__(self, address: tuple[str, int], inflate: Inflate) -> None:
        """Connects. Raises OSError when nobody listens."""
        super().__init__(address)
        self._inflate = inflate
        self._queue = bytearray(_HELLO)
        self._queued, self._sent = len(_HELLO), 0
        self._received = bytearray()
        self._next = 1
        self._window = self._initial = 65535
        self._largest = 2**14
        self.calls: dict[int, Call] = {}
        self.spoken = False
        self.last: int | None = None

    @property
    def sending(self) -> bool:
        """Whether something has not been handed to the kernel yet that the server has room for."""
        return bool(self._queue)

    def begin(self, request: int, path: bytes, content: bytes) -> None:
        """Starts a call that sends this, which is not empty."""
        call = Call(self._next, request, memoryview(content), self._initial)
        self._next += 2
        self.calls[call.number] = call
        self._put(_frame(_HEADERS, _END_HEADERS, call.number, _fields(path)))
        self.send()

    def send(self) -> None:
        """Sends on, as far as that goes at once. Where the connection is cut, receiving says so: what the server said
        before is there to be read."""
        self._fill()
        try:
            while self._queue:
                sent = self._socket.send(self._queue)
                del self._queue[:sent]
                self._sent += sent
        except BlockingIOError:
            pass
        except OSError:
            self._queue.clear()
        for call in self.calls.values():
            if not call.complete and call.end is not None and call.end <= self._sent:
                call.complete = time.time()

    def receive(self) -> list[Call]:
        """Takes in what has arrived; the calls that ended with it.

        Raises:
            Lost: the connection has ended, or what arrives is no HTTP/2.
        """
        self._received += self.take()
        ended = self._frames()
        self.send()
        return ended

    def _put(self, content: bytes) -> None:
        self._queue += content
        self._queued += len(content)

    def _fill(self) -> None:
        for call in self.calls.values():
            while call.rest and (size := min(len(call.rest), self._window, call.window, self._largest)) > 0:
                part, call.rest = call.rest[:size], call.rest[size:]
                self._window -= size
                call.window -= size
                self._put(_frame(_DATA, 0 if call.rest else _END_STREAM, call.number, bytes(part)))
            if not call.rest and call.end is None:
                call.end = self._queued

    def _frames(self) -> list[Call]:
        """Reads the frames that are whole; the calls that they end, which are not among `calls` any more."""
        ended = []
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                break
            _, kind, flags, stream = struct.unpack(">3sBBI", self._received[:9])
            payload = bytes(self._received[9 : 9 + size])
            del self._received[: 9 + size]
            self.spoken = True
            if stream == 0:
                self._on_connection(kind, flags, payload)
            elif self._on_call(kind, flags, stream, payload):
                ended.append(self.calls.pop(stream))
        return ended

    def _on_connection(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and len(payload) % 6:
            raise Lost("settings of no whole number")
        if kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == _INITIAL_WINDOW_SIZE:
                    for call in self.calls.values():
                        call.window += value - self._initial
                    self._initial = value
                elif name == _MAX_FRAME_SIZE:
                    self._largest = value
            self._put(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._put(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            self._window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            self.last = int.from_bytes(payload[:4], "big")

    def _on_call(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        """Whether the frame ends a call that is still there."""
        call = self.calls.get(stream)
        if kind == _DATA and payload:
            self._put(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
        if kind == _HEADERS:
            # Blocks refer to each other, so each is to be read.
            fields = dict(self._read(flags, payload))
            if call and (status := fields.get(b"grpc-status")) is not None:
                if not status.isdigit():
                    raise Lost(f"a grpc-status of {status[:20]!r}")
                call.status = int(status)
        if call is None:
            return False
        call.answering = call.answering or kind in {_DATA, _HEADERS}
        if kind == _DATA:
            call.content += payload
        elif kind == _RST_STREAM:
            call.reset = int.from_bytes(payload, "big")
        elif kind == _WINDOW_UPDATE:
            call.window += int.from_bytes(payload, "big")
        return kind == _RST_STREAM or (kind in {_DATA, _HEADERS} and bool(flags & _END_STREAM))

    def _read(self, flags: int, payload: bytes) -> list[tuple[bytes, bytes]]:
        try:
            if flags & _END_HEADERS:
                return self._inflate(payload)
        except ValueError as error:
            raise Lost(str(error)) from error
        raise Lost("header fields that go on in another frame")
