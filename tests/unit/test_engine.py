"""Engines that cannot be used are told as such, and what the SDK raises is said in words that help."""

import signal
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

import docker
import pytest
import requests
from docker.errors import APIError, NotFound

from pipeline.engine import LABEL
from pipeline.engine.containers import created
from pipeline.engine.docker import DockerEngine, connect
from pipeline.engine.failures import engine_errors
from pipeline.errors import EngineError


def test_an_engine_with_containerds_store_is_refused_with_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[str]] = [["Backing Filesystem", "extfs"]]

    class Client:
        def __init__(self, **_: object) -> None:
            pass

        def info(self) -> dict[str, Any]:
            return {"DriverStatus": kept}

    monkeypatch.setenv("DOCKER_HOST", "unix:///sock")
    monkeypatch.setattr(docker, "DockerClient", Client)
    assert connect()
    kept.append(["driver-type", "io.containerd.snapshotter.v1"])
    with pytest.raises(EngineError, match=r'containerd.*"containerd-snapshotter": false.*daemon\.json'):
        connect()


@pytest.mark.parametrize(
    ("kept", "gone"),
    [((), ["serving", "network", "registry:1", "runtime:1"]), (("registry",), ["serving", "runtime:1"])],
)
def test_cleaning_ends_no_service_and_passes_over_what_is_gone(kept: tuple[str, ...], gone: list[str]) -> None:
    """A local registry may hold all that there is of a release, and is in the network."""
    removed: list[str] = []

    class Thing:
        def __init__(self, name: str, kind: str) -> None:
            self.name = name
            self.labels = {LABEL: kind}
            self.id, self.tags, self.attrs = name, [f"{name}:1"], {"Image": name}

        def remove(self, **_: object) -> None:
            if "gone" in self.name:
                raise NotFound("it is gone")
            removed.append(self.name)

    services = [Thing(name, "service") for name in kept]
    things = {
        "containers": [*services, Thing("gone", "job"), Thing("serving", "serving")],
        "networks": [Thing("gone-network", "network"), Thing("network", "network")],
        "images": [Thing("registry", "image"), Thing("runtime", "image")],
    }
    client = SimpleNamespace(
        **{kind: SimpleNamespace(list=lambda found=found, **_: found) for kind, found in things.items()}
    )
    client.images.remove = removed.append
    cleaned = DockerEngine(cast("docker.DockerClient", client), "unix:///sock").clean()
    assert (removed, [*cleaned]) == (gone, [each for each in gone if ":" in each])


def test_a_name_that_is_taken_comes_with_what_removes_it() -> None:
    response = requests.Response()
    response.status_code = HTTPStatus.CONFLICT
    told = 'Conflict. The container name "/torchyard-soak-resnet" is already in use by container "1234".'
    with pytest.raises(EngineError, match="`docker rm --force torchyard-soak-resnet` removes it"), engine_errors():
        raise APIError("409", response, told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_a_container_is_made_leaves_none(number: signal.Signals) -> None:
    removed: list[str] = []

    def create(image: str, **_: object) -> SimpleNamespace:
        signal.raise_signal(number)
        return SimpleNamespace(remove=lambda **_: removed.append(image))

    before = signal.signal(number, signal.default_int_handler)
    try:
        client = cast("docker.DockerClient", SimpleNamespace(containers=SimpleNamespace(create=create)))
        with pytest.raises(KeyboardInterrupt), created(client, "image"):
            pytest.fail("it goes on")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert removed == ["image"]
