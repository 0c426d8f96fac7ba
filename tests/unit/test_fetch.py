"""An archive goes into a registry and comes back the same; what is unsigned, forged or elsewhere is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import File
from pipeline.errors import RegistryError, VerifyError
from pipeline.fetch import fetch
from pipeline.oci import Blob, Manifest, Repository, manifest
from pipeline.release.modelpack import ARTIFACT, PATH, publish
from pipeline.signing import Identity
from tests.unit import values
from tests.unit.fake_registry import FakeCosign, FakeRegistry

KEY = Path("keys/cosign.key")
ME = Identity(name="me", key=Path("keys/cosign.pub"))
WHERE = Repository(host="127.0.0.1:5000", path="releases/tiny")


@pytest.fixture
def store() -> FakeRegistry:
    return FakeRegistry()


def _published(store: FakeRegistry, folder: Path) -> Manifest:
    made = publish(values.archive(folder, operators=True), WHERE, registry=store)
    FakeCosign(store).sign(WHERE.at(made.digest), key=KEY, annotations={})
    return made


def _fetch(store: FakeRegistry, digest: str, out: Path) -> dict[str, bytes]:
    files = fetch(WHERE.at(digest), out, signers=(ME,), registry=store, cosign=FakeCosign(store))
    return {file.path.name: file.path.read_bytes() for file in files}


def test_an_archive_comes_back_with_all_that_belongs_to_it(store: FakeRegistry, tmp_path: Path) -> None:
    made = _published(store, tmp_path)
    archive = values.archive(tmp_path, operators=True)
    found = _fetch(store, made.digest, tmp_path / "out")
    assert set(found) == {"model.pt", "contract.json", "samples.safetensors", "ops.so"}
    assert found["model.pt"] == archive.file.path.read_bytes()
    assert publish(archive, WHERE, registry=store) == made


class Careful(FakeRegistry):
    """Keeps nothing large in memory, but for whoever takes it in chunks."""

    def blob(self, repository: Repository, digest: str) -> bytes:
        content = super().blob(repository, digest)
        if len(content) > 2**16:
            raise RegistryError("large")
        return content

    @contextmanager
    def stream(self, repository: Repository, digest: str) -> Iterator[Iterator[bytes]]:
        yield iter([super().blob(repository, digest)])


def test_a_large_archive_comes_back_too(tmp_path: Path) -> None:
    store, archive = Careful(), values.archive(tmp_path)
    archive.file.path.write_bytes(bytes(2**17))
    large = replace(archive, file=File.of(archive.file.path))
    contract = json.loads(archive.contract.path.read_text())
    contract["archive"] |= {"sha256": large.file.sha256, "size": large.file.size}
    archive.contract.path.write_text(json.dumps(contract))
    made = publish(replace(large, contract=File.of(archive.contract.path)), WHERE, registry=store)
    FakeCosign(store).sign(WHERE.at(made.digest), key=KEY, annotations={})
    assert len(_fetch(store, made.digest, tmp_path / "out")["model.pt"]) == 2**17


def _forged(store: FakeRegistry, made: Manifest, layers: tuple[Blob, ...]) -> Manifest:
    """With other layers, and signed as well: what the contract and the names say has to be held to itself."""
    other = manifest(made.config, layers, artifact=ARTIFACT)
    store.put_manifest(WHERE, other.digest, other)
    FakeCosign(store).sign(WHERE.at(other.digest), key=KEY, annotations={})
    return other


@pytest.mark.parametrize("name", ["../escaped", "/escaped", ".hidden", "", "folder/file"])
def test_a_name_that_leads_elsewhere_is_refused(store: FakeRegistry, tmp_path: Path, name: str) -> None:
    made = _published(store, tmp_path)
    first, *rest = made.layers
    other = _forged(store, made, (replace(first, annotations=((PATH, name),)), *rest))
    with pytest.raises(VerifyError, match="which could be written anywhere"):
        _fetch(store, other.digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_the_contract_does_not_name_is_refused(store: FakeRegistry, tmp_path: Path) -> None:
    made = _published(store, tmp_path)
    first, *rest = made.layers
    swapped = store.put_blob(WHERE, b"evil", media_type=first.media_type)
    other = _forged(store, made, (replace(swapped, annotations=first.annotations), *rest))
    with pytest.raises(VerifyError, match="its contract names another archive"):
        _fetch(store, other.digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_signature_for_this_place_nothing_is_fetched(store: FakeRegistry, tmp_path: Path) -> None:
    made = publish(values.archive(tmp_path), WHERE, registry=store)
    with pytest.raises(VerifyError, match="no signature for this repository verifies"):
        _fetch(store, made.digest, tmp_path / "out")
    FakeCosign(store).sign(WHERE.at(made.digest), key=Path("keys/stranger.key"), annotations={})
    with pytest.raises(VerifyError, match="no signature for this repository verifies"):
        _fetch(store, made.digest, tmp_path / "out")


def test_a_file_is_no_folder_to_fetch_into(store: FakeRegistry, tmp_path: Path) -> None:
    made, out = _published(store, tmp_path), tmp_path / "out"
    out.touch()
    with pytest.raises(VerifyError, match="is a file, and has to be a folder"):
        _fetch(store, made.digest, out)


def test_a_tag_and_an_image_are_no_archives(store: FakeRegistry, tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="names no digest"):
        fetch(f"{WHERE}:1", tmp_path, signers=(ME,), registry=store, cosign=FakeCosign(store))
    made = _published(store, tmp_path)
    image = manifest(made.config, ())
    store.put_manifest(WHERE, image.digest, image)
    with pytest.raises(VerifyError, match="there is no model there, but something else"):
        _fetch(store, image.digest, tmp_path / "out")
    with pytest.raises(VerifyError, match="there is no model there, but nothing"):
        _fetch(store, "sha256:" + "0" * 64, tmp_path / "out")
