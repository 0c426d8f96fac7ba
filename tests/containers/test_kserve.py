"""KServe's own client, as its users use it: over REST in JSON and in binary, and over gRPC."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from pipeline import images, pins
from pipeline.engine import Build, Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from tests.containers.conftest import SERVING, Start

_FOLDER = Path(__file__).parent / "kserve"
_TAG = "torchyard-test-kserve:1"


@pytest.fixture(scope="module")
def client(engine: DockerEngine, trainer: Image) -> Image:
    """Stands on the root that the trainer was built from, which is there."""
    assert trainer
    build = Build(
        folder=_FOLDER,
        dockerfile=_FOLDER / "Dockerfile",
        stage="kserve",
        tag=_TAG,
        args={"BASE": images.build_root(pins.load())},
    )
    return engine.build(build)


def _ask(
    engine: DockerEngine, client: Image, beside: str, model: str, inputs: list[dict[str, Any]], *outputs: str
) -> dict[str, Any]:
    job = Job(
        image=client.digest,
        command=("/opt/venv/bin/python", "/client.py", *map(json.dumps, (model, inputs, outputs))),
        limits=SERVING,
        mounts=(Mount(source=_FOLDER / "client.py", target="/client.py"),),
        beside=beside,
    )
    lines: list[str] = []
    engine.run(job, on_line=lines.append)
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def _answers(told: dict[str, Any]) -> list[dict[str, Any]]:
    assert all(told[asked] == [True, True] for asked in ("live", "ready", "model"))
    assert [told[way]["id"] for way in ("json", "binary", "grpc")] == ["mine"] * 3
    return [told[way]["outputs"] for way in ("json", "binary", "grpc")]


def test_numbers(engine: DockerEngine, client: Image, start: Start, archives: Path) -> None:
    sample = load_file(archives / "perceptron" / "samples.safetensors")
    x, y = sample["1/input/x"], sample["1/output/y"]
    described = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.tolist()}
    with start(archives / "perceptron") as running:
        running.wait_until_ready()
        told = _ask(engine, client, str(running.container.id), "perceptron", [described], "y")
    for outputs in _answers(told):
        assert (outputs["y"]["datatype"], outputs["y"]["shape"]) == ("FP32", list(y.shape))
        assert outputs["y"]["data"] == pytest.approx(y.ravel().tolist(), rel=1e-5)


def test_strings(engine: DockerEngine, client: Image, start: Start, archives: Path) -> None:
    described = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["good film", "日本"]}
    with start(archives / "words") as running:
        running.wait_until_ready()
        told = _ask(engine, client, str(running.container.id), "words", [described], "loud", "length")
    for outputs in _answers(told):
        assert outputs["loud"] == {"datatype": "BYTES", "shape": [2], "data": ["good film!", "日本!"]}
        assert outputs["length"] == {"datatype": "INT64", "shape": [2], "data": [9, 6]}
