"""One connection of the gRPC server: its calls, from the first header to the status.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from server import log
from server.grpc import calls, http2
from server.grpc.calls import Call, Streaming, Unary
from server.grpc.held import SMALL, Held
from server.grpc.http2 import Event, Http2
from server.grpc.status import Code, Failed, details
from server.pace import Pace, reset, waiting
from server.protocol.compression import ENCODINGS, SMALLEST, Encoding, deflated, inflated

# A call's headers are a path, a deadline and little else; 16 KiB is what other servers take.
_HEADERS = 2**14
_CALLS = 256
_ENCODINGS = ",".join(("identity", *ENCODINGS))
# Messages of a stream that wait to be taken; more are refused.
_WAITING = 16
# Questions about the server, and not tensors.
_STREAMED = 2**16
# A client has this long to make the next call.
_IDLE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes of one message, and connections at once."""

    message: int
    connections: int


@dataclass(slots=True, kw_only=True)
class Served:
    """What all connections share: methods by path, limits, what is held, who is told of calls, and whether clients are
    to make their next calls elsewhere."""

    http2: Http2
    limits: Limits
    held: Held
    unary: Mapping[bytes, Unary]
    streaming: Mapping[bytes, Streaming]
    requests: log.Requests = field(default_factory=log.Requests)
    connections: "set[Connection]" = field(default_factory=set)
    draining: bool = False


class Connection(asyncio.Protocol):
    """One client's connection and its calls."""

    def __init__(self, served: Served, loop: asyncio.AbstractEventLoop) -> None:
        self._served = served
        self._loop = loop
        message = served.limits.message
        self._session = served.http2.Session(
            calls=_CALLS, message=message, messages=2 * message, headers=_HEADERS, encodings=_ENCODINGS
        )
        self._calls: dict[int, Call] = {}
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._flush_due = False
        self._held = 0
        self._written = 0
        self._reading: Pace | None = None
        self._active = time.monotonic()
        self._sent_away = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        if len(self._served.connections) >= self._served.limits.connections:
            idle = [each for each in self._served.connections if each.is_idle]
            if not idle:
                self._transport.abort()
                return
            min(idle, key=lambda each: each._active).abort()
        self._served.connections.add(self)
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        """Called by asyncio."""
        self._served.connections.discard(self)
        self._transport = None
        self._count(0)
        for call in tuple(self._calls.values()):
            self._give_up(call)

    def pause_writing(self) -> None:
        """Called by asyncio: the peer does not read as fast as it asks."""
        self._writable = False

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._writable = True
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        # What is answered on the way goes out in one piece at the end.
        self._flush_due = True
        try:
            for event in self._session.receive(data):
                _ON[event[0]](self, event)
        except self._served.http2.ProtocolError as error:
            log.event("grpc-protocol-error", level="debug", error=str(error))
            self._flush()
            self.close()
            return
        except MemoryError as error:
            log.crash("grpc-out-of-memory", error)
            self.abort()
            return
        self._recount()
        if self._served.held.is_full:
            self._end_unfinished()
        self._flush()

    @property
    def busy(self) -> bool:
        """Whether an accepted call is not answered, or its answer not yet with the kernel."""
        transport = self._transport
        return transport is not None and (self._session.busy or transport.get_write_buffer_size() > 0)

    @property
    def is_idle(self) -> bool:
        """Whether it has no call, and makes room for a new one where there are too many."""
        transport = self._transport
        return not self._calls and not self.busy and transport is not None and not transport.is_closing()

    def go_away(self, *, at_once: bool) -> None:
        """Tells the client to make its next calls elsewhere."""
        self._sent_away = True
        self._session.go_away(at_once=at_once)
        self._flush()

    def end_streams(self) -> None:
        """Ends the calls that have no end of their own, and those whose request is not complete."""
        for call in tuple(self._calls.values()):
            if call.unary is None or not call.ended:
                self._fail(call, Failed(Code.UNAVAILABLE, "The server is stopping; another one answers."))
        self._flush()

    def end_slow(self, now: float) -> None:
        """Ends calls whose request takes too long, and the connection if its client takes its answers too slowly, or
        makes no calls."""
        for call in tuple(self._calls.values()):
            came = call.held + self._session.received(call.number)
            if call.ended or call.unary is None:
                continue
            call.sending = call.sending or Pace(call.opened)
            if call.sending.is_too_slow(now, came):
                told = f"The request was not complete after {now - call.opened:.0f} s, in which {came} bytes came."
                self._fail(call, Failed(Code.DEADLINE_EXCEEDED, told))
        self._flush()
        if self._transport is None:
            return
        if self._reads_too_slowly(self._transport, now):
            reset(self._transport)
        elif not self._calls and now - self._active > _IDLE_SECONDS:
            self.go_away(at_once=True)
            self.close()

    def _reads_too_slowly(self, transport: asyncio.Transport, now: float) -> bool:
        # What is with the kernel only may be on its way to a client that reads.
        if not transport.get_write_buffer_size() + self._session.unsent:
            self._reading = None
            return False
        self._active, taken = now, self._written - waiting(transport)
        self._reading = self._reading or Pace(now, taken)
        return self._reading.is_too_slow(now, taken)

    def _count(self, held: int) -> None:
        self._served.held.now += held - self._held
        self._held = held

    def _recount(self) -> None:
        self._count(self._session.held)

    def _end_unfinished(self) -> None:
        for call in tuple(self._calls.values()):
            if not call.ended and self._session.received(call.number) > SMALL:
                self._fail(call, self._served.held.refusal())
        self._recount()

    def abort(self) -> None:
        """Closes the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Closes the connection when what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def _opened(self, event: Event) -> None:
        _, number, path, method, content_type, timeout, encoding = event
        now = self._active = time.monotonic()
        unary, streaming = self._served.unary.get(path), self._served.streaming.get(path)
        call = Call(number=number, path=path, unary=unary, encoding=encoding, opened=now)
        self._calls[number] = call
        if self._served.draining and not self._sent_away:
            # A connection that was made meanwhile is good for the calls that are on their way.
            self.go_away(at_once=False)
        try:
            calls.check_headers(method, content_type, encoding)
            if unary is None and streaming is None:
                raise Failed(Code.UNIMPLEMENTED, f"There is no method {path[:200].decode('latin-1')}.")
            if timeout:
                seconds = calls.seconds(timeout)
                call.deadline = now + seconds
                call.timer = self._loop.call_later(seconds, self._expire, call)
        except Failed as error:
            self._fail(call, error)
            return
        if streaming is not None:
            call.waiting = asyncio.Queue(_WAITING)
            call.task = self._loop.create_task(self._stream(call, streaming, call.waiting))

    def _message(self, event: Event) -> None:
        _, number, content, flag = event
        call = self._calls.get(number)
        if call is None:
            return
        # Its bytes are none of an unfinished one any more.
        self._recount()
        try:
            self._served.held.take(call, len(content))
        except Failed as error:
            self._fail(call, error)
            return
        if flag > 1:
            told = f"A message's first byte is 0, or 1 where it is compressed, and {flag} came."
            self._fail(call, Failed(Code.INVALID_ARGUMENT, told))
        elif flag and call.encoding in {b"", b"identity"}:
            self._fail(call, Failed(Code.INVALID_ARGUMENT, "A message is compressed, and grpc-encoding says how not."))
        elif call.waiting is not None:
            if flag or call.waiting.full() or len(content) > _STREAMED:
                told = f"This stream takes messages of {_STREAMED} bytes that are not compressed, one after the other."
                self._fail(call, Failed(Code.RESOURCE_EXHAUSTED, told))
            else:
                call.waiting.put_nowait(content)
        elif call.message is not None:
            self._fail(call, Failed(Code.INVALID_ARGUMENT, "This method takes one message, and another one came."))
        else:
            call.message = content
            if not flag:
                call.encoding = b""

    def _ended(self, event: Event) -> None:
        _, number, whole = event
        call = self._calls.get(number)
        if call is None:
            return
        call.ended = True
        if not whole:
            self._fail(call, Failed(Code.INVALID_ARGUMENT, "The request ends in the middle of a message."))
        elif call.waiting is not None:
            if call.waiting.full():
                self._fail(call, Failed(Code.RESOURCE_EXHAUSTED, "Too many messages of this stream are waiting."))
            else:
                call.waiting.put_nowait(None)
        elif call.message is None:
            self._fail(call, Failed(Code.INVALID_ARGUMENT, "This method takes one message, and none came."))
        else:
            message, call.message = call.message, None
            if call.timer is not None:
                # From here on it is the scheduler that keeps the deadline.
                call.timer.cancel()
            call.task = calls.started(self._loop, self._answer(call, message))

    def _too_large(self, event: Event) -> None:
        _, number, size = event
        call = self._calls.get(number)
        if call is not None:
            most = self._served.limits.message
            told = f"A message of {size} bytes; at most {most} are taken, and twice that by a connection."
            self._fail(call, Failed(Code.RESOURCE_EXHAUSTED, told))

    def _closed(self, event: Event) -> None:
        call = self._calls.get(event[1])
        if call is not None:
            self._give_up(call)

    async def _answer(self, call: Call, message: bytes) -> None:
        assert call.unary is not None
        try:
            if not call.encoding:
                answer = await call.unary(message, call)
                self._served.held.admit(call, sum(map(len, answer)))
                # The client may have gone while the model ran.
                if call.number in self._calls:
                    self._session.answer(call.number, answer)
                    self._recount()
            else:
                encoding: Encoding = "gzip" if call.encoding == b"gzip" else "deflate"
                most = self._served.limits.message
                message = await inflated("the message", encoding, message, most=most)
                self._served.held.take(call, len(message))
                answer = await call.unary(message, call)
                size = sum(map(len, answer))
                self._served.held.admit(call, size)
                if size >= SMALLEST:
                    self._session.send(call.number, [await deflated(encoding, *answer)], True, encoding)
                else:
                    self._session.send(call.number, answer)
                self._session.close(call.number, "0", "")
                self._recount()
        except Exception as error:  # noqa: BLE001 (a bug at one call must not cost its client the answer)
            call.task = None
            self._fail(call, calls.failure(error, id=call.id))
            self._flush_soon()
            return
        call.task = None
        self._tell(call, Code.OK)
        self._forget(call)
        self._flush_soon()

    async def _stream(self, call: Call, streaming: Streaming, waiting: "asyncio.Queue[bytes | None]") -> None:
        # What one call answers without end is not bounded by the number of calls.
        unread = 0
        try:
            async for message in streaming(self._taken(call, waiting)):
                unread = (unread if self._session.unsent else 0) + len(message)
                if unread > _STREAMED:
                    raise self._served.held.refusal()
                self._session.send(call.number, (message,))
                self._flush_soon()
        except Exception as error:  # noqa: BLE001 (as above)
            call.task = None
            self._fail(call, calls.failure(error))
        else:
            self._session.close(call.number, "0", "")
            call.task = None
            self._forget(call)
        self._flush_soon()

    async def _taken(self, call: Call, waiting: "asyncio.Queue[bytes | None]") -> AsyncIterator[bytes]:
        async for message in calls.taken(waiting):
            self._served.held.release(call, len(message))
            yield message

    def _expire(self, call: Call) -> None:
        self._fail(call, Failed(Code.DEADLINE_EXCEEDED, "The call's deadline passed before it was answered."))
        self._flush()

    def _tell(self, call: Call, code: Code) -> None:
        # A stream is as long as its client wants.
        if call.waiting is None:
            path = call.path[:200].decode("latin-1")
            self._served.requests.tell(path, call.id, code.name, time.monotonic() - call.opened)

    def _fail(self, call: Call, error: Failed) -> None:
        self._tell(call, error.code)
        self._session.close(call.number, str(int(error.code)), details(str(error)), str(error.http))
        self._forget(call)

    def _give_up(self, call: Call) -> None:
        """Nobody waits for the answer any more."""
        self._tell(call, Code.CANCELLED)
        self._forget(call)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.number, None)
        self._served.held.release(call, call.held)
        self._active = time.monotonic()
        if call.timer is not None:
            call.timer.cancel()
        if call.task is not None:
            call.task.cancel()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        try:
            while self._transport is not None and self._writable and (data := self._session.outgoing()):
                self._transport.write(data)
                self._written += len(data)
        except (MemoryError, self._served.http2.ProtocolError) as error:
            log.crash("grpc-cannot-answer", error)
            self.abort()
            return
        # Nothing is left of a connection that is lost.
        if self._transport is not None:
            self._recount()
        if self._session.over:
            self.close()


_ON: dict[int, Callable[[Connection, Event], None]] = {
    http2.OPENED: Connection._opened,
    http2.MESSAGE: Connection._message,
    http2.ENDED: Connection._ended,
    http2.TOO_LARGE: Connection._too_large,
    http2.CLOSED: Connection._closed,
}
