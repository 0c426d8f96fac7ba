"""A real engine and the real images, made once for all tests; without an engine they skip, or fail in CI."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import requests
from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import Mount as DockerMount

from pipeline import images, pins, registry, spec
from pipeline.artifacts import Archive, Limits, ModelSpec, Release, ServingImage
from pipeline.engine import Image, Job, Mount
from pipeline.engine.credentials import credentials
from pipeline.engine.docker import DockerEngine, connect, production
from pipeline.errors import EngineError
from pipeline.keys import keys
from pipeline.line import Line
from pipeline.oci.http import HttpRegistry
from pipeline.release import Desk
from pipeline.release.provenance import Source
from pipeline.signing import PASSPHRASE, ToolCosign

MODELS = Path(__file__).parent / "models"
SERVING = Limits(memory=1024, cpus=2, pids=256)
SOURCE = Source(revision="0" * 40, remote="https://example.com/models.git", clean=True)
# Where the registries of the tests listen, on loopback.
REGISTRIES = (5971, 5972)

Start = Callable[..., AbstractContextManager["Running"]]
# One needs a symbol that is nowhere, the other a library that no image has.
_BROKEN = """
cd /out
echo 'extern "C" int nowhere(); int call() { return nowhere(); }' | g++ -xc++ -shared -fPIC - -o unbound
echo 'int absent() { return 0; }' | g++ -xc++ -shared -fPIC -Wl,-soname,libabsent.so.1 - -o /tmp/libabsent.so
echo 'int absent(); int call() { return absent(); }' | g++ -xc++ -shared -fPIC - -L/tmp -labsent -o lonely
chmod 644 unbound lonely
"""


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    try:
        return connect()
    except EngineError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no engine at this desk: {error}")


@pytest.fixture(scope="session")
def trainer(engine: DockerEngine) -> Image:
    return images.trainer(pins.load(), engine=engine)


@pytest.fixture(scope="session")
def toolchain(engine: DockerEngine) -> Image:
    return images.toolchain(pins.load(), engine=engine)


@pytest.fixture(scope="session")
def runtime(engine: DockerEngine) -> Image:
    return images.runtime(pins.load(), engine=engine)


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    return spec.load(MODELS / "tiny")


@pytest.fixture(scope="session")
def tiny_line(engine: DockerEngine, tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The tiny model's line, in a build folder of its own; its image is removed at the end."""
    line = Line(tiny_spec, pins=pins.load(), engine=engine, build=tmp_path_factory.mktemp("build"))
    yield line
    engine.remove((f"{tiny_spec.name}:{tiny_spec.version}-cpu",))


@pytest.fixture(scope="session")
def tiny_archive(tiny_line: Line) -> Archive:
    return tiny_line.export


@pytest.fixture(scope="session")
def tiny_image(tiny_line: Line) -> ServingImage:
    return tiny_line.assemble


@pytest.fixture(scope="session")
def scaled_line(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The line of a model with an operator of its own, acme::scale; its image is removed at the end."""
    model = spec.load(MODELS / "scaled")
    yield Line(model, pins=pins.load(), engine=engine, build=tmp_path_factory.mktemp("build"))
    engine.remove((f"{model.name}:{model.version}-cpu",))


@pytest.fixture(scope="session")
def broken_libraries(engine: DockerEngine, toolchain: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `unbound`, which needs a symbol that is nowhere, and `lonely`, which needs libabsent.so.1."""
    out = tmp_path_factory.mktemp("broken")
    limits, mount = Limits(memory=512, cpus=1, pids=32), Mount(source=out, target="/out", writable=True)
    job = Job(image=toolchain.digest, command=("/bin/sh", "-euc", _BROKEN), limits=limits, mounts=(mount,))
    engine.run(job, on_line=print)
    return out


@dataclass(frozen=True)
class Running:
    """A container of the runtime image with a model mounted, and where it listens for HTTP and for gRPC."""

    container: Container
    address: str
    grpc: str

    def url(self, path: str) -> str:
        return f"http://{self.address}/{path}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if requests.get(self.url("v2/health/ready"), timeout=5).ok:
                    return
            except requests.ConnectionError:
                self.container.reload()
                assert self.container.status == "running", self.log()
            time.sleep(0.02)
        raise AssertionError(self.log())

    def log(self) -> str:
        return str(self.container.logs().decode())

    def exit_code(self) -> int:
        return int(self.container.wait(timeout=60)["StatusCode"])


@pytest.fixture(scope="session")
def archives(
    engine: DockerEngine,
    trainer: Image,
    scaled_line: Line,
    broken_libraries: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("archives")
    script, library = Path(__file__).with_name("server_archives.py"), scaled_line.compile
    assert library
    shutil.copy(library.path, out / "library")
    shutil.copy(broken_libraries / "unbound", out)
    mounts = (
        Mount(source=script, target="/archives.py"),
        Mount(source=library.path, target="/library"),
        Mount(source=out, target="/out", writable=True),
    )
    command = ("/opt/venv/bin/python", "/archives.py", "/out")
    lines: list[str] = []
    engine.run(Job(image=trainer.digest, command=command, limits=SERVING, mounts=mounts), on_line=lines.append)
    readable(out)
    return out


def readable(folder: Path) -> None:
    """The server is another user, and pytest's folders are the caller's own."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture(scope="session")
def start(engine: DockerEngine, runtime: Image) -> Start:
    client = docker.from_env()

    @contextmanager
    def started(folder: Path, **environment: str) -> Iterator[Running]:
        container = client.containers.run(
            runtime.digest,
            detach=True,
            environment=environment,
            ports={"8080/tcp": ("127.0.0.1", 0), "8081/tcp": ("127.0.0.1", 0)},
            mounts=[DockerMount("/model", str(folder), type="bind", read_only=True)],
            **production(SERVING, engine.serving_network()),
        )
        try:
            container.reload()
            http, grpc = (container.ports.get(f"{port}/tcp") or [{"HostPort": "0"}] for port in (8080, 8081))
            yield Running(container, f"127.0.0.1:{http[0]['HostPort']}", f"127.0.0.1:{grpc[0]['HostPort']}")
        finally:
            container.remove(force=True)

    return started


@pytest.fixture
def folder(archives: Path, tmp_path: Path) -> Path:
    """A model's folder that a test may damage."""
    copy = tmp_path / "model"
    shutil.copytree(archives / "slow", copy)
    readable(tmp_path)
    return copy


@pytest.fixture(scope="session")
def cosign(engine: DockerEngine) -> Iterator[ToolCosign]:
    """cosign, with a passphrase for the keys of the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(PASSPHRASE, "planted-passphrase")
        yield ToolCosign(engine=engine, tools=images.release_tools(pins.load(), engine=engine))


@pytest.fixture(scope="session")
def stores(engine: DockerEngine) -> Iterator[HttpRegistry]:
    """Two registries on loopback, empty at first; they go at the end with all that they keep."""
    client = HttpRegistry(credentials)
    for port in REGISTRIES:
        # One of a run that was killed.
        remove_registry(port, engine=engine)
        registry.start(port, pins=pins.load(), engine=engine, registry=client)
    yield client
    for port in REGISTRIES:
        remove_registry(port, engine=engine)


def remove_registry(port: int, *, engine: DockerEngine) -> None:
    """With all that it keeps; one that is not there is fine."""
    registry.stop(port, engine=engine)
    client = docker.from_env()
    with suppress(NotFound):
        client.volumes.get(f"torchyard-registry-{port}").remove()
    client.close()


@pytest.fixture(scope="session")
def key(cosign: ToolCosign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("keys") / "cosign.key"
    keys(private, cosign=cosign)
    return private


@pytest.fixture(scope="session")
def desk(engine: DockerEngine, stores: HttpRegistry, cosign: ToolCosign, key: Path) -> Desk:
    tools = images.release_tools(pins.load(), engine=engine)
    return Desk(engine=engine, registry=stores, cosign=cosign, tools=tools, key=key)


@pytest.fixture(scope="session")
def released(tiny_line: Line, desk: Desk) -> Release:
    return tiny_line.release(desk, releases=f"127.0.0.1:{REGISTRIES[0]}/releases", source=SOURCE)
