"""The smoke gate passes a good image and catches one that claims, answers or behaves otherwise."""

import json
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from pipeline.artifacts import ServingImage
from pipeline.engine.docker import DockerEngine
from pipeline.errors import SmokeError
from pipeline.smoke import smoke
from tests.unit.values import LIMITS

TAG = "torchyard-test-smoke:1"
PYTHON = "/usr/bin/python3.13"


@pytest.fixture
def planted(request: pytest.FixtureRequest, tiny_image: ServingImage, engine: DockerEngine) -> Iterator[str]:
    """The tiny image with its configuration changed as the test's parameter says."""
    client = docker.from_env()
    container = client.containers.create(tiny_image.digest)
    try:
        repository, _, name = TAG.partition(":")
        container.commit(repository, name, conf=request.param(tiny_image))
        yield TAG
    finally:
        container.remove()
        client.close()
        engine.remove((TAG,))


def _other_version(image: ServingImage) -> dict[str, Any]:
    contract = json.loads(image.archive.contract.path.read_text())
    return {"Labels": {"io.torchyard.contract": json.dumps(contract | {"version": "9.9.9"})}}


def _unmeetable_tolerance(image: ServingImage) -> dict[str, Any]:
    """Holds the answers to a bound that none can meet."""
    contract = json.loads(image.archive.contract.path.read_text())
    contract["tolerance"] = {"absolute": -1.0, "relative": 0.0}
    return {"Labels": {"io.torchyard.contract": json.dumps(contract)}}


def _ends_at_once(_: ServingImage) -> dict[str, Any]:
    return {"Entrypoint": [PYTHON, "-c", "raise SystemExit('planted end')"]}


def _never_healthy(_: ServingImage) -> dict[str, Any]:
    return {"Healthcheck": {"Test": ["CMD", PYTHON, "-c", "raise SystemExit(1)"], "Interval": 10**9, "Retries": 1}}


def test_a_good_image_passes_and_is_measured(tiny_image: ServingImage, engine: DockerEngine) -> None:
    verdict = smoke(tiny_image.tag, limits=LIMITS, engine=engine, probes=tiny_image.archive.probes.path)
    assert verdict.digest == tiny_image.digest
    assert verdict.measured["wire.logits.agreement"] == 1
    assert verdict.measured["wire.species.equal"] == 1
    assert {"max_abs", "wire.logits.max_rel", "ready_seconds", "memory_mib", "stop_seconds", "p50_ms"} <= set(
        verdict.measured
    )


def test_an_interrupted_one_leaves_no_container(
    tiny_image: ServingImage, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = docker.from_env()
    begun: list[int] = []

    def interrupting(_: str) -> None:
        begun.append(len(client.containers.list(filters={"ancestor": tiny_image.digest})))
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.smoke.say", interrupting)
    with pytest.raises(KeyboardInterrupt):
        smoke(tiny_image.tag, limits=LIMITS, engine=engine)
    assert begun[0] >= 1
    assert client.containers.list(all=True, filters={"ancestor": tiny_image.digest}) == []
    client.close()


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (_other_version, "metadata-is-the-contract"),
        (_unmeetable_tolerance, "samples-agree-in-binary"),
        (_ends_at_once, "planted end"),
        (_never_healthy, "health-goes-from-starting-to-healthy"),
    ],
    indirect=["planted"],
)
def test_a_planted_fault_is_caught(planted: str, told: str, engine: DockerEngine) -> None:
    with pytest.raises(SmokeError, match=f"does not behave under the production contract(.|\\n)*{told}"):
        smoke(planted, limits=LIMITS, engine=engine)


def test_an_image_that_is_not_there_is_told(engine: DockerEngine) -> None:
    with pytest.raises(SmokeError, match="There is no image torchyard-test-nobody:1"):
        smoke("torchyard-test-nobody:1", limits=LIMITS, engine=engine)
