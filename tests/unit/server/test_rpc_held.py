"""The bytes that the gRPC server holds for its clients: what counts, what is refused, and what is let go of."""

import asyncio
import copy
import gc
import gzip
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from server.grpc import rpc_connection
from server.grpc.calls import Call
from server.grpc.status import Code, Failed
from server.refusal import Refusal
from tests.unit.server import grpc_frames
from tests.unit.server.rpc_stage import INFER, MESSAGE, SERVICE, Make, Stage


def test_all_messages_together_are_bounded(make: Make) -> None:
    stage = make(held=MESSAGE)
    part = b"\0" + MESSAGE.to_bytes(4, "big") + bytes(MESSAGE - 100)

    async def two() -> None:
        first, second = stage.connect()[0], stage.connect()[0]
        for connection in (first, second):
            connection.data_received(grpc_frames.headers(1, INFER) + grpc_frames.data(1, part))
        assert stage.served.held.now < MESSAGE
        first.connection_lost(None)
        assert stage.served.held.now == 0

    asyncio.run(two())
    assert stage.reader.answers[1].status == Code.RESOURCE_EXHAUSTED
    assert "holds as many bytes of messages as it may" in stage.reader.answers[1].headers["grpc-message"]


def test_a_whole_message_counts_until_its_call_is_answered(make: Make) -> None:
    """Also where its call does not end, or waits for the model: it is memory all the same."""
    stage = make(held=2 * MESSAGE)
    part = grpc_frames.message(bytes(MESSAGE - 100))

    async def many() -> None:
        connections = [stage.connect()[0] for _ in range(2)]
        for connection in connections:
            for number in (1, 3):
                connection.data_received(grpc_frames.headers(number, INFER) + grpc_frames.data(number, part))
            assert stage.served.held.now <= 2 * MESSAGE
        assert stage.reader.answers[1].status == stage.reader.answers[3].status == Code.RESOURCE_EXHAUSTED
        for connection in connections:
            connection.connection_lost(None)
        assert stage.served.held.now == 0
        stage.inference.waits = True
        connection = stage.connect()[0]
        connection.data_received(grpc_frames.call(1, INFER, stage.request()))
        await asyncio.sleep(0.01)
        assert stage.served.held.now == len(stage.request())
        connection.connection_lost(None)
        assert stage.served.held.now == 0

    asyncio.run(many())


def test_answers_that_nobody_reads_count_and_further_ones_are_refused(make: Make) -> None:
    stage = make(held=20_000)
    rows = np.ones((300, 3), np.float32)
    asked = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": list(rows.shape)}], raw_input_contents=[rows.tobytes()]
    )

    async def unread() -> None:
        connection = stage.connect()[0]
        for number in range(1, 61, 2):
            connection.data_received(grpc_frames.call(number, INFER, asked))
            await asyncio.sleep(0.001)
            assert stage.served.held.now <= 20_000
        # What the client's window of 65,535 bytes takes has gone out, and the refusals wait behind it.
        assert stage.served.held.now > 20_000 - 2 * rows.nbytes
        for stream in (0, *range(1, 61, 2)):
            connection.data_received(
                grpc_frames.frame(grpc_frames.WINDOW_UPDATE, 0, stream, (2**20).to_bytes(4, "big"))
            )
        assert stage.served.held.now == 0
        connection.connection_lost(None)

    asyncio.run(unread())
    statuses = [answer.status for answer in stage.reader.answers.values()]
    assert len(statuses) == 30
    assert set(statuses) == {Code.OK, Code.RESOURCE_EXHAUSTED}


def test_an_answer_counts_until_it_is_compressed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, held = make(), list[int]()

    async def deflated(_: str, *answer: bytes) -> bytes:
        held.append(stage.served.held.now - sum(map(len, answer)))
        return b"x"

    monkeypatch.setattr(rpc_connection, "deflated", deflated)
    rows = np.ones((300, 3), np.float32)
    asked = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": [300, 3]}], raw_input_contents=[rows.tobytes()]
    )
    packed = gzip.compress(asked)
    said = grpc_frames.headers(1, INFER, grpc_encoding="gzip")
    said += grpc_frames.data(1, grpc_frames.message(packed, compressed=True), ends=True)
    assert stage.play(said).answers[1].messages == [b"x"]
    assert (held, stage.served.held.now) == ([len(packed) + len(asked)], 0)


def test_answers_that_are_ready_together_count_one_after_the_other(make: Make) -> None:
    """Also before any of them is handed to the transport."""
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in ("y", "z")]
    stage = make("pair", held=30_000, outputs=outputs)
    rows = np.ones((300, 3), np.float32)
    asked = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": list(rows.shape)}], raw_input_contents=[rows.tobytes()]
    )

    async def together() -> None:
        connection = stage.connect()[0]
        # The client's window of 65,535 bytes takes the first ones.
        for number in range(1, 19, 2):
            connection.data_received(grpc_frames.call(number, INFER, asked))
            await asyncio.sleep(0.001)
        stage.inference.gate = asyncio.Event()
        for number in range(21, 31, 2):
            connection.data_received(grpc_frames.call(number, INFER, asked))
        await asyncio.sleep(0.001)
        stage.inference.gate.set()
        await asyncio.sleep(0.001)
        assert 30_000 - 2 * rows.nbytes - 1000 < stage.served.held.now <= 30_000
        connection.connection_lost(None)
        assert stage.served.held.now == 0

    asyncio.run(together())


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_an_answer_that_would_never_fit_is_sent_where_nothing_else_is_held(make: Make, encoding: str) -> None:
    rows = np.random.default_rng(0).random((200, 3), np.float32)
    stage = make()
    content = stage.request(
        inputs=[{"name": "x", "datatype": "FP32", "shape": list(rows.shape)}], raw_input_contents=[rows.tobytes()]
    )
    sent = gzip.compress(content) if encoding else content
    # Room for the request, as it came and as it became, and half of the answer.
    held = len(content) + (len(sent) if encoding else 0) + rows.nbytes // 2
    stage.served.held.most = held
    data = grpc_frames.data(1, grpc_frames.message(sent, compressed=bool(encoding)), ends=True)
    assert stage.play(grpc_frames.headers(1, INFER, grpc_encoding=encoding) + data).answers[1].status == Code.OK


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is let go of goes at once, or it does not go."""
    gc.disable()
    yield
    gc.enable()


class Seen(bytearray):
    """Bytes that can be seen to go."""


@pytest.mark.parametrize("error", [Refusal(400, "no"), Failed(Code.NOT_FOUND, "no"), ZeroDivisionError()])
@pytest.mark.usefixtures("no_collector")
def test_what_a_refused_call_held_is_let_go_of_at_once(stage: Stage, error: Exception) -> None:
    kept = list[weakref.ref[Seen]]()

    async def refuse(content: bytes, _: Call) -> list[bytes]:
        seen = Seen(content)
        kept.append(weakref.ref(seen))
        raise copy.copy(error)

    stage.served.unary = {INFER.encode(): refuse}
    assert stage.play(*(grpc_frames.call(number, INFER, b"?") for number in (1, 3))).answers[3].status
    assert [each() for each in kept] == [None, None]


@pytest.mark.usefixtures("no_collector")
def test_a_refused_message_is_let_go_of_at_once(stage: Stage) -> None:
    kept = list[weakref.ref[Seen]]()

    async def refuse() -> None:
        infer = stage.served.unary[INFER.encode()]
        content: Any
        for content in (Seen(b"no message"), Seen(stage.request(model_name="other"))):
            kept.append(weakref.ref(content))
            call = Call(number=1, path=b"", unary=infer, encoding=b"", opened=time.monotonic())
            with pytest.raises((Failed, Refusal)):
                await infer(content, call)

    asyncio.run(refuse())
    assert [each() for each in kept] == [None, None]


def test_a_message_counts_as_large_as_it_becomes(make: Make) -> None:
    stage = make(held=MESSAGE)
    small = gzip.compress(bytes(MESSAGE - 10))
    assert len(small) < 100
    content = grpc_frames.headers(1, INFER, grpc_encoding="gzip")
    content += grpc_frames.data(1, grpc_frames.message(small, compressed=True), ends=True)

    async def one() -> None:
        connection = stage.connect()[0]
        stage.served.held.now = 20
        connection.data_received(content)
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert stage.served.held.now == 20

    asyncio.run(one())
    assert stage.reader.answers[1].status == Code.RESOURCE_EXHAUSTED
    assert "holds as many bytes of messages as it may" in stage.reader.answers[1].headers["grpc-message"]


def test_a_stream_takes_questions_only_and_lets_go_of_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make()
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

    async def asking() -> None:
        connection = stage.connect()[0]
        connection.data_received(grpc_frames.headers(1, path))
        for _ in range(3):
            connection.data_received(grpc_frames.data(1, grpc_frames.message(b"\x3a\x00")))
            assert stage.served.held.now == 2
            for _ in range(10):
                await asyncio.sleep(0)
            assert stage.served.held.now == 0
        connection.connection_lost(None)

    asyncio.run(asking())
    monkeypatch.setattr(rpc_connection, "_STREAMED", 100)
    answer = stage.play(grpc_frames.headers(1, path) + grpc_frames.data(1, grpc_frames.message(bytes(101)))).answers[1]
    assert answer.status == Code.RESOURCE_EXHAUSTED
    assert "This stream takes messages of 100 bytes" in answer.headers["grpc-message"]


def test_a_stream_whose_answers_nobody_reads_is_ended(make: Make) -> None:
    stage = make(held=10**6)
    asked = grpc_frames.message(b"\x3a\x00") * 10

    async def unread() -> None:
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.headers(1, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"))
        for _ in range(1000):
            connection.data_received(grpc_frames.data(1, asked))
            for _ in range(12):
                await asyncio.sleep(0)
        # What the client's window of 65,535 bytes takes, and as much again.
        assert stage.served.held.now < 2**17
        connection.data_received(grpc_frames.frame(grpc_frames.WINDOW_UPDATE, 0, 0, (2**20).to_bytes(4, "big")))
        connection.data_received(grpc_frames.frame(grpc_frames.WINDOW_UPDATE, 0, 1, (2**20).to_bytes(4, "big")))
        connection.connection_lost(None)

    asyncio.run(unread())
    assert stage.reader.answers[1].status == Code.RESOURCE_EXHAUSTED


class Huge(bytes):
    """As long as no message of protobuf's may be."""

    def __len__(self) -> int:
        return 2**31


def test_an_answer_that_no_message_can_hold_is_refused(stage: Stage) -> None:
    async def answer(_: bytes, __: Call) -> list[bytes]:
        return [Huge()]

    stage.served.unary = {INFER.encode(): answer}
    refused = stage.call(INFER)
    assert refused.status == Code.RESOURCE_EXHAUSTED
    assert "ask for fewer rows" in refused.headers["grpc-message"]


def test_questions_about_the_server_are_answered_however_many_bytes_are_held(make: Make) -> None:
    stage = make(held=2 * MESSAGE)
    part = b"\0" + MESSAGE.to_bytes(4, "big") + bytes(MESSAGE - 1)
    small = grpc_frames.message(b"")
    live = f"{SERVICE}/ServerLive"

    async def full() -> None:
        stage.served.held.now = 2 * MESSAGE
        connection, _ = stage.connect()
        connection.data_received(grpc_frames.headers(1, live) + grpc_frames.data(1, small[:2]))
        connection.data_received(grpc_frames.call(3, "/grpc.health.v1.Health/Check", b""))
        connection.data_received(grpc_frames.headers(5, "/grpc.health.v1.Health/Watch"))
        connection.data_received(grpc_frames.data(5, small))
        connection.data_received(grpc_frames.headers(7, INFER) + grpc_frames.data(7, part))
        connection.data_received(grpc_frames.data(1, small[2:], ends=True))
        await asyncio.sleep(0.01)
        connection.connection_lost(None)

    asyncio.run(full())
    answers = stage.reader.answers
    assert [answers[number].status for number in (1, 3, 7)] == [Code.OK, Code.OK, Code.RESOURCE_EXHAUSTED]
    assert answers[5].messages
    assert not answers[5].ended
