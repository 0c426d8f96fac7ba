"""Thousands of requests that are nearly right, over both protocols: none is answered with a 5xx, and memory stays flat.

REST is driven by the server's own OpenAPI document, gRPC by the descriptors of its messages. TORCHYARD_FUZZ multiplies
the number of cases, for a run that is as long as one likes.
"""

import http.client
import json
import os
from collections.abc import Iterator
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
from tests.unit.server import wire

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


@pytest.fixture(scope="module", params=["perceptron", "words"])
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
    _, running = served
    schema = schemathesis.openapi.from_dict(requests.get(running.url("openapi.json"), timeout=10).json())
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations])
    statuses: dict[int, int] = {}

    with requests.Session() as session:

        @_cases(300)
        @given(case=cases)
        def fuzz(case: Any) -> None:
            response = case.call(base_url=running.url(""), session=session, timeout=30)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.json()["error"]

        fuzz()
    assert 200 in statuses


@pytest.mark.usefixtures("flat")
def test_rest_with_requests_that_are_nearly_right(served: tuple[str, Running]) -> None:
    name, running = served
    host, port = running.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)

    @_cases(700)
    @given(asked=wire.REQUESTS, binary=st.binary(max_size=60), length=st.none() | st.integers(0, 400))
    def fuzz(asked: Any, binary: bytes, length: int | None) -> None:
        head = json.dumps(asked).encode()
        headers = {} if length is None else {"Inference-Header-Content-Length": str(len(head) if binary else length)}
        body = head if length is None else head + binary
        connection.request("POST", f"/v2/models/{name}/infer", body, headers)
        response = connection.getresponse()
        content = response.read()
        assert response.status < 500, content
        if response.status >= 400:
            assert json.loads(content)["error"]

    fuzz()
    connection.close()


@pytest.mark.usefixtures("flat")
def test_grpc_by_its_descriptors(served: tuple[str, Running], protocols: Messages) -> None:
    name, running = served
    service = protocols.pool.FindServiceByName("inference.GRPCInferenceService")
    methods = {each.name: wire.messages_of(protocols, each.input_type) for each in service.methods}
    infer = methods["ModelInfer"].map(lambda message: _addressed(message, name))
    calls = st.one_of(
        infer.map(lambda message: ("ModelInfer", message.SerializeToString())),
        st.sampled_from(sorted(methods)).flatmap(
            lambda method: methods[method].map(lambda message: (method, message.SerializeToString()))
        ),
        st.tuples(st.sampled_from(sorted(methods)), st.binary(max_size=200)),
    )
    answered = {"well": 0, "refused": 0}

    with grpc.insecure_channel(running.grpc) as channel:
        callables = {each: channel.unary_unary(f"/inference.GRPCInferenceService/{each}") for each in methods}

        @_cases(1000)
        @given(call=calls)
        def fuzz(call: tuple[str, bytes]) -> None:
            method, content = call
            try:
                callables[method](content, timeout=30)
                answered["well"] += 1
            except grpc.RpcError as error:
                assert error.code() in _MEANT, f"{method}({content!r}): {error.code()}: {error.details()}"  # noqa: PT017
                assert error.details()  # noqa: PT017
                answered["refused"] += 1

        fuzz()
    assert min(answered.values()) > 10, answered


def _addressed(message: Any, name: str) -> Any:
    """Most requests are for the model that is there; others get no further."""
    message.model_name, message.model_version = name, ""
    return message
