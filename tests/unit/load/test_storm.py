"""The storm's clients: what they say of requests that a stopping server answers, refuses and drops."""

import socket
from collections.abc import Callable

import pytest

from clients import mischief, storm
from clients.storm import Storm
from tests.unit.load.peer import Peer, Stopping, answer

ADDRESS = ("127.0.0.1", 8080)


def test_a_server_that_drains_answers_everything(connect_to: Callable[[Peer], None]) -> None:
    def drain(_: int) -> bytes:
        return answer(b"fine", fields="Connection: close\r\n" if peer.stopped else "")

    peer = Stopping(drain, seconds=0.005)
    connect_to(peer)
    aftermath = Storm(ADDRESS, [b"a", b"b"], clients=3).run(0.1, peer.stop)
    told = aftermath.told()
    assert sum(each["count"] for each in told["answers"]) == len(peer.requests) > 6
    assert {each["request"] for each in told["answers"]} == {0, 1}
    assert (told["unanswered"], told["others"], told["refused"], told["early"]) == ([], [], 3, 0)


def test_what_is_dropped_is_told_with_when_it_was_complete(connect_to: Callable[[Peer], None]) -> None:
    peer = Stopping(lambda _: b"" if peer.stopped else answer(b"fine"), seconds=0.02)
    connect_to(peer)
    aftermath = Storm(ADDRESS, [b"a"], clients=2).run(0.1, peer.stop)
    assert [(reason, accepted) for reason, _, accepted in aftermath.unanswered] == [
        ("the server closed the connection", False)
    ] * 2
    assert all(complete > 1e9 for _, complete, _ in aftermath.unanswered)


def test_half_an_answer_is_told_as_such(connect_to: Callable[[Peer], None]) -> None:
    def halved(_: int) -> bytes:
        peer.stop()
        return answer(b"fine")[:-2]

    class Halving(Stopping):
        def _serve(self, connection: socket.socket) -> None:
            with connection:
                connection.recv(100)
                connection.sendall(halved(0))

    peer = Halving(halved)
    connect_to(peer)
    ((reason, _, accepted),) = Storm(ADDRESS, [b"a"], clients=1).run(0.05, peer.stop).unanswered
    assert (reason, accepted) == ("in the middle of the answer", True)


def test_other_statuses_and_early_refusals_are_told(
    connect_to: Callable[[Peer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storm, "_PATIENCE", 0.2)
    peer = Stopping(lambda _: answer(b"busy", status="503 Unavailable"), seconds=0.01)
    connect_to(peer)
    aftermath = Storm(ADDRESS, [b"a"], clients=1).run(0.03, peer.stop)
    assert {status for status, _ in aftermath.others} == {503}
    # It goes on answering on a connection that it does not close.
    assert [reason for reason, _, _ in aftermath.unanswered] == ["no answer in time"]
    assert Storm(ADDRESS, [b"a"], clients=2).run(0.03, peer.stop).early == 2


@pytest.mark.parametrize("trick", [*mischief.WRONG, *mischief.LEAVING], ids=lambda trick: trick.__name__)
def test_every_trick_is_wrong_or_leaves(connect_to: Callable[[Peer], None], trick: mischief.Trick) -> None:
    request = answer(b'{"inputs": [1]}').replace(b"HTTP/1.1 200 OK", b"POST /v2/models/tiny/infer HTTP/1.1")
    peer = Peer(lambda _: answer(b"no", status="400 Bad Request"))
    connect_to(peer)
    told = mischief.play(trick, ADDRESS, request)
    assert told == ("status 400" if trick in mischief.WRONG else "left")
    assert request not in peer.requests or trick in {
        mischief.leave_before_the_answer,
        mischief.leave_in_the_answer,
        mischief.reset,
    }
