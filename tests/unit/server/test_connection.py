"""A connection in front of a transport that only remembers: order, limits of size and number, and the end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from server.http import connection
from server.http.connection import Connection
from tests.unit.server.rest_stage import GET, Front, Reading, answering, never, run


@pytest.fixture(autouse=True)
def _three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection.limits, "connections", 3)


def test_requests_of_one_connection_are_answered_one_after_the_other() -> None:
    async def work() -> None:
        made, transport = Front().connect()
        for number in range(1, 3):
            made.data_received(GET + b"\r\n")
            await asyncio.sleep(0.01)
            assert transport.written.count(b"HTTP/1.1 200") == number
        assert not transport.closing

    run(work)


def test_nothing_is_read_while_requests_wait_for_the_first_ones_answer() -> None:
    """Each answer would let in as many as one read brings, and memory would grow without end."""
    gates = [asyncio.Event() for _ in range(3)]
    left = iter(gates)

    async def gated(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()
        await next(left).wait()
        await answering(None, None, send)

    async def work() -> None:
        made, transport = Front(gated).connect()
        made.data_received((GET + b"\r\n") * 3)
        seen = []
        for gate in gates:
            await asyncio.sleep(0)
            seen.append(transport.reading)
            gate.set()
            await asyncio.sleep(0.01)
        assert (seen, transport.reading) == ([False, False, True], True)
        assert transport.written.count(b"HTTP/1.1 200") == 3

    run(work)


@pytest.mark.parametrize(
    ("before", "wrong", "status"),
    [
        (1, b"no HTTP\r\n\r\n", 400),
        (3, b"no HTTP\r\n\r\n", 400),
        (2, b"POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n", 400),
        (1, b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\n", 400),
        (connection._MOST_PIPELINED + 1, (GET + b"\r\n") * 1000, 429),
    ],
)
def test_requests_that_came_before_a_wrong_one_are_answered_first(before: int, wrong: bytes, status: int) -> None:
    """Whoever sent them takes what he reads for the answer to the first."""
    gate = asyncio.Event()

    async def gated(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()
        await gate.wait()
        await answering(None, None, send)

    async def work() -> None:
        _, transport = Front(gated).connect()
        transport.feed((GET + b"\r\n") * before + wrong)
        await asyncio.sleep(0.01)
        assert (transport.written, transport.closing, transport.reading) == (b"", False, False)
        gate.set()
        async with asyncio.timeout(10):
            while not transport.closing:
                await asyncio.sleep(0.001)
        answers = [int(each[:3]) for each in transport.written.split(b"HTTP/1.1 ")[1:]]
        assert answers == [*[200] * before, status]

    run(work)


def test_an_upgrade_that_is_not_made_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        made, transport = Front().connect()
        made.data_received(GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        await asyncio.sleep(0.01)
        assert transport.status == 200

    run(work)
    assert not caplog.records


@pytest.mark.parametrize(
    ("asked", "body", "written", "writes"),
    [
        (GET + b"\r\n", b"{}", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 1),
        (GET + b"\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 1),
        (b"HEAD" + GET[3:] + b"\r\n", b"{}", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", 1),
        (
            GET + b"Expect: 100-continue\r\n\r\n",
            b"{}",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            2,
        ),
        (
            GET + b"Connection: close\r\n\r\n",
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

    run(work)


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"a" * 2**15,
        b"GET /" + b"a" * 2**15,
        GET + b"".join(b"x%d: 1\r\n" % number for number in range(99)) + b"Last: 1\r\n\r\n",
        GET + b"X: " + b"a" * 2**15 + b"\r\n\r\n",
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

    run(work)


def test_each_request_of_several_has_its_own_head_judged() -> None:
    large = GET + b"X: " + b"a" * 2**15 + b"\r\n\r\n"
    many = GET + b"".join(b"x%d: 1\r\n" % number for number in range(101)) + b"\r\n"

    async def work() -> None:
        for wrong in (large, many):
            _, transport = Front().connect()
            transport.feed((GET + b"\r\n") * 2 + wrong + GET + b"\r\n")
            await asyncio.sleep(0.01)
            answers = [int(each[:3]) for each in transport.written.split(b"HTTP/1.1 ")[1:]]
            assert (answers, transport.closing) == ([200, 200, 431], True)

    run(work)


def test_what_is_not_http_is_a_400_in_json() -> None:
    async def work() -> None:
        made, transport = Front().connect()
        made.data_received(b"\x16\x03\x01\x00 hello\r\n\r\n")
        assert (transport.status, transport.closing) == (400, True)
        assert "Invalid HTTP" in transport.error

    run(work)


def test_an_idle_connection_makes_room_and_a_busy_one_does_not(clock: list[float]) -> None:
    async def work() -> None:
        front = Front(never)
        idle = []
        for _ in range(3):
            idle.append(front.connect())
            clock[0] += 1
        idle[0][0].data_received(GET + b"\r\n")
        await asyncio.sleep(0.01)
        _, newer = front.connect()
        assert [transport.closing for _, transport in idle] == [False, True, False]
        assert not newer.closing
        for made in list(front.state.connections):
            if not made.transport.is_closing():
                made.data_received(GET + b"\r\n")
        await asyncio.sleep(0.01)
        _, refused = front.connect()
        assert (refused.status, refused.closing) == (503, True)
        assert "All 3 connections are in use" in refused.error
        assert b"\r\nretry-after: 1\r\n" in refused.written

    run(work)


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

    run(work)


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

    run(work)


def test_work_for_a_client_that_went_away_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def app(_: Any, __: Any, ___: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)

    async def work() -> None:
        made, _ = Front(app).connect()
        made.data_received(GET + b"\r\n")
        await asyncio.sleep(0.01)
        made.connection_lost(None)
        await asyncio.sleep(0.01)
        assert cancelled == [True]

    run(work)


def test_a_client_that_leaves_others_behind_the_first_request_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn takes the newest for the one that is being answered."""

    async def app(_: Any, __: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await answering(None, None, send)

    async def work() -> None:
        made, transport = Front(app).connect()
        made.data_received((GET + b"\r\n") * 2)
        await asyncio.sleep(0.01)
        made.connection_lost(None)
        await asyncio.sleep(0.01)
        assert (transport.written, caplog.messages) == (b"", [])

    run(work)


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
            transport.feed(GET + b"\r\n")
            await asyncio.sleep(0.01)
            assert reading.bodies.pop() == b""
        assert transport.written.count(b"HTTP/1.1 200") == 4
        assert reading.most <= max(first, 2**18)

    run(work)


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

    run(work)


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

    run(work)


def test_a_large_body_that_is_answered_before_it_came_is_dropped() -> None:
    async def work() -> None:
        made, transport = Front().connect()
        transport.feed(_LARGE)
        await asyncio.sleep(0.01)
        assert transport.status == 200
        transport.feed(_SENT)
        assert transport.protocol is made
        transport.feed(GET + b"\r\n")
        await asyncio.sleep(0.01)
        assert transport.written.count(b"HTTP/1.1 200") == 2

    run(work)


def test_a_large_body_is_dropped_when_much_of_it_came_before_the_answer() -> None:
    gate = asyncio.Event()

    async def refusing(_: Any, __: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await gate.wait()
        await answering(None, None, send)

    async def work() -> None:
        made, transport = Front(refusing).connect()
        transport.feed(_LARGE)
        transport.feed(_SENT)
        assert (transport.reading, len(transport.unread) > 0) == (False, True)
        gate.set()
        await asyncio.sleep(0.01)
        transport.feed(transport.unread)
        assert (transport.protocol is made, transport.unread, transport.reading) == (True, b"", True)
        transport.feed(GET + b"\r\n")
        await asyncio.sleep(0.01)
        assert transport.written.count(b"HTTP/1.1 200") == 2

    run(work)


def test_a_body_that_is_announced_takes_little_until_it_comes() -> None:
    async def work() -> None:
        _, transport = Front(never).connect()
        transport.feed(_LARGE + b"a")
        assert isinstance(transport.protocol, asyncio.BufferedProtocol)
        assert len(cast(memoryview, transport.protocol.get_buffer(-1))) == 2**14

    run(work)
