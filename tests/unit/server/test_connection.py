"""A connection in front of a transport that only remembers: limits of size, number and time."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from server.http import connection
from server.http.connection import Connection, sweep


@dataclass
class Transport:
    """Keeps what is written; the other side has hung up once it is closed."""

    protocol: Any = None
    written: bytes = b""
    closing: bool = False
    aborted: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    reading: bool = True
    unread: bytes = b""
    unsent: int = 0
    writes: int = 0

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.extra.get(name, default)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: Any) -> None:
        assert not self.reading
        self.protocol = protocol

    def feed(self, data: bytes) -> None:
        """What the loop does with data that came, as long as it reads."""
        while data and self.reading and not self.closing:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                buffer = cast(memoryview, self.protocol.get_buffer(-1))
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                del buffer
                self.protocol.buffer_updated(count)
            else:
                count = len(data)
                self.protocol.data_received(data)
            data = data[count:]
        self.unread = data

    @property
    def status(self) -> int:
        return int(self.written.split(b" ")[1]) if self.written else 0

    @property
    def error(self) -> str:
        return str(json.loads(self.written.partition(b"\r\n\r\n")[2])["error"])


async def _answering(_: Any, __: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


@dataclass
class Reading:
    """Reads bodies as it may, and answers then."""

    bodies: list[bytes] = field(default_factory=list)
    most: int = 0
    may: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(
        self, _: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            await self.may.wait()
            message = await receive()
            self.most = max(self.most, len(message["body"]))
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        await _answering(None, None, send)


async def _waiting(_: Any, __: Any, ___: Any) -> None:
    await asyncio.sleep(60)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that connections see, in its only element."""
    now = [1000.0]
    monkeypatch.setattr(connection, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def _three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection.limits, "connections", 3)


class Front:
    """Makes connections to one server."""

    def __init__(self, app: Any = _answering) -> None:
        self._config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None)
        self.state = ServerState()

    def connect(self) -> tuple[Connection, Transport]:
        made = Connection(self._config, self.state, {}, _loop=asyncio.get_running_loop())
        transport = Transport(protocol=made)
        made.connection_made(cast(asyncio.Transport, transport))
        return made, transport


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    asyncio.run(main())


_GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n"
_POST = b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


def test_requests_of_one_connection_are_answered_one_after_the_other() -> None:
    async def work() -> None:
        made, transport = Front().connect()
        for number in range(1, 3):
            made.data_received(_GET + b"\r\n")
            await asyncio.sleep(0.01)
            assert transport.written.count(b"HTTP/1.1 200") == number
        assert not transport.closing

    _run(work)


def test_nothing_is_read_while_requests_wait_for_the_first_ones_answer() -> None:
    """Each answer would let in as many as one read brings, and memory would grow without end."""
    gates = [asyncio.Event() for _ in range(3)]
    left = iter(gates)

    async def gated(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()
        await next(left).wait()
        await _answering(None, None, send)

    async def work() -> None:
        made, transport = Front(gated).connect()
        made.data_received((_GET + b"\r\n") * 3)
        seen = []
        for gate in gates:
            await asyncio.sleep(0)
            seen.append(transport.reading)
            gate.set()
            await asyncio.sleep(0.01)
        assert (seen, transport.reading) == ([False, False, True], True)
        assert transport.written.count(b"HTTP/1.1 200") == 3

    _run(work)


def test_a_request_whose_rest_is_not_read_is_not_late(clock: list[float]) -> None:
    gate = asyncio.Event()

    async def gated(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await gate.wait()
        while (await receive()).get("more_body"):
            pass
        await _answering(None, None, send)

    async def work() -> None:
        made, transport = Front(gated).connect()
        made.data_received(_GET + b"\r\n" + _GET + b"\r\n" + _POST + b"some")
        clock[0] += 100
        made.end_if_late(clock[0])
        assert not transport.closing
        gate.set()
        await asyncio.sleep(0.01)
        made.end_if_late(clock[0] + 9)
        assert (transport.closing, transport.reading) == (False, True)
        made.end_if_late(clock[0] + 11)
        assert (transport.closing, b"HTTP/1.1 408" in transport.written) == (True, True)

    _run(work)


@pytest.mark.parametrize(
    ("before", "wrong", "status"),
    [
        (1, b"no HTTP\r\n\r\n", 400),
        (3, b"no HTTP\r\n\r\n", 400),
        (2, b"POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n", 400),
        (1, b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\n", 400),
        (connection._MOST_PIPELINED + 1, (_GET + b"\r\n") * 1000, 429),
    ],
)
def test_requests_that_came_before_a_wrong_one_are_answered_first(before: int, wrong: bytes, status: int) -> None:
    """Whoever sent them takes what he reads for the answer to the first."""
    gate = asyncio.Event()

    async def gated(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()
        await gate.wait()
        await _answering(None, None, send)

    async def work() -> None:
        _, transport = Front(gated).connect()
        transport.feed((_GET + b"\r\n") * before + wrong)
        await asyncio.sleep(0.01)
        assert (transport.written, transport.closing, transport.reading) == (b"", False, False)
        gate.set()
        await asyncio.sleep(0.05)
        assert transport.closing
        answers = [int(each[:3]) for each in transport.written.split(b"HTTP/1.1 ")[1:]]
        assert answers == [*[200] * before, status]

    _run(work)


def test_an_upgrade_that_is_not_made_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        made, transport = Front().connect()
        made.data_received(_GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        await asyncio.sleep(0.01)
        assert transport.status == 200

    _run(work)
    assert not caplog.records


@pytest.mark.parametrize(
    ("asked", "body", "written", "writes"),
    [
        (_GET + b"\r\n", b"{}", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 1),
        (_GET + b"\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 1),
        (b"HEAD" + _GET[3:] + b"\r\n", b"{}", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", 1),
        (
            _GET + b"Expect: 100-continue\r\n\r\n",
            b"{}",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            2,
        ),
        (
            _GET + b"Connection: close\r\n\r\n",
            b"a" * 2**17,
            b"HTTP/1.1 200 OK\r\ncontent-length: 131072\r\nconnection: close\r\n\r\n" + b"a" * 2**17,
            2,
        ),
    ],
)
def test_an_answer_leaves_as_a_whole(asked: bytes, body: bytes, written: bytes, writes: int) -> None:
    async def answering(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": body})

    async def work() -> None:
        made, transport = Front(answering).connect()
        made.data_received(asked)
        await asyncio.sleep(0.01)
        assert (transport.written, transport.writes) == (written, writes)
        assert transport.closing == (b"close" in asked)

    _run(work)


@pytest.mark.parametrize(
    "head",
    [
        _GET + b"X: " + b"a" * 2**15,
        b"GET /" + b"a" * 2**15,
        _GET + b"".join(b"x%d: 1\r\n" % number for number in range(99)) + b"Last: 1\r\n\r\n",
        _GET + b"X: " + b"a" * 2**15 + b"\r\n\r\n",
        b"GET /" + b"a" * 2**15 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_a_head_that_is_too_large_is_a_431(head: bytes) -> None:
    async def work() -> None:
        made, transport = Front().connect()
        made.data_received(head)
        await asyncio.sleep(0.01)
        assert (transport.status, transport.closing) == (431, True)
        assert "are taken" in transport.error
        made.data_received(b"more")

    _run(work)


def test_what_is_not_http_is_a_400_in_json() -> None:
    async def work() -> None:
        made, transport = Front().connect()
        made.data_received(b"\x16\x03\x01\x00 hello\r\n\r\n")
        assert (transport.status, transport.closing) == (400, True)
        assert "Invalid HTTP" in transport.error

    _run(work)


def test_an_idle_connection_makes_room_and_a_busy_one_does_not(clock: list[float]) -> None:
    async def work() -> None:
        front = Front(_waiting)
        idle = []
        for _ in range(3):
            idle.append(front.connect())
            clock[0] += 1
        idle[0][0].data_received(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        _, newer = front.connect()
        assert [transport.closing for _, transport in idle] == [False, True, False]
        assert not newer.closing
        for made in list(front.state.connections):
            if not made.transport.is_closing():
                made.data_received(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        _, refused = front.connect()
        assert (refused.status, refused.closing) == (503, True)
        assert "All 3 connections are in use" in refused.error

    _run(work)


@pytest.mark.parametrize(
    ("sent", "status"), [(b"", 0), (b"GET /v2 HT", 408), (_GET, 408), (_POST, 408), (_POST + b"a" * 999, 408)]
)
def test_a_request_that_does_not_come_is_given_up(clock: list[float], sent: bytes, status: int) -> None:
    async def work() -> None:
        front = Front(_waiting)
        made, transport = front.connect()
        made.data_received(sent)
        await asyncio.sleep(0.01)
        clock[0] += 9.9
        sweep(front.state.connections)
        assert not transport.closing
        clock[0] += 0.2
        sweep(front.state.connections)
        assert (transport.closing, transport.status) == (True, status)

    _run(work)


def test_what_comes_while_an_answer_is_made_is_not_late_for_that(clock: list[float]) -> None:
    async def work() -> None:
        app = Reading()
        front = Front(app)
        made, transport = front.connect()
        made.data_received(_GET + b"\r\nGET /v2 HT")
        for seconds in (100, 9):
            clock[0] += seconds
            sweep(front.state.connections)
            assert not transport.closing
            app.may.set()
            await asyncio.sleep(0.01)
            assert transport.written.count(b"HTTP/1.1") == 1
        clock[0] += 2
        sweep(front.state.connections)
        assert transport.written.count(b"HTTP/1.1 408") == 1

    _run(work)


def test_a_body_that_does_not_come_after_its_answer_ends_without_another(clock: list[float]) -> None:
    async def work() -> None:
        front = Front()
        made, transport = front.connect()
        made.data_received(_POST)
        await asyncio.sleep(0.01)
        assert transport.status == 200
        clock[0] += 11
        sweep(front.state.connections)
        assert (transport.closing, transport.written.count(b"HTTP/1.1")) == (True, 1)

    _run(work)


@pytest.mark.parametrize(("size", "seconds"), [(2**17, 10 + 7.9), (990_000, 59.9)])
def test_a_large_body_may_take_longer_and_stand_still_for_a_minute_at_most(
    clock: list[float], size: int, seconds: float
) -> None:
    async def work() -> None:
        front = Front(_waiting)
        made, transport = front.connect()
        made.data_received(_POST + b"a" * size)
        sweep(front.state.connections)
        clock[0] += seconds
        sweep(front.state.connections)
        assert not transport.closing
        clock[0] += 1
        sweep(front.state.connections)
        assert transport.status == 408

    _run(work)


def test_a_request_that_came_in_may_take_as_long_as_it_takes(clock: list[float]) -> None:
    async def work() -> None:
        front = Front(_waiting)
        made, transport = front.connect()
        made.data_received(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        clock[0] += 3600
        sweep(front.state.connections)
        assert not transport.closing

    _run(work)


def test_a_connection_that_is_not_used_any_more_is_closed(clock: list[float]) -> None:
    async def work() -> None:
        front = Front()
        made, transport = front.connect()
        made.data_received(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        clock[0] += 74
        sweep(front.state.connections)
        assert not transport.closing
        made.data_received(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        clock[0] += 74
        sweep(front.state.connections)
        assert not transport.closing
        clock[0] += 2
        sweep(front.state.connections)
        assert (transport.closing, transport.written.count(b"HTTP/1.1")) == (True, 2)

    _run(work)


def test_a_client_that_does_not_read_is_cut_off(clock: list[float]) -> None:
    async def work() -> None:
        front = Front(_waiting)
        made, transport = front.connect()
        made.data_received(_GET + b"\r\n")
        made.pause_writing()
        clock[0] += 59
        made.resume_writing()
        made.pause_writing()
        clock[0] += 59
        sweep(front.state.connections)
        assert not transport.aborted
        clock[0] += 2
        sweep(front.state.connections)
        assert transport.aborted

    _run(work)


def test_a_client_that_does_not_read_the_last_answer_is_cut_off(clock: list[float]) -> None:
    async def work() -> None:
        front = Front()
        made, transport = front.connect()
        made.data_received(_GET.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + b"\r\n")
        await asyncio.sleep(0.01)
        assert (transport.status, transport.closing) == (200, True)
        transport.unsent = 100
        for seconds in (1, 59):
            clock[0] += seconds
            sweep(front.state.connections)
            assert not transport.aborted
        clock[0] += 2
        sweep(front.state.connections)
        assert transport.aborted

    _run(work)


def test_a_client_that_reads_slowly_is_given_time(clock: list[float]) -> None:
    """Longer than an idle connection is kept, too."""

    async def work() -> None:
        front = Front()
        made, transport = front.connect()
        made.data_received(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        assert transport.status == 200
        transport.unsent = 2**26
        made.pause_writing()
        for _ in range(100):
            clock[0] += 1
            transport.unsent -= 2**16
            sweep(front.state.connections)
        clock[0] += 59
        sweep(front.state.connections)
        assert (transport.closing, made.is_idle()) == (False, False)
        # What it took before gives it no more.
        clock[0] += 2
        sweep(front.state.connections)
        assert transport.aborted

    _run(work)


@pytest.mark.parametrize("more", [b"a: b\r\n" * 10, b"a: " + b"b" * 100])
def test_what_follows_a_body_is_bounded(more: bytes) -> None:
    async def work() -> None:
        front = Front(Reading())
        made, transport = front.connect()
        made.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
        sent = 0
        while not transport.closing:
            made.data_received(more)
            sent += len(more)
            assert sent < 2**16
        assert transport.status == 431
        assert "What comes beside the body: at most 32768 bytes are taken" in transport.error

    _run(work)


def test_a_long_body_in_small_chunks_is_a_body() -> None:
    async def work() -> None:
        front = Front(reading := Reading())
        reading.may.set()
        made, transport = front.connect()
        made.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10_000):
            made.data_received(b"1;extension=1\r\nx\r\n")
            await asyncio.sleep(0)
        made.data_received(b"0\r\na: b\r\n\r\n")
        await asyncio.sleep(0.01)
        assert reading.bodies == [b"x" * 10_000]
        assert not transport.closing

    _run(work)


def test_work_for_a_client_that_went_away_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def app(_: Any, __: Any, ___: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)

    async def work() -> None:
        made, _ = Front(app).connect()
        made.data_received(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        made.connection_lost(None)
        await asyncio.sleep(0.01)
        assert cancelled == [True]

    _run(work)


_SENT = bytes(range(256)) * 5000
_LARGE = b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(_SENT)


@pytest.mark.parametrize("first", [0, 1, 70_000, len(_SENT) - 1, len(_SENT)])
def test_a_large_body_is_read_as_it_was_sent(first: int) -> None:
    async def work() -> None:
        reading = Reading()
        reading.may.set()
        made, transport = Front(reading).connect()
        for number in range(1, 3):
            transport.feed(_LARGE + _SENT[:first])
            rest = _SENT[first:]
            while rest:
                transport.feed(rest[:300_000])
                rest = transport.unread + rest[300_000:]
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert reading.bodies == [_SENT] * number
            assert transport.protocol is made
            transport.feed(_GET + b"\r\n")
            await asyncio.sleep(0.01)
            assert reading.bodies.pop() == b""
        assert transport.written.count(b"HTTP/1.1 200") == 4
        assert reading.most <= max(first, 2**18)

    _run(work)


def test_a_large_body_that_nobody_takes_is_not_read_on() -> None:
    async def work() -> None:
        reading = Reading()
        _, transport = Front(reading).connect()
        transport.feed(_LARGE)
        transport.feed(_SENT)
        assert not transport.reading
        # Four chunks, each twice as large as the one before.
        assert len(_SENT) - len(transport.unread) == 15 * 2**14
        reading.may.set()
        while transport.unread:
            await asyncio.sleep(0.001)
            transport.feed(transport.unread)
        await asyncio.sleep(0.01)
        assert reading.bodies == [_SENT]

    _run(work)


def test_a_client_that_goes_away_in_a_large_body_is_told() -> None:
    async def work() -> None:
        reading = Reading()
        reading.may.set()
        front = Front(reading)
        _, transport = front.connect()
        transport.feed(_LARGE + _SENT[:100_000])
        await asyncio.sleep(0.01)
        assert len(front.state.connections) == 1
        cast(asyncio.BufferedProtocol, transport.protocol).connection_lost(None)
        await asyncio.sleep(0.01)
        assert (reading.bodies, len(front.state.connections), transport.written) == ([], 0, b"")

    _run(work)


def test_a_large_body_that_is_answered_before_it_came_is_dropped() -> None:
    async def work() -> None:
        made, transport = Front().connect()
        transport.feed(_LARGE)
        await asyncio.sleep(0.01)
        assert transport.status == 200
        transport.feed(_SENT)
        assert transport.protocol is made
        transport.feed(_GET + b"\r\n")
        await asyncio.sleep(0.01)
        assert transport.written.count(b"HTTP/1.1 200") == 2

    _run(work)


def test_a_body_that_is_announced_takes_little_until_it_comes() -> None:
    async def work() -> None:
        _, transport = Front(_waiting).connect()
        transport.feed(_LARGE + b"a")
        assert isinstance(transport.protocol, asyncio.BufferedProtocol)
        assert len(cast(memoryview, transport.protocol.get_buffer(-1))) == 2**14

    _run(work)
