"""Thousands of requests that are nearly right, over both protocols: none is answered with a 5xx, and memory stays flat.

REST is driven by the server's own OpenAPI document, gRPC by the descriptors of its messages, and both by what the model
says that it takes; compressed and in chunks, and over gRPC's streams, too. TORCHYARD_FUZZ multiplies the number of
cases, for a run that is as long as one likes.
"""

import http.client
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from server.grpc.messages import Messages
from tests.containers.conftest import Running, Start
from tests.unit.server import grpc_frames, wire

SERVICE = "inference.GRPCInferenceService"
LENGTH = "Inference-Header-Content-Length"
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
_TIMES = int(os.environ.get("TORCHYARD_FUZZ", "1"))
# What the first requests make a server keep for ever, and what an allocator holds back.
_GROWTH = 24 * 2**20
_MEANT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
}


def _cases(count: int) -> settings:
    """Without shrinking: a failure is shown as it is, and the next run finds a smaller one."""
    return settings(
        max_examples=count * _TIMES,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )


@pytest.fixture(scope="module", params=["perceptron", "words", "every"])
def served(request: pytest.FixtureRequest, start: Start, archives: Path) -> Iterator[tuple[str, Running]]:
    with start(archives / request.param) as running:
        running.wait_until_ready()
        yield request.param, running


@pytest.fixture(scope="module")
def protocols(tmp_path_factory: pytest.TempPathFactory) -> Messages:
    return wire.compiled(tmp_path_factory.mktemp("proto"))


def _resident(running: Running) -> float:
    lines = requests.get(running.url("metrics"), timeout=10).text.splitlines()
    return float(next(line for line in lines if line.startswith("process_resident_memory_bytes ")).split()[1])


@pytest.fixture
def flat(served: tuple[str, Running]) -> Iterator[None]:
    """Fails where the server holds more afterwards than before."""
    _, running = served
    before = _resident(running)
    yield
    grown = _resident(running) - before
    assert grown < _GROWTH * max(1, _TIMES**0.5), f"{grown / 2**20:.0f} MiB more"


@pytest.mark.usefixtures("flat")
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_rest_by_its_openapi_document(served: tuple[str, Running], mode: GenerationMode) -> None:
    name, running = served
    schema = schemathesis.openapi.from_dict(requests.get(running.url("openapi.json"), timeout=10).json())
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations])
    statuses: dict[int, int] = {}

    with requests.Session() as session:
        # Schemathesis takes long for fifteen tensors, which are alike.
        @_cases(100 if name == "every" else 300)
        @given(case=cases)
        def fuzz(case: Any) -> None:
            response = case.call(base_url=running.url(""), session=session, timeout=30)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.json()["error"]

        fuzz()
    # What is wrong is seldom right by chance.
    assert (200 if mode is GenerationMode.POSITIVE else 400) in statuses


@pytest.mark.usefixtures("flat")
def test_rest_with_requests_that_are_nearly_right(served: tuple[str, Running]) -> None:
    name, running = served
    host, port = running.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    statuses: Counter[int] = Counter()

    def ask(body: bytes, headers: dict[str, str]) -> None:
        connection.request("POST", f"/v2/models/{name}/infer", body, headers)
        statuses[_meant(connection.getresponse())] += 1

    @_cases(400)
    @given(asked=wire.REQUESTS, binary=st.binary(max_size=60), length=st.none() | st.integers(0, 400))
    def fuzz(asked: Any, binary: bytes, length: int | None) -> None:
        head = json.dumps(asked).encode()
        headers = {} if length is None else {LENGTH: str(len(head) if binary else length)}
        ask(head if length is None else head + binary, headers)

    @_cases(400)
    @given(asked=wire.nearly(_inputs(running, name)))
    def fuzz_the_models_own(asked: tuple[Any, bytes]) -> None:
        ask(*_binary(asked))

    @_cases(300)
    @given(asked=wire.nearly(_inputs(running, name)), content=st.data())
    def fuzz_compressed(asked: tuple[Any, bytes], content: st.DataObject) -> None:
        body, headers = _binary(asked)
        encoding, squeezed = content.draw(wire.squeezed(body))
        ask(squeezed, headers | {"Content-Encoding": encoding})

    fuzz()
    for each in (fuzz_the_models_own, fuzz_compressed):
        statuses.clear()
        each()
        assert min(statuses[200], statuses[400]) > 20, statuses
    connection.close()


@pytest.mark.usefixtures("flat")
def test_rest_in_chunks_that_are_nearly_right(served: tuple[str, Running]) -> None:
    name, running = served
    host, port = running.address.split(":")
    statuses: Counter[int] = Counter()

    @_cases(150)
    @given(asked=wire.nearly(_inputs(running, name)), content=st.data())
    def fuzz(asked: tuple[Any, bytes], content: st.DataObject) -> None:
        body, headers = _binary(asked)
        chunks, whole = content.draw(wire.chunked(body))
        fields = {"Host": host, "Connection": "close", "Transfer-Encoding": "chunked", **headers}
        lines = [f"POST /v2/models/{name}/infer HTTP/1.1", *(f"{key}: {value}" for key, value in fields.items())]
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall("\r\n".join([*lines, "\r\n"]).encode() + chunks)
            # A chunk that announces more than comes is waited for.
            connection.settimeout(30 if whole else 0.25)
            response = http.client.HTTPResponse(connection, method="POST")
            try:
                response.begin()
            except TimeoutError:
                assert not whole
                statuses[0] += 1
                return
            statuses[_meant(response)] += 1

    fuzz()
    assert min(statuses[200], statuses[400]) > 10, statuses


def _meant(response: http.client.HTTPResponse) -> int:
    """The status, which is one that is meant, with an error's text where it is one."""
    content = response.read()
    assert response.status < 500, content
    if response.status >= 400:
        assert json.loads(content)["error"]
    return response.status


def _inputs(running: Running, name: str) -> list[dict[str, Any]]:
    """What the model says that it takes."""
    metadata = requests.get(running.url(f"v2/models/{name}"), timeout=10).json()
    return list(metadata["inputs"])


def _binary(asked: tuple[Any, bytes]) -> tuple[bytes, dict[str, str]]:
    """The body of a request, and the field that says where its JSON ends."""
    head, content = json.dumps(asked[0]).encode(), asked[1]
    return (head + content, {LENGTH: str(len(head))}) if content else (head, {})


@pytest.mark.usefixtures("flat")
def test_grpc_by_its_descriptors(served: tuple[str, Running], protocols: Messages) -> None:
    name, running = served
    service = protocols.pool.FindServiceByName(SERVICE)
    methods = {each.name: wire.messages_of(protocols, each.input_type) for each in service.methods}
    infer = methods["ModelInfer"].map(lambda message: _addressed(message, name))
    nearly = wire.nearly_a_message(protocols, _inputs(running, name)).map(lambda message: _addressed(message, name))
    calls = st.one_of(
        nearly.map(lambda message: ("ModelInfer", message.SerializeToString())),
        infer.map(lambda message: ("ModelInfer", message.SerializeToString())),
        st.sampled_from(sorted(methods)).flatmap(
            lambda method: methods[method].map(lambda message: (method, message.SerializeToString()))
        ),
        st.tuples(st.sampled_from(sorted(methods)), st.binary(max_size=200)),
    )
    answered = Counter[str]()

    with grpc.insecure_channel(running.grpc) as channel:
        callables = {each: channel.unary_unary(f"/{SERVICE}/{each}") for each in methods}

        @_cases(1000)
        @given(call=calls)
        def fuzz(call: tuple[str, bytes]) -> None:
            method, content = call
            try:
                callables[method](content, timeout=30)
                answered[f"{method} well"] += 1
            except grpc.RpcError as error:
                assert error.code() in _MEANT, f"{method}({content!r}): {error.code()}: {error.details()}"  # noqa: PT017
                assert error.details()  # noqa: PT017
                answered[f"{method} refused"] += 1

        fuzz()
    assert min(answered["ModelInfer well"], answered["ModelInfer refused"]) > 20, answered


@pytest.mark.usefixtures("flat")
def test_grpc_with_compressed_messages_that_are_nearly_right(served: tuple[str, Running], protocols: Messages) -> None:
    name, running = served
    nearly = wire.nearly_a_message(protocols, _inputs(running, name)).map(lambda message: _addressed(message, name))
    codes: Counter[int] = Counter()

    with _calling(running) as calling:

        @_cases(400)
        @given(message=nearly, content=st.data())
        def fuzz(message: Any, content: st.DataObject) -> None:
            encoding, squeezed = content.draw(wire.squeezed(message.SerializeToString()))
            framed = grpc_frames.message(squeezed, compressed=content.draw(st.sampled_from((True, True, True, False))))
            sent = content.draw(wire.damaged(framed)) if content.draw(st.integers(0, 5)) == 0 else framed
            answer = calling.call(f"/{SERVICE}/ModelInfer", sent, encoding=encoding)
            codes[_code(answer, sent)] += 1

        fuzz()
    assert min(codes[0], codes[INVALID]) > 20, codes


@pytest.mark.usefixtures("flat")
@pytest.mark.parametrize(
    ("path", "request_type"),
    [
        ("/grpc.health.v1.Health/Watch", "grpc.health.v1.HealthCheckRequest"),
        (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflectionRequest",
        ),
    ],
    ids=["watch", "reflection"],
)
def test_grpcs_streams(served: tuple[str, Running], protocols: Messages, path: str, request_type: str) -> None:
    _, running = served
    kind = protocols.pool.FindMessageTypeByName(request_type)
    meant = wire.messages_of(protocols, kind).map(lambda message: message.SerializeToString())
    named = st.sampled_from((*protocols.services, *protocols.files)).map(_about(protocols, request_type))
    messages = st.lists(meant | named | st.binary(max_size=40), max_size=20)
    codes: Counter[int] = Counter()
    answered = 0

    with _calling(running) as calling:

        @_cases(200)
        @given(contents=messages, content=st.data())
        def fuzz(contents: list[bytes], content: st.DataObject) -> None:
            nonlocal answered
            sent = b"".join(grpc_frames.message(each) for each in contents)
            if content.draw(st.integers(0, 3)) == 0:
                sent = content.draw(wire.damaged(sent))
            # A watch has no end of its own.
            answer = calling.call(path, sent, enough="Watch" in path)
            answered += len(answer.messages)
            if answer.ended:
                codes[_code(answer, sent)] += 1

        fuzz()
    assert answered > 20
    assert codes[INVALID] > 5, codes


def _about(protocols: Messages, request_type: str) -> Callable[[str], bytes]:
    """A request about what is there."""
    field = "service" if "health" in request_type else "file_containing_symbol"
    return lambda name: bytes(protocols.get(request_type)(**{field: name}).SerializeToString())


def _code(answer: grpc_frames.Answer, sent: bytes) -> int:
    """The code of a call that has ended, which is one that is meant, with details where it is no OK."""
    assert answer.reset is None, f"{sent!r}: reset with {answer.reset}"
    if answer.status:
        told = f"{sent!r}: {answer.status}: {answer.headers.get('grpc-message')}"
        assert answer.status in {code.value[0] for code in _MEANT}, told
        assert answer.headers["grpc-message"], told
    return answer.status


class _Calling:
    """Makes one call after the other on a connection, of frames that no client library would send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        # A call after one that was cancelled would wait for the acknowledgement of that.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = grpc_frames.Reader()
        self._stream = -1
        # Answers of any size have room at once.
        widest = (2**31 - 1).to_bytes(4, "big")
        settings = grpc_frames.frame(grpc_frames.SETTINGS, 0, 0, b"\0\4" + widest)
        room = grpc_frames.frame(grpc_frames.WINDOW_UPDATE, 0, 0, (2**31 - 2**16).to_bytes(4, "big"))
        connection.sendall(grpc_frames.PREFACE + settings + room)

    def call(
        self, path: str, content: bytes, *, enough: bool = False, encoding: str = "identity"
    ) -> grpc_frames.Answer:
        """The answer to a call, up to its end, or to its first message if that is `enough`."""
        self._stream += 2
        answer = self._reader.answers[self._stream] = grpc_frames.Answer()
        opening = grpc_frames.headers(self._stream, path, grpc_encoding=encoding)
        self._connection.sendall(opening + grpc_frames.data(self._stream, content, ends=True))
        while not answer.ended and answer.reset is None and not (enough and answer.messages):
            said = self._connection.recv(2**16)
            assert said, f"{path} {content!r}: the server closed the connection"
            self._reader.take(said)
        if not answer.ended:
            cancel = (8).to_bytes(4, "big")
            self._connection.sendall(grpc_frames.frame(grpc_frames.RST_STREAM, 0, self._stream, cancel))
        return answer


@contextmanager
def _calling(running: Running) -> Iterator[_Calling]:
    host, port = running.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield _Calling(connection)


def _addressed(message: Any, name: str) -> Any:
    """Most requests are for the model that is there; others get no further."""
    message.model_name, message.model_version = name, ""
    return message
