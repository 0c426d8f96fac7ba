"""A real engine and the real images, made once for all tests; without an engine they skip, or fail in CI."""

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from pipeline import images, pins, registry, spec
from pipeline.artifacts import Archive, Limits, ModelSpec, ServingImage
from pipeline.engine import Image, Job, Mount
from pipeline.engine.credentials import credentials
from pipeline.engine.docker import DockerEngine, connect
from pipeline.errors import EngineError
from pipeline.line import Line
from pipeline.oci.http import HttpRegistry

MODELS = Path(__file__).parent / "models"
# Where the registries of the tests listen, on loopback.
REGISTRIES = (5971, 5972)
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


@pytest.fixture(scope="session")
def stores(engine: DockerEngine) -> Iterator[HttpRegistry]:
    """Two registries on loopback, empty at first; they go at the end with all that they keep."""
    client = HttpRegistry(credentials)
    for port in REGISTRIES:
        registry.start(port, pins=pins.load(), engine=engine, registry=client)
    yield client
    docker_client = docker.from_env()
    for port in REGISTRIES:
        registry.stop(port, engine=engine)
        docker_client.volumes.get(f"torchyard-registry-{port}").remove()
    docker_client.close()
