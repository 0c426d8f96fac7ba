"""HTTP/2 in Python, by h2, in place of the module that is written in C++; slower, and held to the same contract."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from server.grpc import http2
from server.grpc.http2 import Event
from server.model.engine import Bytes


class ProtocolError(Exception):
    """As the module's."""


@dataclass
class _Call:
    buffered: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    opened: bool = False
    ignored: bool = False
    http: bytes = b"200"
    trailers: list[tuple[bytes, bytes]] | None = None


class Session:
    """See `server.grpc.http2.Session`."""

    def __init__(self, *, calls: int, message: int, messages: int, headers: int, encodings: str) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._connection = h2.connection.H2Connection(config)
        self._connection.local_settings.max_concurrent_streams = calls
        self._connection.initiate_connection()
        self._message, self._messages, self._headers = message, messages, headers
        self._encodings = encodings.encode()
        self._calls: dict[int, _Call] = {}
        self._spoken = False
        self.over = False

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    @property
    def held(self) -> int:
        return self._unfinished + self.unsent

    @property
    def unsent(self) -> int:
        return sum(len(call.outgoing) for call in self._calls.values())

    def received(self, call: int, /) -> int:
        found = self._calls.get(call)
        return max(0, len(found.buffered) - 5) if found and not found.ignored else 0

    @property
    def _unfinished(self) -> int:
        return sum(len(call.buffered) for call in self._calls.values() if not call.ignored)

    def receive(self, data: Bytes, /) -> list[Event]:
        try:
            happened = self._connection.receive_data(bytes(data))
        except h2.exceptions.ProtocolError as error:
            if not self._spoken:
                raise ProtocolError(str(error)) from error
            self.over = True
            return []
        self._spoken = True
        events: list[Event] = []
        for event in happened:
            self._on(event, events)
        return events

    def outgoing(self) -> bytes:
        for number in list(self._calls):
            self._write(number)
        return self._connection.data_to_send()

    def send(self, call: int, parts: Sequence[Bytes], compressed: bool = False, encoding: str = "") -> None:
        found = self._calls.get(call)
        if found is None or found.trailers is not None:
            return
        if not found.opened:
            found.opened = True
            fields = self._heading(b"200")
            self._connection.send_headers(call, fields + ([(b"grpc-encoding", encoding.encode())] if encoding else []))
        message = b"".join(parts)
        found.outgoing += bytes([compressed]) + len(message).to_bytes(4, "big") + message

    def close(self, call: int, status: str, details: str, http: str = "200", /) -> None:
        found = self._calls.get(call)
        if found is None or found.trailers is not None:
            return
        found.ignored = True
        found.http = http.encode()
        found.trailers = [(b"grpc-status", status.encode())]
        if details:
            found.trailers.append((b"grpc-message", details.encode()))

    def answer(self, call: int, parts: Sequence[Bytes], /) -> None:
        self.send(call, parts)
        self.close(call, "0", "")

    def go_away(self, *, at_once: bool) -> None:
        last = max(self._calls, default=0) if at_once else 2**31 - 1
        # h2 takes a connection that said so for closed.
        frame = b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4, "big") + bytes(4)
        self._connection._data_to_send += frame

    def _on(self, event: h2.events.Event, events: list[Event]) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._opened(event, events)
        elif isinstance(event, h2.events.DataReceived):
            self._connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            call = self._calls.get(event.stream_id or 0)
            if call and not call.ignored:
                call.buffered += event.data or b""
                self._messages_of(event.stream_id or 0, call, events)
        elif isinstance(event, h2.events.StreamEnded):
            call = self._calls.get(event.stream_id)
            if call and not call.ignored:
                events.append((http2.ENDED, event.stream_id, not call.buffered))
        elif isinstance(event, h2.events.StreamReset) and self._calls.pop(event.stream_id or 0, None) is not None:
            events.append((http2.CLOSED, event.stream_id))

    def _opened(self, event: h2.events.RequestReceived, events: list[Event]) -> None:
        number = event.stream_id or 0
        fields = dict(event.headers or [])
        if sum(len(name) + len(value) for name, value in fields.items()) > self._headers:
            self._calls[number] = _Call()
            self.close(number, "8", f"The metadata of a call: at most {self._headers} bytes are taken.")
            return
        self._calls[number] = _Call()
        names = (b":path", b":method", b"content-type", b"grpc-timeout", b"grpc-encoding")
        events.append((http2.OPENED, number, *(bytes(fields.get(name, b"")) for name in names)))

    def _messages_of(self, number: int, call: _Call, events: list[Event]) -> None:
        while len(call.buffered) >= 5 and not call.ignored:
            size = int.from_bytes(call.buffered[1:5], "big")
            if size > self._message or size + self._unfinished - len(call.buffered) > self._messages:
                call.ignored = True
                events.append((http2.TOO_LARGE, number, size))
            elif len(call.buffered) < 5 + size:
                return
            else:
                events.append((http2.MESSAGE, number, bytes(call.buffered[5 : 5 + size]), call.buffered[0]))
                del call.buffered[: 5 + size]

    def _heading(self, http: bytes) -> list[tuple[bytes, bytes]]:
        return [(b":status", http), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", self._encodings)]

    def _write(self, number: int) -> None:
        call = self._calls[number]
        while call.outgoing:
            size = min(self._connection.local_flow_control_window(number), self._connection.max_outbound_frame_size)
            if size <= 0:
                return
            self._connection.send_data(number, bytes(call.outgoing[:size]))
            del call.outgoing[:size]
        if call.trailers is not None:
            fields = call.trailers
            if not call.opened:
                fields = [*self._heading(call.http), *fields]
            self._connection.send_headers(number, fields, end_stream=True)
            del self._calls[number]
