"""One client's connection: uvicorn's HTTP/1.1, within limits of size and time.

httptools parses in C, and uvicorn on uvloop adds little to it: 18,000 to 23,000 requests a second on two cores without
a model. granian varied more, from 14,000 to 29,000, and its connections cannot be held to these limits.
"""

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.http.incoming import LEAST, Incoming
from server.http.outgoing import Outgoing
from server.pace import Pace, reset, waiting

_MOST_HEADERS = 100
_LARGEST_HEAD = 2**15
# Seconds in which a request has to begin to come.
_PATIENCE = 10.0
# Requests of one client that wait for his first one's answer: more than one read brings of those that infer.
_MOST_PIPELINED = 1024
# Longer than load balancers keep a connection, so that it is they who close it: a request that crosses with our closing
# would be lost. https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html
_KEEP_ALIVE = 75.0


@dataclass(slots=True)
class Limits:
    """How many connections may be open."""

    connections: int = 1024


class _Flow(FlowControl):
    """Reads nothing while requests are `waiting`: each answer would let in as many as one read brings. Nor ever again
    once it is `over`."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting
        self.over = False

    def resume_reading(self) -> None:
        """Called for an answered request, and by whoever waits for a body."""
        if not (self._waiting or self.over):
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """Counts what comes in; `sweep` ends what takes too long."""

    limits: ClassVar[Limits] = Limits()
    flow: _Flow

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._last = monotonic()
        # When the request that is coming in began, None while none is; and its pace, from the first sweep on.
        self._began: float | None = self._last
        self._sending: Pace | None = None
        self._received = 0
        self._in_head = True
        # Of a body that is coming in, what its parser has not given away as such: framing, and trailers at its end.
        self._beside = 0
        # Of an answer that does not go out as fast as it is written; None while none is.
        self._reading: Pace | None = None
        # The request that is being answered, which pipelining may have others behind, and the task that does it.
        self._answered: Any = None
        self._task: asyncio.Task[None] | None = None
        # The length of a body whose head was just read.
        self._expected = 0
        # The error that ends the connection, while requests that came before wait for their answers.
        self._last_word = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop. Where there are too many, the one that has been idle for longest makes room."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if len(self.connections) <= self.limits.connections:
            return
        others = (each for each in self.connections if isinstance(each, Connection) and each is not self)
        idle = [each for each in others if each.is_idle()]
        if idle:
            min(idle, key=lambda each: each._last).transport.close()
        else:
            self.refuse(503, f"All {self.limits.connections} connections are in use (TORCHYARD_CONNECTIONS).")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. Nobody waits for the answer any more, so that it need not be computed."""
        super().connection_lost(exc)
        if self._task:
            self._answered.disconnected = True
            self._answered.message_event.set()
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self.transport.is_closing() or self.flow.over:
            return
        if self._began is None:
            self._begin(0)
        self._received += len(data)
        self._beside += len(data)
        self._expected = 0
        super().data_received(data)
        if self._beside > _LARGEST_HEAD and self._began is not None and not self._in_head:
            self.refuse(431, f"What comes beside the body: at most {_LARGEST_HEAD} bytes are taken.")
        if self._in_head and self._received > _LARGEST_HEAD and not self.transport.is_closing():
            self.refuse(431, f"The request's head: at most {_LARGEST_HEAD} bytes are taken.")
        if self._expected and not self.transport.is_closing():
            self._receive_large()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._began is None:
            # It came with the end of the one before.
            self._begin(1)
        super().on_message_begin()

    def _begin(self, received: int) -> None:
        self._began, self._sending, self._received, self._in_head = monotonic(), None, received, True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head, self._beside = False, 0
        super().on_headers_complete()
        if not (self.expect_100_continue or self.parser.should_upgrade()):
            # The parser has refused what is no number, and a length beside an encoding.
            self._expected = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        if len(self.pipeline) > _MOST_PIPELINED:
            raise OverflowError

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._beside = 0
        super().on_body(body)

    def received(self, count: int) -> None:
        """Called for bytes of a body that the parser does not see."""
        self._received += count

    def go_on(self) -> None:
        """Called when the body that the parser did not see is complete."""
        self._read_by(self)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.on_message_complete()

    def _receive_large(self) -> None:
        """Has the rest of a body read without the parser, where that is much."""
        left = self._expected - len(self.cycle.body)
        if left < LEAST or not self.cycle.more_body or self.pipeline:
            return
        incoming = Incoming(self, bytes(self.cycle.body), left)
        self.cycle.receive = incoming.receive  # type: ignore[assignment,method-assign]
        self._read_by(incoming)

    def _read_by(self, protocol: asyncio.BaseProtocol) -> None:
        # uvloop asks a protocol how it wants to read only when it begins to read.
        self.flow.pause_reading()
        self.transport.set_protocol(protocol)
        self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._began = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called when the answer is written. As uvicorn, but `sweep` ends idle connections instead of a timer each."""
        self._task = None
        self._last = monotonic()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._began is not None:
            # It waited behind this answer until now.
            self._began, self._sending = self._last, None
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._last_word:
            self._end_with(self._last_word)
        self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Called for what is not HTTP, or where the parser was stopped."""
        if len(self.pipeline) > _MOST_PIPELINED:
            self.refuse(429, f"At most {_MOST_PIPELINED} requests of a connection may wait for the first one's answer.")
        else:
            self.refuse(400, msg)

    def pause_writing(self) -> None:
        """Called by the loop when the client reads too slowly."""
        self._reading = Pace(monotonic(), self._taken())
        super().pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop when the client has caught up."""
        self._reading, self._last = None, monotonic()
        super().resume_writing()

    def _unsupported_upgrade_warning(self) -> None:
        """Called for a client that would speak something else as well: he is answered in HTTP/1.1, which is no news."""

    def refuse(self, status: int, message: str) -> None:
        """Answers with an error, outside of any request that the application knows of, and closes. Requests that came
        before are answered first: the client takes what he reads for the answer to the oldest."""
        if self.flow.over:
            return
        self.flow.over = True
        body = json.dumps({"error": message}).encode()
        fields = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
        if status == 503:
            fields += b"retry-after: 1\r\n"
        last_word = STATUS_LINE[status] + fields + b"\r\n" + body
        if not self.pipeline and (self.cycle is None or self.cycle.response_complete or self.cycle.more_body):
            self._end_with(last_word)
            return
        self._last_word = last_word
        self.flow.pause_reading()
        if self.pipeline and self.pipeline[0][0].more_body:
            # The newest is what is refused: its rest is never read.
            self.pipeline.popleft()

    def _end_with(self, last_word: bytes) -> None:
        self.transport.write(last_word)
        self.transport.close()

    def is_idle(self) -> bool:
        """Whether it waits for a request, of which nothing came yet, and its client has read the last answer."""
        waits = self._reading is None and (self.cycle is None or self.cycle.response_complete)
        return waits and (self._began is None or not self._received) and not self.transport.is_closing()

    def end_if_late(self, now: float) -> None:
        """Ends the connection where its client takes too long to send a request or to read its answer."""
        if self._reads_too_slowly(now):
            reset(self.transport)
        elif self.transport.is_closing():
            return
        elif self.is_idle() and self._began is None and now - self._last > _KEEP_ALIVE:
            self.transport.close()
        elif self._began is not None and self._sends_too_slowly(self._began, now):
            answered = not self._in_head and self.cycle.response_complete
            if self._received and not answered:
                told = f"{self._received} bytes in {now - self._began:.0f} s"
                self.refuse(408, f"The request did not come in time: {told}.")
            else:
                self.transport.close()

    def _sends_too_slowly(self, began: float, now: float) -> bool:
        """Only what is read can come too slowly, and not what waits behind an answer that is being made."""
        is_behind = self.cycle and not self.cycle.response_complete and not self.cycle.more_body
        if self.pipeline or is_behind:
            return False
        self._sending = self._sending or Pace(began, patience=_PATIENCE)
        return self._sending.is_too_slow(now, 0 if self._in_head else self._received)

    def _reads_too_slowly(self, now: float) -> bool:
        if not self._reading and self.transport.is_closing() and self.transport.get_write_buffer_size():
            # The last answer is written, and closing waits until that is read.
            self._reading = Pace(now, self._taken())
        return self._reading is not None and self._reading.is_too_slow(now, self._taken())

    def _taken(self) -> int:
        """How many bytes of an answer its client has taken, less those that it has."""
        return -waiting(self.transport)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """As uvicorn, but the task is remembered, and an answer is sent as a whole."""
        if _is_too_large(cycle.scope):
            app = _too_large
        cycle.transport = Outgoing(cycle)
        self._answered = cycle
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)


def _is_too_large(scope: Mapping[str, Any]) -> bool:
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
    # As a list: a generator takes twice as long.
    size = sum([len(name) + len(value) for name, value in headers])
    return len(headers) > _MOST_HEADERS or len(scope["raw_path"]) + len(scope["query_string"]) + size > _LARGEST_HEAD


async def _too_large(_: Any, __: Any, send: Any) -> None:
    told = f"The request's head: at most {_MOST_HEADERS} headers of {_LARGEST_HEAD} bytes in all are taken."
    body = json.dumps({"error": told}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"connection", b"close"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def sweep(connections: Iterable[Any]) -> None:
    """Ends the connections of clients that take too long; to be called about once a second."""
    now = monotonic()
    for each in list(connections):
        if isinstance(each, Connection):
            each.end_if_late(now)
