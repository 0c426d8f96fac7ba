"""The storm's clients of gRPC: what they say of calls that a stopping server answers, sends elsewhere and drops."""

from collections.abc import Callable

import pytest
from hpack import Decoder, Encoder

from clients import rpc_storm
from clients.hpack import Inflate, Inflater
from clients.rpc_storm import Request, RpcStorm
from clients.storm import Aftermath
from tests.unit.load.peer import Peer
from tests.unit.load.rpc_peer import RpcPeer, fine, go_away, status
from tests.unit.server.grpc_frames import END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, data, frame, message

ADDRESS = ("127.0.0.1", 8081)
PATH = b"/inference.GRPCInferenceService/ModelInfer"


def _inflater() -> Inflate:
    decoder = Decoder()
    return lambda block: [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


def _storm(peer: RpcPeer, *, clients: int = 4, contents: tuple[bytes, ...] = (b"a",)) -> Aftermath:
    requests = [Request(PATH, message(content)) for content in contents]
    return RpcStorm(ADDRESS, requests, clients, inflater=_inflater).run(0.05, peer.stop)


def _told(aftermath: Aftermath) -> list[tuple[str, bool]]:
    return [(reason, accepted) for reason, _, accepted in aftermath.unanswered]


def test_a_server_that_drains_answers_everything(connect_to: Callable[[Peer], None]) -> None:
    def drain(stream: int) -> bytes:
        return (go_away(2**31 - 1) if peer.stopped else b"") + fine(stream)

    peer = RpcPeer(drain, seconds=0.002)
    connect_to(peer)
    aftermath = _storm(peer, clients=6, contents=(b"a", b"b" * 70_000))
    told = aftermath.told()
    assert sum(each["count"] for each in told["answers"]) == len(peer.calls) > 12
    assert {answer.body for _, answer in aftermath.answers} == {b"fine"}
    assert set(peer.calls) == {message(b"a"), message(b"b" * 70_000)}
    assert (told["unanswered"], told["others"], told["refused"], told["early"]) == ([], [], 2, 0)
    assert peer.acknowledged == {SETTINGS, PING}
    # Four calls share a connection, and the other two have one.
    assert peer.connections == 2


def test_an_answer_that_is_larger_than_any_window_arrives(connect_to: Callable[[Peer], None]) -> None:
    def answering(stream: int) -> bytes:
        peer.stop()
        return go_away(stream) + fine(stream, b"x" * 200_000)

    peer = RpcPeer(answering)
    connect_to(peer)
    aftermath = _storm(peer, clients=1)
    assert [len(answer.body) for _, answer in aftermath.answers] == [200_000]


def test_calls_above_goaways_last_one_were_not_accepted_and_those_below_were(
    connect_to: Callable[[Peer], None],
) -> None:
    def answering(stream: int) -> bytes:
        peer.stop()
        return {1: go_away(3) + fine(1), 3: b""}.get(stream, b"")

    peer = RpcPeer(answering, seconds=0.02)
    connect_to(peer)
    aftermath = _storm(peer)
    assert sum(aftermath.answers.values()) == 1
    *above, (_, below) = _told(aftermath)
    assert (above, below) == ([("above the last one of GOAWAY", False)] * 2, True)
    assert all(complete > 1e9 for _, complete, _ in aftermath.unanswered)


@pytest.mark.parametrize("greets", [True, False], ids=["after a word", "without a word"])
def test_a_connection_that_is_cut(connect_to: Callable[[Peer], None], greets: bool) -> None:
    def answering(_: int) -> bytes:
        peer.stop()
        return b""

    peer = RpcPeer(answering, greets=greets)
    connect_to(peer)
    ((_, accepted),) = _told(_storm(peer, clients=1))
    assert accepted == greets


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (lambda stream: frame(RST_STREAM, 0, stream, b"\0\0\0\7"), ("reset with code 7", False)),
        (lambda stream: frame(RST_STREAM, 0, stream, b"\0\0\0\2"), ("reset with code 2", True)),
        (lambda stream: frame(0, 1, stream, b""), ("ended without a status", True)),
        # Whatever it says then, it had begun to answer.
        (
            lambda stream: data(stream, message(b"x")) + frame(RST_STREAM, 0, stream, b"\0\0\0\7"),
            ("in the middle of the answer", True),
        ),
        (
            lambda stream: frame(HEADERS, END_HEADERS, stream, Encoder().encode([("grpc-status", "x")])),
            ("a grpc-status of b'x'", True),
        ),
        (lambda _: frame(SETTINGS, 0, 0, bytes(5)), ("settings of no whole number", True)),
        (lambda stream: frame(HEADERS, 0, stream, b""), ("header fields that go on in another frame", True)),
    ],
)
def test_calls_that_end_without_a_status(
    connect_to: Callable[[Peer], None], ending: Callable[[int], bytes], told: tuple[str, bool]
) -> None:
    def answering(stream: int) -> bytes:
        peer.stop()
        return go_away(stream) + ending(stream)

    peer = RpcPeer(answering)
    connect_to(peer)
    assert _told(_storm(peer, clients=1)) == [told]


def test_other_statuses_silence_and_early_refusals_are_told(
    connect_to: Callable[[Peer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_storm, "_PATIENCE", 0.2)
    peer = RpcPeer(lambda stream: status(stream, 14) if stream < 5 else frame(PING, 1, 0, bytes(8)))
    connect_to(peer)
    aftermath = _storm(peer, clients=1)
    assert [code for code, _ in aftermath.others] == [14, 14]
    assert _told(aftermath) == [("no answer in time", True)]
    assert _storm(peer, clients=5).early == 2


def test_a_call_that_is_refused_before_it_is_complete_was_not_accepted(connect_to: Callable[[Peer], None]) -> None:
    def answering(stream: int) -> bytes:
        peer.stop()
        return go_away(stream) + status(stream, 14)

    peer = RpcPeer(answering, hasty=True)
    connect_to(peer)
    aftermath = _storm(peer, clients=1, contents=(b"a" * 200_000,))
    # The call, and the connection after it.
    assert (aftermath.others, aftermath.unanswered, aftermath.refused) == ([], [], 2)


def test_a_request_is_taken_out_of_its_file() -> None:
    http = b"POST " + PATH + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" + message(b"\r\n\r\n")
    assert Request.of(http) == Request(PATH, message(b"\r\n\r\n"))


def test_nghttp2_inflates_what_refers_to_earlier_blocks() -> None:
    try:
        inflate = Inflater()
    except OSError:
        pytest.skip("no libnghttp2 at this desk; the load generator's image has it")
    encoder = Encoder()
    fields = [(b":status", b"200"), (b"grpc-status", b"14"), (b"grpc-message", b"x" * 300)]
    blocks = [encoder.encode(fields) for _ in range(3)]
    assert len(blocks[0]) > 10 * len(blocks[2])
    assert [inflate(block) for block in blocks] == [fields] * 3
    with pytest.raises(ValueError, match="no header block"):
        inflate(b"\xff" * 8)
