"""What every HTTP/2 of the server has to do; the container tests hold the real module to it, and the units the fake."""

from server.grpc import http2
from server.grpc.http2 import Event, Http2, Session
from tests.unit.server import grpc_frames as client

_PATH = "/acme.Service/Method"
_ENCODINGS = "identity,gzip"


def hold(module: Http2) -> None:
    """Raises AssertionError at the first promise of `server.grpc.http2` that is not kept."""
    for check in (
        _a_call_is_answered,
        _bytes_may_come_one_by_one,
        _many_calls_at_once,
        _messages_are_told_apart,
        _large_messages_pass_the_windows,
        _what_is_lent_is_let_go_of,
        _what_is_too_large_is_told_when_it_is_announced,
        _unfinished_messages_are_bounded_together,
        _a_cut_message_is_told,
        _an_early_end_is_trailers_only,
        _a_reset_is_told,
        _large_headers_are_refused,
        _answers_count_until_they_have_gone_out,
        _going_away,
        _what_is_not_http2_is_an_error,
        _a_broken_rule_ends_the_connection,
    ):
        check(module)


def _session(module: Http2, *, message: int = 2**20) -> tuple[Session, client.Reader]:
    session = module.Session(calls=100, message=message, messages=2 * message, headers=2**13, encodings=_ENCODINGS)
    reader = client.Reader()
    assert not list(session.receive(client.PREFACE))
    _pump(session, reader)
    return session, reader


def _pump(session: Session, reader: client.Reader) -> None:
    while said := session.outgoing():
        reader.take(said)


def _kinds(events: list[Event], *kinds: int) -> list[Event]:
    return [event for event in events if event[0] in kinds]


def _a_call_is_answered(module: Http2) -> None:
    session, reader = _session(module)
    events = list(session.receive(client.call(1, _PATH, b"question", grpc_timeout="5S", grpc_encoding="gzip")))
    assert events == [
        (http2.OPENED, 1, _PATH.encode(), b"POST", b"application/grpc", b"5S", b"gzip"),
        (http2.MESSAGE, 1, b"question", 0),
        (http2.ENDED, 1, True),
    ], events
    assert session.busy
    session.answer(1, [b"answer"])
    _pump(session, reader)
    answer = reader.answers[1]
    assert (answer.headers[":status"], answer.headers["content-type"]) == ("200", "application/grpc")
    assert answer.headers["grpc-accept-encoding"] == _ENCODINGS
    assert (answer.messages, answer.status, answer.ended, answer.reset) == ([b"answer"], 0, True, None)
    session.receive(client.frame(client.PING, 0, 0, bytes(8)))
    assert not session.busy
    session.answer(1, [b"nobody asks any more"])
    session.close(77, "0", "")


def _bytes_may_come_one_by_one(module: Http2) -> None:
    session, _ = _session(module)
    events: list[Event] = []
    for byte in client.call(1, _PATH, b"question"):
        events += session.receive(bytes([byte]))
    assert [event[0] for event in events] == [http2.OPENED, http2.MESSAGE, http2.ENDED]
    assert events[1] == (http2.MESSAGE, 1, b"question", 0)


def _many_calls_at_once(module: Http2) -> None:
    session, reader = _session(module)
    numbers = range(1, 101, 2)
    events = list(session.receive(b"".join(client.call(each, _PATH, b"%d" % each) for each in numbers)))
    for event in _kinds(events, http2.MESSAGE):
        session.answer(event[1], [event[2] * 2])
    _pump(session, reader)
    assert {number: answer.messages for number, answer in reader.answers.items()} == {
        number: [b"%d" % number * 2] for number in numbers
    }


def _messages_are_told_apart(module: Http2) -> None:
    session, reader = _session(module)
    content = client.message(b"") + client.message(b"two", compressed=True) + client.message(b"three", flag=255)
    events = list(session.receive(client.headers(1, _PATH) + client.data(1, content[:9])))
    events += session.receive(client.data(1, content[9:]))
    assert _kinds(events, http2.MESSAGE) == [
        (http2.MESSAGE, 1, b"", 0),
        (http2.MESSAGE, 1, b"two", 1),
        (http2.MESSAGE, 1, b"three", 255),
    ]
    session.send(1, [b"one"], True, "gzip")
    _pump(session, reader)
    session.send(1, [b"t", b"", memoryview(bytearray(b"wo"))])
    session.close(1, "0", "")
    _pump(session, reader)
    answer = reader.answers[1]
    assert answer.headers["grpc-encoding"] == "gzip"
    assert (answer.content[:1], answer.messages, answer.status) == (b"\1", [b"one", b"two"], 0)


def _large_messages_pass_the_windows(module: Http2) -> None:
    session, reader = _session(module)
    content = bytes(range(256)) * 1024
    for _ in range(8):
        events = list(session.receive(client.headers(1, _PATH)))
        for at in range(0, len(content), 2**14):
            part = client.message(content)[:5] * (at == 0) + content[at : at + 2**14]
            events += session.receive(client.data(1, part))
            reader.take(session.outgoing())
        assert _kinds(events, http2.MESSAGE) == [(http2.MESSAGE, 1, content, 0)]
        session.answer(1, [content[:10], memoryview(content)[10:100_000], content[100_000:200_000], content[200_000:]])
        _pump(session, reader)
        assert not reader.answers[1].ended, "the client's window is 65,535 bytes"
        update = (2**20).to_bytes(4, "big")
        session.receive(client.frame(client.WINDOW_UPDATE, 0, 0, update))
        session.receive(client.frame(client.WINDOW_UPDATE, 0, 1, update))
        _pump(session, reader)
        assert reader.answers[1].messages == [content]
        session, reader = _session(module)


def _what_is_lent_is_let_go_of(module: Http2) -> None:
    """When it has gone out, when its call is reset, and when there is no such call any more: a bytearray that is
    lent cannot change its size."""
    session, reader = _session(module)
    update = (2**20).to_bytes(4, "big")
    for number, rest in (
        (1, client.frame(client.WINDOW_UPDATE, 0, 0, update) + client.frame(client.WINDOW_UPDATE, 0, 1, update)),
        (3, client.frame(client.RST_STREAM, 0, 3, (8).to_bytes(4, "big"))),
    ):
        list(session.receive(client.call(number, _PATH, b"")))
        content = bytearray(2**17)
        session.answer(number, [memoryview(content)])
        _pump(session, reader)
        list(session.receive(rest))
        _pump(session, reader)
        content.append(0)
        session.answer(number, [memoryview(content)])
        content.append(0)
        assert session.unsent == 0


def _what_is_too_large_is_told_when_it_is_announced(module: Http2) -> None:
    session, reader = _session(module, message=100)
    prefix = b"\0" + (2**32 - 1).to_bytes(4, "big")
    events = list(session.receive(client.headers(1, _PATH) + client.data(1, prefix + b"x", ends=True)))
    assert _kinds(events, http2.TOO_LARGE, http2.MESSAGE, http2.ENDED) == [(http2.TOO_LARGE, 1, 2**32 - 1)]
    assert session.held == 0 or session.held < 100
    session.close(1, "8", "too large")
    _pump(session, reader)
    assert (reader.answers[1].status, reader.answers[1].headers["grpc-message"]) == (8, "too large")


def _unfinished_messages_are_bounded_together(module: Http2) -> None:
    session, _ = _session(module, message=100)
    started = b"\0" + (100).to_bytes(4, "big") + bytes(90)
    events = list(
        session.receive(b"".join(client.headers(each, _PATH) + client.data(each, started) for each in (1, 3, 5)))
    )
    assert [event[:2] for event in _kinds(events, http2.TOO_LARGE)] == [(http2.TOO_LARGE, 5)]
    assert 180 <= session.held <= 190
    assert (session.received(1), session.received(5), session.received(7), session.unsent) == (90, 0, 0, 0)
    session.receive(client.frame(client.RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    assert 90 <= session.held <= 95


def _a_cut_message_is_told(module: Http2) -> None:
    for part in (b"\0\0", client.message(b"whole")[:-1]):
        session, _ = _session(module)
        events = list(session.receive(client.headers(1, _PATH) + client.data(1, part, ends=True)))
        assert _kinds(events, http2.MESSAGE, http2.ENDED) == [(http2.ENDED, 1, False)]


def _an_early_end_is_trailers_only(module: Http2) -> None:
    session, reader = _session(module)
    session.receive(client.headers(1, _PATH))
    session.close(1, "12", "no such%0A method", "415")
    _pump(session, reader)
    answer = reader.answers[1]
    assert (answer.status, answer.content, answer.ended) == (12, b"", True)
    assert (answer.headers[":status"], answer.headers["grpc-accept-encoding"]) == ("415", _ENCODINGS)
    assert answer.headers["grpc-message"] == "no such%0A method"
    assert not _kinds(list(session.receive(client.data(1, client.message(b"late"), ends=True))), http2.MESSAGE)


def _a_reset_is_told(module: Http2) -> None:
    session, reader = _session(module)
    session.receive(client.call(1, _PATH, b"question"))
    events = list(session.receive(client.frame(client.RST_STREAM, 0, 1, (8).to_bytes(4, "big"))))
    assert events == [(http2.CLOSED, 1)], events
    assert not session.busy
    session.answer(1, [b"too late"])
    _pump(session, reader)
    assert 1 not in reader.answers


def _large_headers_are_refused(module: Http2) -> None:
    session, reader = _session(module)
    assert not _kinds(list(session.receive(client.headers(1, _PATH, ends=True, x_long="x" * 9000))), http2.OPENED)
    _pump(session, reader)
    answer = reader.answers[1]
    assert (answer.status, answer.ended) == (8, True)
    assert "at most 8192 bytes are taken" in answer.headers["grpc-message"]
    session.receive(client.call(3, _PATH, b"question"))
    session.answer(3, [b"answer"])
    _pump(session, reader)
    assert reader.answers[3].messages == [b"answer"]


def _answers_count_until_they_have_gone_out(module: Http2) -> None:
    session, reader = _session(module)
    for number in (1, 3):
        session.receive(client.call(number, _PATH, b"question"))
        session.answer(number, [bytes(100_000)])
    _pump(session, reader)
    waiting = 2 * 100_005 - 65_535
    assert session.held == session.unsent == waiting, "the client's window is 65,535 bytes"
    unsent = 100_005 - len(reader.answers[3].content) if 3 in reader.answers else 100_005
    session.receive(client.frame(client.RST_STREAM, 0, 3, (8).to_bytes(4, "big")))
    assert session.held == waiting - unsent
    for stream in (0, 1):
        session.receive(client.frame(client.WINDOW_UPDATE, 0, stream, (2**20).to_bytes(4, "big")))
    _pump(session, reader)
    assert (session.held, reader.answers[1].messages) == (0, [bytes(100_000)])


def _going_away(module: Http2) -> None:
    session, reader = _session(module)
    session.receive(client.call(1, _PATH, b"question"))
    session.go_away(at_once=False)
    _pump(session, reader)
    assert reader.went_away == [2**31 - 1]
    assert _kinds(list(session.receive(client.call(3, _PATH, b"question"))), http2.MESSAGE)
    session.go_away(at_once=True)
    _pump(session, reader)
    assert reader.went_away == [2**31 - 1, 3]
    session.answer(1, [b"answer"])
    session.answer(3, [b"answer"])
    _pump(session, reader)
    assert [reader.answers[each].messages for each in (1, 3)] == [[b"answer"], [b"answer"]]


def _what_is_not_http2_is_an_error(module: Http2) -> None:
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(64)):
        session = module.Session(calls=100, message=100, messages=200, headers=2**13, encodings=_ENCODINGS)
        try:
            session.receive(said)
        except module.ProtocolError:
            continue
        raise AssertionError(f"{said[:20]!r} was taken")


def _a_broken_rule_ends_the_connection(module: Http2) -> None:
    session, reader = _session(module)
    assert not session.over
    session.receive(client.data(0, b"data of no call"))
    _pump(session, reader)
    assert reader.went_away
    assert session.over
