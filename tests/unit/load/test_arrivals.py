"""Arrivals: at their own times whatever the server does, every answer kept, and what is lost is said."""

from collections import Counter
from collections.abc import Callable
from operator import itemgetter

import pytest

from clients import arrivals
from clients.arrivals import Arrivals
from clients.connection import Answer, Lost, Parser
from tests.unit.load.peer import Peer, answer

ADDRESS = ("127.0.0.1", 8080)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_answer_is_put_together_from_pieces(step: int) -> None:
    content = answer(b"{}abc", fields="Inference-Header-Content-Length: 2\r\nConnection: close\r\n")
    parser = Parser()
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    assert [parser.feed(piece) for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert parser.feed(pieces[-1]) == Answer(status=200, json=2, body=b"{}abc", closing=True)


def test_an_answer_without_a_length_is_none() -> None:
    with pytest.raises(Lost, match="no answer with a Content-Length"):
        Parser().feed(b"HTTP/1.1 200 OK\r\n\r\n")


def test_requests_take_turns_and_equal_answers_are_counted(connect_to: Callable[[Peer], None]) -> None:
    peer = Peer(lambda _: answer(b"fine"))
    connect_to(peer)
    outcome = Arrivals(ADDRESS, [b"first", b"second"], rate=1000).run(10)
    assert Counter(peer.requests) == {b"first": 5, b"second": 5}
    # They come over several connections, in any order.
    assert sorted(outcome.told()["answers"], key=itemgetter("request")) == [
        {"request": 0, "status": 200, "json": None, "body": "ZmluZQ==", "count": 5},
        {"request": 1, "status": 200, "json": None, "body": "ZmluZQ==", "count": 5},
    ]
    assert len(outcome.latencies) == len(outcome.late) == 10
    assert outcome.lost == {}


def test_a_slow_server_is_not_spared(connect_to: Callable[[Peer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer takes 20 ms and requests arrive every 10: the last of 10 has waited for the nine before it."""
    monkeypatch.setattr(arrivals, "MOST_CONNECTIONS", 1)
    connect_to(Peer(lambda _: answer(b"slow"), seconds=0.02))
    outcome = Arrivals(ADDRESS, [b"request"], rate=100).run(10)
    assert outcome.latencies[0] < 0.06
    assert outcome.latencies[-1] >= 10 * 0.02 - 9 * 0.01
    assert outcome.late[-1] == pytest.approx(outcome.latencies[-1] - 0.02, abs=0.015)


def test_a_connection_that_ends_is_a_request_lost(connect_to: Callable[[Peer], None]) -> None:
    connect_to(Peer(lambda number: b"" if number == 1 else answer(b"fine")))
    outcome = Arrivals(ADDRESS, [b"request"], rate=200).run(4)
    assert len(outcome.latencies) == 3
    assert outcome.lost == {"the server closed the connection": 1}


def test_whoever_is_told_to_come_again_was_not_answered_soon(connect_to: Callable[[Peer], None]) -> None:
    connect_to(Peer(lambda number: answer(b"fine") if number else answer(b"full", status="503 Service Unavailable")))
    outcome = Arrivals(ADDRESS, [b"request"], rate=200).run(4)
    assert (len(outcome.latencies), len(outcome.late)) == (3, 4)
    assert sorted(each["status"] for each in outcome.told()["answers"]) == [200, 503]


def test_a_connection_that_is_to_be_closed_is_not_used_again(connect_to: Callable[[Peer], None]) -> None:
    peer = Peer(lambda _: answer(b"last", fields="Connection: close\r\n"))
    connect_to(peer)
    assert len(Arrivals(ADDRESS, [b"request"], rate=100).run(3).latencies) == 3
    assert peer.connections == 3


def test_nobody_who_listens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("socket.create_connection", refuse)
    assert Arrivals(ADDRESS, [b"request"], rate=100).run(2).lost == {"not connected: refused": 2}


def test_no_answer_is_not_waited_for_for_ever(
    connect_to: Callable[[Peer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_PATIENCE", 0.05)
    connect_to(Peer(lambda _: answer(b"late"), seconds=0.5))
    assert Arrivals(ADDRESS, [b"request"], rate=100).run(2).lost == {"no answer in time": 2}


def test_it_ends_when_it_is_told_to(connect_to: Callable[[Peer], None]) -> None:
    peer = Peer(lambda _: answer(b"fine"))
    connect_to(peer)
    outcome = Arrivals(ADDRESS, [b"request"], rate=100).run(10**9, until=lambda: len(peer.requests) >= 3)
    assert 3 <= len(outcome.latencies) <= 5
