"""The connections of the gRPC server: limits, deadlines, clients that leave, and the end."""

import asyncio
import gzip
import json
import threading
import time
import zlib

import numpy as np
import pytest

from server.grpc import rpc_connection, service
from server.grpc.rpc import Server
from server.grpc.status import Code
from tests.unit.server import grpc_frames
from tests.unit.server.rpc_stage import INFER, MESSAGE, SERVICE, TENSOR, Make, Stage


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        (grpc_frames.call(1, "/nobody/Nothing", b""), 12, "There is no method /nobody/Nothing."),
        (grpc_frames.call(1, INFER, b"", content_type="text/html"), 3, "content-type: expected"),
        (grpc_frames.call(1, INFER, b"", content_type="application/grpc-web"), 3, "got 'application/grpc-web'"),
        (grpc_frames.call(1, INFER, b"", _method="PUT"), 12, "method: expected POST, got PUT"),
        (grpc_frames.call(1, INFER, b"", grpc_timeout="soon"), 3, "grpc-timeout: expected"),
        (grpc_frames.call(1, INFER, b"", grpc_encoding="br"), 12, "grpc-encoding: expected one of gzip"),
        (grpc_frames.headers(1, INFER, ends=True), 3, "takes one message, and none came"),
        (
            grpc_frames.headers(1, INFER) + grpc_frames.data(1, grpc_frames.message(b"") * 2, ends=True),
            3,
            "takes one message, and another one came",
        ),
        (grpc_frames.headers(1, INFER) + grpc_frames.data(1, b"\0\0\0", ends=True), 3, "in the middle of a message"),
        (
            grpc_frames.headers(1, INFER) + grpc_frames.data(1, grpc_frames.message(b"", compressed=True), ends=True),
            3,
            "compressed",
        ),
        (
            grpc_frames.headers(1, INFER) + grpc_frames.data(1, grpc_frames.message(b"", flag=2), ends=True),
            3,
            "first byte is 0, or 1 where it is compressed, and 2 came",
        ),
        (grpc_frames.call(1, INFER, bytes(MESSAGE + 1)), 8, f"A message of {MESSAGE + 1} bytes; at most {MESSAGE}"),
    ],
)
def test_calls_that_are_wrong_below_the_message(stage: Stage, said: bytes, code: int, told: str) -> None:
    answer = stage.play(said).answers[1]
    assert (answer.status, answer.messages) == (code, [])
    assert told in answer.headers["grpc-message"]


@pytest.mark.parametrize(
    ("fields", "http"),
    [
        ({"content_type": "application/grpc+proto"}, "200"),
        ({"content_type": "Application/gRPC ; x=y"}, "200"),
        ({"content_type": "application/grpc;x=y"}, "200"),
        ({"content_type": "application/grpc-web"}, "415"),
        ({"content_type": "application/json"}, "415"),
        ({"_method": "PUT"}, "405"),
        ({"grpc_encoding": "br"}, "200"),
    ],
)
def test_who_does_not_speak_grpc_reads_a_status_of_http(stage: Stage, fields: dict[str, str], http: str) -> None:
    """https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and compression.md"""
    answer = stage.call(f"{SERVICE}/ServerLive", b"", **fields)
    assert (answer.headers[":status"], answer.status == 0) == (http, http == "200" and "grpc_encoding" not in fields)
    assert answer.headers["grpc-accept-encoding"] == "identity,gzip,deflate"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_either_way(make: Make, encoding: str) -> None:
    text = [{"name": "x", "datatype": "BYTES", "shape": [-1]}]
    stage = make("echo", inputs=text, outputs=[{**text[0], "name": "y"}])
    raw = (1920).to_bytes(4, "little") + b"a" * 1920
    content = stage.request(inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}], raw_input_contents=[raw])
    compressed = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    said = grpc_frames.headers(1, INFER, grpc_encoding=encoding)
    said += grpc_frames.data(1, grpc_frames.message(compressed, compressed=True), ends=True)
    answer = stage.play(said).answers[1]
    assert answer.headers["grpc-encoding"] == encoding
    assert answer.content[0] == 1
    (packed,) = answer.messages
    unpacked = gzip.decompress(packed) if encoding == "gzip" else zlib.decompress(packed)
    response = stage.messages.get("inference.ModelInferResponse").FromString(unpacked)
    assert response.raw_output_contents[0] == raw


def test_a_bomb_is_refused_at_the_limit(stage: Stage) -> None:
    bomb = gzip.compress(bytes(100 * MESSAGE))
    said = grpc_frames.headers(1, INFER, grpc_encoding="gzip")
    said += grpc_frames.data(1, grpc_frames.message(bomb, compressed=True), ends=True)
    answer = stage.play(said).answers[1]
    assert answer.status == Code.RESOURCE_EXHAUSTED
    assert f"at most {MESSAGE} bytes are taken" in answer.headers["grpc-message"]


def test_the_earliest_deadline_counts(make: Make) -> None:
    stage = make(deadline=5.0)
    stage.call(INFER, stage.request())
    stage.call(INFER, stage.request(), grpc_timeout="1S")
    stage.call(INFER, stage.request(parameters={"timeout": {"int64_param": 1_000_000}}))
    stage.call(INFER, stage.request(parameters={"timeout": {"uint64_param": 2_000_000}}), grpc_timeout="1H")
    stage.call(INFER, stage.request(), grpc_timeout="1H")
    now = time.monotonic()
    assert [round(deadline - now) for deadline in stage.inference.deadlines if deadline] == [5, 1, 1, 2, 5]


@pytest.mark.parametrize("parameter", [{"int64_param": -1}, {"string_param": "1"}, {"bool_param": True}, {}])
def test_a_timeout_that_is_none_is_refused(make: Make, parameter: dict[str, object]) -> None:
    stage = make()
    answer = stage.call(INFER, stage.request(parameters={"timeout": parameter}))
    assert answer.status == Code.INVALID_ARGUMENT
    assert "parameters.timeout: expected a whole number of microseconds" in answer.headers["grpc-message"]


def test_a_request_that_is_not_complete_by_its_deadline_is_ended(stage: Stage) -> None:
    async def late() -> None:
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.headers(1, INFER, grpc_timeout="1m"))
        await asyncio.sleep(0.05)

    asyncio.run(late())
    assert stage.reader.answers[1].status == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("how", ["reset", "hang up"])
def test_the_work_of_a_client_that_goes_away_is_dropped(
    make: Make, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = make(slow=0)
    stage.inference.waits = True

    async def gone() -> None:
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.call(1, INFER, stage.request()))
        await asyncio.sleep(0.01)
        if how == "reset":
            connection.data_received(grpc_frames.frame(grpc_frames.RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
        else:
            connection.connection_lost(None)
        await asyncio.sleep(0.01)

    asyncio.run(gone())
    assert stage.inference.cancelled == 1
    assert not stage.reader.answers
    assert json.loads(capsys.readouterr().err)["status"] == "CANCELLED"


def test_the_deadline_counts_from_when_the_call_came(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while typed contents wait to be read."""
    monkeypatch.setattr(service, "_LARGE", 10)
    stage, gate = make(deadline=0.05), threading.Event()
    content = stage.request(inputs=[{**TENSOR, "contents": {"fp32_contents": [1, 2, 3]}}], raw_input_contents=[])
    service._BESIDE.submit(gate.wait, 10)
    try:
        answer = stage.play(grpc_frames.call(1, INFER, content), seconds=0.3).answers[1]
    finally:
        gate.set()
    assert (answer.status, stage.inference.deadlines) == (Code.DEADLINE_EXCEEDED, [])
    assert "deadline passed before it was read" in answer.headers["grpc-message"]
    assert (stage.inference.statistics.expired, stage.inference.statistics.fail.count) == (1, 1)


def test_of_too_many_connections_the_idlest_makes_room(stage: Stage) -> None:
    async def many() -> list[bool]:
        (first, one), (second, two), (_, three) = (stage.connect() for _ in range(3))
        assert [one.closed, two.closed, three.closed] == [True, False, False]
        # Until asyncio says that it is closed, the next one takes the place of another.
        assert not stage.connect()[1].closed
        assert two.closed
        for connection in (first, second):
            connection.connection_lost(None)
        for connection in tuple(stage.served.connections):
            connection.data_received(grpc_frames.headers(1, INFER))
        return [stage.connect()[1].closed for _ in range(2)]

    # Whoever has a call keeps its connection.
    assert asyncio.run(many()) == [True, True]


def test_slow_requests_and_idle_connections_are_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.pace._SLOWEST", 16)

    async def slow() -> None:
        connection, transport = stage.connect()
        part = b"\0" + MESSAGE.to_bytes(4, "big") + bytes(MESSAGE // 2)
        connection.data_received(grpc_frames.headers(1, INFER))
        connection.data_received(grpc_frames.headers(3, INFER) + grpc_frames.data(3, part))
        now = asyncio.get_running_loop().time()
        connection.end_slow(now + 30)
        assert not stage.reader.answers
        connection.end_slow(now + 61)
        assert stage.reader.answers[1].status == Code.DEADLINE_EXCEEDED
        # What came is worth two minutes, and earns one.
        connection.end_slow(now + 89)
        assert 3 not in stage.reader.answers
        connection.end_slow(now + 91)
        assert stage.reader.answers[3].status == Code.DEADLINE_EXCEEDED
        assert f"in which {MESSAGE // 2} bytes came" in stage.reader.answers[3].headers["grpc-message"]
        connection.end_slow(now + 500)
        assert not transport.closed
        connection.end_slow(now + 1000)
        assert transport.closed

    asyncio.run(slow())


def test_what_was_written_and_is_not_taken_counts_too(stage: Stage) -> None:
    async def unread() -> None:
        connection, transport = stage.connect()
        now = time.monotonic()
        transport.unsent = 2**20
        for seconds in range(20):
            connection.end_slow(now + seconds)
            transport.unsent -= 2**15
        connection.end_slow(now + 80)
        assert not transport.closed
        connection.end_slow(now + 82)
        assert transport.closed

    asyncio.run(unread())


def test_what_is_on_its_way_to_a_client_that_reads_does_not_make_it_slow(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_connection, "waiting", lambda _: 150)

    async def busy() -> None:
        connection, transport = stage.connect()
        connection.data_received(grpc_frames.call(1, "/grpc.health.v1.Health/Watch", b""))
        now = time.monotonic()
        for seconds in range(0, 600, 5):
            connection.end_slow(now + seconds)
        assert not transport.closed
        connection.connection_lost(None)

    asyncio.run(busy())


def test_a_session_that_cannot_say_anything_ends_its_connection(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def outgoing() -> bytes:
        raise MemoryError

    async def said() -> None:
        connection, transport = stage.connect()
        monkeypatch.setattr(connection._session, "outgoing", outgoing)
        connection.data_received(grpc_frames.call(1, "/grpc.health.v1.Health/Check", b""))
        for _ in range(20):
            await asyncio.sleep(0)
        assert transport.closed

    asyncio.run(said())


@pytest.mark.parametrize(("watches", "speed"), [(False, 2**14), (True, 2**14), (True, 3 * 2**13)])
def test_who_does_not_read_his_answer_is_ended_and_who_reads_slowly_is_not(
    make: Make, watches: bool, speed: int
) -> None:
    """Nor does he who read fast before have longer than others from then on."""
    stage = make(held=10**6)
    rows = np.ones((300, 3), np.float32)
    asked = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": [300, 3]}], raw_input_contents=[rows.tobytes()]
    )
    # The client's window of 65,535 bytes takes the first ones.
    numbers = range(3, 203, 2)
    update = grpc_frames.frame(grpc_frames.WINDOW_UPDATE, 0, 0, speed.to_bytes(4, "big"))

    async def unread() -> None:
        connection, transport = stage.connect()
        if watches:
            connection.data_received(grpc_frames.call(1, "/grpc.health.v1.Health/Watch", b""))
        for number in numbers:
            connection.data_received(grpc_frames.call(number, INFER, asked))
            await asyncio.sleep(0)
        now = time.monotonic()
        connection.end_slow(now)
        for seconds in range(1, 13):
            connection.data_received(update)
            connection.end_slow(now + seconds)
        connection.end_slow(now + 12 + 59)
        assert stage.served.held.now
        assert not transport.closed
        connection.end_slow(now + 12 + 62)
        assert transport.closed
        connection.connection_lost(None)
        assert stage.served.held.now == 0

    asyncio.run(unread())


def test_what_is_no_call_of_grpc_at_all_reads_so_first(stage: Stage) -> None:
    answer = stage.call("/v2/health/live", _method="GET")
    assert (answer.headers[":status"], answer.status) == ("405", Code.UNIMPLEMENTED)


def test_draining_sends_clients_elsewhere_and_finishes_what_was_accepted(stage: Stage) -> None:
    stage.inference.waits = True

    async def drained() -> None:
        server = Server(stage.served)
        connection, transport = stage.connect()
        connection.data_received(grpc_frames.call(1, INFER, stage.request()))
        connection.data_received(grpc_frames.headers(3, "/grpc.health.v1.Health/Watch"))
        await asyncio.sleep(0)
        server.drain()
        assert stage.reader.went_away == [2**31 - 1]
        server.stop(0.05)
        await server.stopped()
        assert stage.reader.answers[3].status == Code.UNAVAILABLE
        assert 1 not in stage.reader.answers
        assert transport.closed

    asyncio.run(drained())


def test_a_connection_that_is_made_while_draining_answers_and_sends_its_client_elsewhere(stage: Stage) -> None:
    async def drained() -> None:
        Server(stage.served).drain()
        connection, transport = stage.connect()
        # Not before a call came: a client that has just been given the connection would find it useless.
        assert stage.reader.went_away == []
        for number in (1, 3):
            connection.data_received(grpc_frames.call(number, INFER, stage.request()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert stage.reader.went_away == [2**31 - 1]
        assert [stage.reader.answers[number].status for number in (1, 3)] == [Code.OK, Code.OK]
        assert not transport.closed

    asyncio.run(drained())
