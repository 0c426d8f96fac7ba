"""A real engine and the real images, made once for all tests; without an engine they skip, or fail in CI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import images, pins, spec
from pipeline.artifacts import Archive, ModelSpec, ServingImage
from pipeline.engine import Image
from pipeline.engine.docker import DockerEngine, connect
from pipeline.errors import EngineError
from pipeline.line import Line

MODELS = Path(__file__).parent / "models"


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
