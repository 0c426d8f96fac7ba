"""An image under the production contract, once for all tests, and what its contract promises."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from docker.models.containers import Container
from numpy.typing import NDArray
from safetensors.numpy import load
from testcontainers.core.container import DockerContainer
from tritonclient.utils import deserialize_bytes_tensor

from pipeline.artifacts import Limits
from pipeline.engine.containers import uninterrupted
from pipeline.engine.docker import DockerEngine, connect, production

PORT = 8080
GRPC_PORT = 8081
# An image is given this long to load, replay its samples and warm up.
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Inputs by name and the answers that the trained model gave to them; strings are arrays of objects.

    `rounding` is what each output of a probe may be off by beyond the tolerance.
    """

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    rounding: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A container that is ready: where it listens for HTTP and for gRPC, the seconds that took, and its health right
    after the start."""

    container: Container
    address: str
    grpc_address: str
    ready_after: float
    health_at_start: str

    def health(self) -> str:
        """The engine's word for the health check's last results: starting, healthy or unhealthy."""
        self.container.reload()
        return str(self.container.attrs["State"]["Health"]["Status"])

    def url(self, path: str) -> str:
        """The URL of a path below the server's root."""
        return f"http://{self.address}/{path}"

    def log(self) -> str:
        """The container's last lines."""
        return str(self.container.logs(tail=20).decode(errors="replace"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--image", required=True, help="the serving image, by tag or id")
    parser.addoption("--probes", default="", help="probes.safetensors of the export, which are not in the image")
    parser.addoption("--memory", type=int, default=1024, help="MiB")
    parser.addoption("--cpus", type=float, default=1.0, help="cores")
    parser.addoption("--pids", type=int, default=256, help="processes and threads")


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    return connect()


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("image"))


@pytest.fixture(scope="session")
def limits(request: pytest.FixtureRequest) -> Limits:
    option = request.config.getoption
    return Limits(memory=option("memory"), cpus=option("cpus"), pids=option("pids"))


@pytest.fixture(scope="session")
def contract(engine: DockerEngine, image: str) -> dict[str, Any]:
    found = engine.find(image)
    assert found, f"there is no image {image}"
    answer: dict[str, Any] = json.loads(found.labels["io.torchyard.contract"])
    return answer


@pytest.fixture(scope="session")
def samples(engine: DockerEngine, image: str, contract: dict[str, Any]) -> list[Sample]:
    content = engine.read_file(image, "/model/samples.safetensors")
    assert content, "the image has no samples"
    return _gathered(content, contract)


@pytest.fixture(scope="session")
def probes(request: pytest.FixtureRequest, contract: dict[str, Any]) -> list[Sample]:
    path = str(request.config.getoption("probes"))
    if not path:
        return []
    names = [tensor["name"] for tensor in contract["outputs"]]
    found, rounding = _gathered(Path(path).read_bytes(), contract), contract.get("probes", {}).get("rounding")
    if rounding is None:
        return found
    named = [dict(zip(names, most, strict=True)) for most in rounding]
    return [replace(probe, rounding=each) for probe, each in zip(found, named, strict=True)]


def _gathered(content: bytes, contract: dict[str, Any]) -> list[Sample]:
    strings = {
        f"{side}/{tensor['name']}"
        for side in ("input", "output")
        for tensor in contract[f"{side}s"]
        if tensor["datatype"] == "BYTES"
    }
    gathered: dict[int, Sample] = {}
    for key, tensor in load(content).items():
        index, side, name = key.split("/", 2)
        sample = gathered.setdefault(int(index), Sample(inputs={}, outputs={}))
        value = _strings(tensor) if f"{side}/{name}" in strings else tensor
        (sample.inputs if side == "input" else sample.outputs)[name] = value
    return [gathered[index] for index in sorted(gathered)]


def _strings(content: NDArray[Any]) -> NDArray[Any]:
    """Samples keep strings as the bytes that go over the wire."""
    return text(deserialize_bytes_tensor(content.tobytes()))


@contextmanager
def _running(image: str, limits: Limits, engine: DockerEngine) -> Iterator[Serving]:
    settings = production(limits, engine.serving_network())
    server = DockerContainer(image)
    server.tmpfs = settings.pop("tmpfs")
    server.ports = {f"{port}/tcp": ("127.0.0.1", 0) for port in (PORT, GRPC_PORT)}  # type: ignore[misc]
    started = time.monotonic()
    with _started(server.with_kwargs(**settings)):
        container = server.get_wrapped_container()
        container.reload()
        address, grpc_address = (_published(container, port) for port in (PORT, GRPC_PORT))
        health = str(container.attrs["State"]["Health"]["Status"])
        seconds = _wait_until_ready(container, address, started)
        yield Serving(
            container=container,
            address=address,
            grpc_address=grpc_address,
            ready_after=seconds,
            health_at_start=health,
        )


@contextmanager
def _started(server: DockerContainer) -> Iterator[None]:
    """A container that is stopped and removed at the end, whenever an interruption comes."""
    with ExitStack() as stack:
        with uninterrupted():
            server.start()
            stack.callback(_stop, server)
        yield


def _stop(server: DockerContainer) -> None:
    with uninterrupted():
        server.stop()


def _published(container: Container, port: int) -> str:
    bindings = container.ports[f"{port}/tcp"]
    assert bindings, f"port {port} is not published"
    return f"127.0.0.1:{bindings[0]['HostPort']}"


def _wait_until_ready(container: Container, address: str, started: float) -> float:
    """Waits until ready answers 200; returns the seconds since the start."""
    while time.monotonic() - started < READY_SECONDS:
        try:
            if requests.get(f"http://{address}/v2/health/ready", timeout=5).ok:
                return time.monotonic() - started
        except requests.ConnectionError:
            container.reload()
            assert container.status == "running", container.logs(tail=20).decode(errors="replace")
        time.sleep(0.02)
    raise AssertionError(f"not ready after {READY_SECONDS:.0f} s:\n{container.logs(tail=20).decode(errors='replace')}")


@pytest.fixture(scope="session")
def serving(image: str, limits: Limits, engine: DockerEngine) -> Iterator[Serving]:
    """One container for all tests that leave it as they found it."""
    with _running(image, limits, engine) as server:
        yield server


@pytest.fixture
def short_lived(image: str, limits: Limits, engine: DockerEngine) -> Iterator[Serving]:
    """A container of its own, for a test that stops it."""
    with _running(image, limits, engine) as server:
        yield server


def text(strings: NDArray[Any]) -> NDArray[Any]:
    """An array of str; out of binary tensors, tritonclient gives bytes."""
    return np.array([each.decode() if isinstance(each, bytes) else each for each in strings], dtype=np.object_)


class Deviation:
    """Gathers how far one output is from what is expected, at most, over many answers; strings that differ are 1."""

    def __init__(self) -> None:
        self._absolute = self._relative = 0.0
        self._equal = True
        self._agreeing = self._rows = 0

    def add(self, answer: NDArray[Any], expected: NDArray[Any]) -> None:
        """Counts an answer in; it has the expected shape."""
        assert answer.shape == expected.shape
        if expected.dtype == np.object_:
            answer, expected = (text(answer) == expected).astype(np.int8), np.ones(expected.shape, np.int8)
        self._equal &= answer.tobytes() == expected.tobytes()
        one, other = (each.astype(np.float64) for each in (answer, expected))
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        apart = np.where(same, 0.0, np.abs(np.where(same, 0.0, one) - np.where(same, 0.0, other)))
        scale = np.abs(other)
        self._absolute = max(self._absolute, float(apart.max(initial=0.0)))
        self._relative = max(self._relative, float((apart[scale > 0] / scale[scale > 0]).max(initial=0.0)))
        if expected.dtype.kind == "f" and expected.ndim >= 2 and expected.shape[-1] >= 2:
            agrees = answer.argmax(axis=-1) == expected.argmax(axis=-1)
            self._agreeing += int(agrees.sum())
            self._rows += agrees.size

    def found(self) -> dict[str, float]:
        """The largest differences, whether all bits were equal, and the share of rows with the same largest place."""
        found = {"max_abs": self._absolute, "max_rel": self._relative, "equal": float(self._equal)}
        return found | ({"agreement": self._agreeing / self._rows} if self._rows else {})


def assert_agrees(
    answer: NDArray[Any], expected: NDArray[Any], tolerance: dict[str, float], rounding: float = 0.0
) -> None:
    """Fails unless |answer - expected| <= absolute + rounding + relative * |expected|, and strings are equal."""
    if expected.dtype == np.object_:
        assert text(answer).tolist() == expected.tolist()
        return
    np.testing.assert_allclose(answer, expected, atol=tolerance["absolute"] + rounding, rtol=tolerance["relative"])
