"""Whatever comes in over either protocol is taken or refused as the client's mistake, and nothing else happens."""

import asyncio
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.grpc import protobuf, status
from server.grpc.messages import Messages
from server.grpc.raw import unpacked
from server.model import contract
from server.model.contract import Contract
from server.protocol import compression, request
from server.refusal import Refusal
from tests.unit.server import grpc_frames, models, wire
from tests.unit.server.rpc_stage import INFER, Make

_MANY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
_STRINGS = [{"name": "x", "datatype": "BYTES", "shape": [-1]}]


@pytest.fixture(scope="module", params=["numbers", "strings"])
def described(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Contract:
    folder = tmp_path_factory.mktemp("model")
    changes: dict[str, Any] = {"inputs": _STRINGS} if request.param == "strings" else {}
    return contract.read(models.write(folder, **changes))


def _refused(work: Callable[[], object]) -> int | None:
    """The status of a refusal that says something; None where there was none."""
    try:
        work()
    except Refusal as refusal:
        return refusal.status if str(refusal) else 0
    return None


@_MANY
@given(asked=wire.REQUESTS, binary=st.binary(max_size=60), length=st.none() | st.integers(0, 400))
def test_json_is_taken_or_refused(described: Contract, asked: Any, binary: bytes, length: int | None) -> None:
    head = json.dumps(asked).encode()
    assert _refused(lambda: request.parse(described, head, length)) in {None, 400}
    assert _refused(lambda: request.parse(described, head + binary, len(head))) in {None, 400}


@_MANY
@given(body=st.binary(max_size=200))
def test_bytes_are_taken_or_refused(described: Contract, body: bytes) -> None:
    with pytest.raises(Refusal):
        request.parse(described, body, None)


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_deep_json_is_refused(described: Contract, depth: int, brackets: str) -> None:
    opened, closed = brackets[:-1], brackets[-1]
    body = (opened * depth + "1" + closed * depth).encode()
    with pytest.raises(Refusal, match=r"the body|inputs"):
        request.parse(described, body, None)


@_MANY
@given(content=st.data())
def test_messages_are_taken_or_refused(described: Contract, protocols: Messages, content: st.DataObject) -> None:
    kind = protocols.pool.FindMessageTypeByName("inference.ModelInferRequest")
    message = content.draw(wire.messages_of(protocols, kind))
    rest, raw = unpacked(message.SerializeToString())
    whole = protocols.get("inference.ModelInferRequest").FromString(rest)
    assert [bytes(each) for each in raw] == list(message.raw_input_contents)
    whole.raw_input_contents.extend(map(bytes, raw))
    assert whole.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
    assert _refused(lambda: protobuf.parse(described, message, raw)) in {None, 400}


@_MANY
@given(content=st.binary(max_size=60))
def test_what_is_no_message_is_refused_as_protobuf_does(protocols: Messages, content: bytes) -> None:
    kind = protocols.get("inference.ModelInferRequest")
    try:
        rest, raw = unpacked(content)
    except Refusal as refusal:
        # Groups, which proto3 does not have, are more than is taken.
        if "wire type" not in str(refusal):
            with pytest.raises(DecodeError):
                kind.FromString(content)
    else:
        assert len(rest) + sum(map(len, raw)) <= len(content)


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"\x2a\0" * 5000, 413, "at most 4096 fields"),
        (b"\x2a\x85\x80\x80\x02" + bytes(2**22 + 5), 413, "send the tensors as raw_input_contents"),
        (b"\x3a\x05abc", 400, "ends 2 bytes after the message"),
        (b"\x3a" + b"\xff" * 11, 400, "no number"),
        (b"\x3b", 400, "wire type 3"),
    ],
)
def test_messages_that_would_take_much_memory_are_refused(content: bytes, status: int, told: str) -> None:
    with pytest.raises(Refusal, match=told) as refused:
        unpacked(content)
    assert refused.value.status == status


def test_raw_contents_are_not_copied() -> None:
    content = b"\x3a\x80\x80\x80\x04" + bytes(2**23) + b"\x0a\1x" + b"\x3a\1y"
    rest, raw = unpacked(content)
    assert rest == b"\x0a\1x"
    assert [len(each) for each in raw] == [2**23, 1]
    assert all(each.obj is content for each in raw)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(st.binary(max_size=100), max_size=4), path=st.sampled_from([INFER, "/a/b", "//"]))
def test_frames_never_break_the_connection_badly(make: Make, parts: list[bytes], path: str) -> None:
    stage = make()
    said = b"".join(grpc_frames.data(1, part) for part in parts)
    reader = stage.play(grpc_frames.headers(1, path) + said + grpc_frames.data(1, b"", ends=True))
    assert reader.answers[1].status in {3, 5, 8, 12}
    stage.play(*parts)


@_MANY
@given(content=st.binary(max_size=100), whole=st.booleans(), encoding=st.sampled_from(compression.ENCODINGS))
def test_what_is_inflated_is_bounded(content: bytes, whole: bool, encoding: compression.Encoding) -> None:
    packed = compression.deflate(encoding, content * 50) if whole else content
    found: list[bytes] = []
    refused = _refused(lambda: found.append(compression.inflate("the body", encoding, packed, most=1000)))
    assert refused in {None, 400, 413}
    assert all(len(each) <= 1000 for each in found)
    assert found == [content * 50] or not whole or refused == 413


def test_large_bodies_are_inflated_beside_the_loop() -> None:
    content = bytes(range(256)) * 1000
    for encoding in compression.ENCODINGS:
        packed = asyncio.run(compression.deflated(encoding, content))
        assert asyncio.run(compression.inflated("the body", encoding, packed, most=10**6)) == content
    assert zlib.decompress(packed) == content


@_MANY
@given(value=st.binary(max_size=60))
def test_any_accept_encoding_is_read(value: bytes) -> None:
    assert compression.accepted(value) in {None, "gzip", "deflate"}


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b"gzip, deflate, br", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip;q=0.5, deflate;q=0.9", "deflate"),
        (b"gzip;q=0", None),
        (b"identity", None),
        (b"identity;q=1, gzip;q=0.5", None),
        (b"*", "gzip"),
        (b"", None),
        (b"br;q=1", None),
        (b"GZIP ; q=0.2", "gzip"),
    ],
)
def test_accept_encoding_is_weighed(value: bytes, encoding: str | None) -> None:
    assert compression.accepted(value) == encoding


@_MANY
@given(message=st.text(max_size=100))
def test_details_are_printable_ascii(message: str) -> None:
    said = status.details(message)
    assert said.isascii()
    assert said.isprintable() or not said


def test_the_folder_of_protos_is_where_the_image_takes_it_from() -> None:
    assert [path.name for path in sorted(Path(wire.PROTO).glob("*"))] == [
        "health.proto",
        "inference.proto",
        "reflection.proto",
    ]
