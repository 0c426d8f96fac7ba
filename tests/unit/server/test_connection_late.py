"""Clients that take too long: to send a request, to read an answer, to ask again; and those that do not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.http.connection import Connection, sweep
from tests.unit.server.rest_stage import GET, POST, Front, Reading, Transport, answering, never, run


def test_a_request_whose_rest_is_not_read_is_not_late(clock: list[float]) -> None:
    gate = asyncio.Event()

    async def gated(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await gate.wait()
        while (await receive()).get("more_body"):
            pass
        await answering(None, None, send)

    async def work() -> None:
        made, transport = Front(gated).connect()
        made.data_received(GET + b"\r\n" + GET + b"\r\n" + POST + b"some")
        clock[0] += 100
        made.end_if_late(clock[0])
        assert not transport.closing
        gate.set()
        await asyncio.sleep(0.01)
        made.end_if_late(clock[0] + 9)
        assert (transport.closing, transport.reading) == (False, True)
        made.end_if_late(clock[0] + 11)
        assert (transport.closing, b"HTTP/1.1 408" in transport.written) == (True, True)

    run(work)


@pytest.mark.parametrize(
    ("sent", "status"), [(b"", 0), (b"GET /v2 HT", 408), (GET, 408), (POST, 408), (POST + b"a" * 999, 408)]
)
def test_a_request_that_does_not_come_is_given_up(clock: list[float], sent: bytes, status: int) -> None:
    async def work() -> None:
        front = Front(never)
        made, transport = front.connect()
        made.data_received(sent)
        await asyncio.sleep(0.01)
        clock[0] += 9.9
        sweep(front.state.connections)
        assert not transport.closing
        clock[0] += 0.2
        sweep(front.state.connections)
        assert (transport.closing, transport.status) == (True, status)

    run(work)


def test_what_comes_while_an_answer_is_made_is_not_late_for_that(clock: list[float]) -> None:
    async def work() -> None:
        app = Reading()
        front = Front(app)
        made, transport = front.connect()
        made.data_received(GET + b"\r\nGET /v2 HT")
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

    run(work)


def test_a_body_that_does_not_come_after_its_answer_ends_without_another(clock: list[float]) -> None:
    async def work() -> None:
        front = Front()
        made, transport = front.connect()
        made.data_received(POST)
        await asyncio.sleep(0.01)
        assert transport.status == 200
        clock[0] += 11
        sweep(front.state.connections)
        assert (transport.closing, transport.written.count(b"HTTP/1.1")) == (True, 1)

    run(work)


@pytest.mark.parametrize(("size", "seconds"), [(2**17, 10 + 7.9), (990_000, 59.9)])
def test_a_large_body_may_take_longer_and_stand_still_for_a_minute_at_most(
    clock: list[float], size: int, seconds: float
) -> None:
    async def work() -> None:
        front = Front(never)
        made, transport = front.connect()
        made.data_received(POST + b"a" * size)
        sweep(front.state.connections)
        clock[0] += seconds
        sweep(front.state.connections)
        assert not transport.closing
        clock[0] += 1
        sweep(front.state.connections)
        assert transport.status == 408

    run(work)


def test_a_request_that_came_in_may_take_as_long_as_it_takes(clock: list[float]) -> None:
    async def work() -> None:
        front = Front(never)
        made, transport = front.connect()
        made.data_received(GET + b"\r\n")
        await asyncio.sleep(0.01)
        clock[0] += 3600
        sweep(front.state.connections)
        assert not transport.closing

    run(work)


def test_a_connection_that_is_not_used_any_more_is_closed(clock: list[float]) -> None:
    async def work() -> None:
        front = Front()
        made, transport = front.connect()
        made.data_received(GET + b"\r\n")
        await asyncio.sleep(0.01)
        clock[0] += 74
        sweep(front.state.connections)
        assert not transport.closing
        made.data_received(GET + b"\r\n")
        await asyncio.sleep(0.01)
        clock[0] += 74
        sweep(front.state.connections)
        assert not transport.closing
        clock[0] += 2
        sweep(front.state.connections)
        assert (transport.closing, transport.written.count(b"HTTP/1.1")) == (True, 2)

    run(work)


def test_a_client_that_does_not_read_is_cut_off(clock: list[float]) -> None:
    async def work() -> None:
        front = Front(never)
        made, transport = front.connect()
        made.data_received(GET + b"\r\n")
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

    run(work)


def test_a_client_that_does_not_read_the_last_answer_is_cut_off(clock: list[float]) -> None:
    async def work() -> None:
        front = Front()
        made, transport = front.connect()
        made.data_received(GET.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + b"\r\n")
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

    run(work)


def test_a_client_that_reads_slowly_is_given_time(clock: list[float]) -> None:
    """Longer than an idle connection is kept, too."""

    async def work() -> None:
        front, made, transport = await answered_but_unread()
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

    run(work)


def test_a_connection_is_used_until_its_answer_is_read(clock: list[float]) -> None:
    async def work() -> None:
        front, made, transport = await answered_but_unread()
        clock[0] += 50
        transport.unsent = 2**25
        sweep(front.state.connections)
        clock[0] += 50
        transport.unsent = 0
        made.resume_writing()
        for seconds, closing in ((74, False), (2, True)):
            clock[0] += seconds
            sweep(front.state.connections)
            assert transport.closing is closing

    run(work)


async def answered_but_unread() -> tuple[Front, Connection, Transport]:
    """A connection that was answered, of which 64 MiB still wait to be read."""
    front = Front()
    made, transport = front.connect()
    made.data_received(GET + b"\r\n")
    await asyncio.sleep(0.01)
    assert transport.status == 200
    transport.unsent = 2**26
    made.pause_writing()
    return front, made, transport
