"""The registry of ours and the one in memory keep the same promises."""

import docker
import pytest

from pipeline import pins, registry
from pipeline.engine.credentials import credentials
from pipeline.engine.docker import DockerEngine
from pipeline.errors import RegistryError
from pipeline.oci import EMPTY, Registry, Repository, manifest
from pipeline.oci.http import HttpRegistry
from tests.containers.conftest import REGISTRIES
from tests.unit.fake_registry import FakeRegistry

WHERE = Repository(host=f"127.0.0.1:{REGISTRIES[0]}", path="contract/a")
NOTHING = "sha256:" + "0" * 64


@pytest.fixture(params=["http", "fake"])
def either(request: pytest.FixtureRequest, stores: HttpRegistry) -> Registry:
    return stores if request.param == "http" else FakeRegistry()


def test_what_is_put_is_found_by_tag_and_by_digest(either: Registry) -> None:
    assert either.manifest(WHERE, "nobody") is None
    assert either.manifest(WHERE, NOTHING) is None
    blob = either.put_blob(WHERE, b"{}", media_type=EMPTY)
    assert either.put_blob(WHERE, b"{}", media_type=EMPTY) == blob
    assert either.blob(WHERE, blob.digest) == b"{}"
    with either.stream(WHERE, blob.digest) as chunks:
        assert b"".join(chunks) == b"{}"
    first, second = manifest(blob, (blob,), note="1"), manifest(blob, (), note="2")
    either.put_manifest(WHERE, "moved", first)
    assert either.manifest(WHERE, "moved") == either.manifest(WHERE, first.digest) == first
    either.put_manifest(WHERE, "moved", second)
    either.put_manifest(WHERE, "other", second)
    assert either.manifest(WHERE, "moved") == second
    assert either.manifest(WHERE, first.digest) == first
    assert either.tags(WHERE) == ("moved", "other")


def test_what_is_not_there_is_told(either: Registry) -> None:
    with pytest.raises(RegistryError, match=r"refuses GET of .*404"):
        either.blob(WHERE, NOTHING)
    assert either.tags(Repository(host=WHERE.host, path="contract/nobody")) == ()


def test_a_registry_that_is_not_there_is_told() -> None:
    with pytest.raises(RegistryError, match=r"The registry at 127\.0\.0\.1:1 does not answer"):
        HttpRegistry(credentials).tags(Repository(host="127.0.0.1:1", path="a"))


def test_a_registry_is_published_on_loopback_alone(stores: HttpRegistry) -> None:
    assert stores
    client = docker.from_env()
    container = client.containers.get(f"torchyard-registry-{REGISTRIES[0]}")
    published = [each["HostIp"] for ports in container.ports.values() for each in ports or ()]
    client.close()
    assert published == ["127.0.0.1"]


def test_starting_a_registry_that_runs_leaves_it(engine: DockerEngine, stores: HttpRegistry) -> None:
    before = engine.containers()
    assert registry.start(REGISTRIES[0], pins=pins.load(), engine=engine, registry=stores) == WHERE.host
    assert engine.containers() == before
