"""The other stores of archives as they are: a folder, an S3 over HTTP, and a git repository with Git LFS."""

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from pipeline import stores
from pipeline.artifacts import Archive
from pipeline.errors import RegistryError, VerifyError
from pipeline.fetch import fetch
from pipeline.oci import digest_of
from pipeline.release import modelpack
from pipeline.signing import Identity
from tests.unit.fake_registry import FakeCosign, FakeRegistry

KEY = Path("keys/cosign.key")
ME = Identity(name="me", key=Path("keys/cosign.pub"))
BUCKET = "models"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Where an S3 answers."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _repository(folder: Path) -> str:
    """A git repository with one commit, which others clone and push to."""
    bare, first = folder / "models.git", folder / "first"
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (
        ("init", "--quiet", "--bare", "--initial-branch=main", str(bare)),
        ("clone", "--quiet", str(bare), str(first)),
        ("-C", str(first), *who, "commit", "--quiet", "--allow-empty", "--message=first"),
        ("-C", str(first), "push", "--quiet", "origin", "HEAD:main"),
    ):
        subprocess.run(["git", *command], check=True, capture_output=True)
    return f"git+file://{bare}"


@pytest.fixture(params=["folder", "s3", "lfs"])
def url(request: pytest.FixtureRequest, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "lfs":
        return _repository(tmp_path)
    if request.param == "folder":
        return f"file://{tmp_path}/store"
    _at(s3, monkeypatch)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}"


def _at(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an SDK finds in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "known to the SDK",
        "AWS_SECRET_ACCESS_KEY": "and to nobody else",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def kept(url: str, tiny_archive: Archive) -> str:
    made, blobs = modelpack.packed(tiny_archive)
    return stores.keep(url, "tiny", made, blobs, cosign=FakeCosign(FakeRegistry()), key=KEY)


def _fetched(reference: str, out: Path, signer: Identity = ME) -> dict[str, str]:
    registry = FakeRegistry()
    files = fetch(reference, out, signers=(signer,), registry=registry, cosign=FakeCosign(registry))
    return {file.path.name: file.sha256 for file in files}


def test_an_archive_comes_back_by_digest(kept: str, url: str, tiny_archive: Archive, tmp_path: Path) -> None:
    files = (tiny_archive.file, tiny_archive.contract, tiny_archive.samples)
    assert _fetched(kept, tmp_path / "out") == {file.path.name: file.sha256 for file in files}
    made, blobs = modelpack.packed(tiny_archive)
    assert kept == f"{url}/tiny@{made.digest}"
    # Again it is the same, and it is an image layout for whoever knows these.
    assert stores.keep(url, "tiny", made, blobs, cosign=FakeCosign(FakeRegistry()), key=KEY) == kept
    with stores.opened(url) as there:
        assert there.read(f"{_home(tiny_archive)}/oci-layout") == b'{"imageLayoutVersion":"1.0.0"}'
        index = json.loads(there.read(f"{_home(tiny_archive)}/index.json") or b"")
    assert [each["digest"] for each in index["manifests"]] == [made.digest]


def _home(archive: Archive, model: str = "tiny") -> str:
    """Where a model's layout is."""
    made, _ = modelpack.packed(archive)
    return f"{model}/{made.digest.replace(':', '/')}"


def _exchange(url: str, path: str, content: bytes) -> None:
    with stores.opened(url, saying="an attack") as there:
        assert there.read(path) is not None
        there.write(path, content)


def _archive_changed(url: str, archive: Archive, _: str) -> str:
    content = archive.file.path.read_bytes()
    _exchange(url, f"{_home(archive)}/blobs/sha256/{archive.file.sha256}", content[:-1] + bytes([content[-1] ^ 1]))
    return rf"lies there as sha256:{archive.file.sha256} is sha256:"


def _manifest_changed(url: str, archive: Archive, _: str) -> str:
    made, _blobs = modelpack.packed(archive)
    _exchange(url, f"{_home(archive)}/blobs/{made.digest.replace(':', '/')}", made.content + b" ")
    return f"lies there as {made.digest} is {digest_of(made.content + b' ')}"


def _signature_changed(url: str, archive: Archive, _: str) -> str:
    _exchange(url, f"{_home(archive)}/signature.json", b'{"payload": "e30=", "signature": "e30="}')
    return "no signature for this place verifies"


@pytest.mark.parametrize("attack", [_archive_changed, _manifest_changed, _signature_changed])
def test_what_was_changed_is_refused(
    kept: str, url: str, tiny_archive: Archive, tmp_path: Path, attack: Callable[[str, Archive, str], str]
) -> None:
    told = attack(url, tiny_archive, kept)
    with pytest.raises(VerifyError, match=told):
        _fetched(kept, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_copied_with_its_signature_is_refused(
    kept: str, url: str, tiny_archive: Archive, tmp_path: Path
) -> None:
    made, blobs = modelpack.packed(tiny_archive)
    other = stores.keep(url, "other", made, blobs, cosign=FakeCosign(FakeRegistry()), key=KEY)
    assert _fetched(other, tmp_path / "other") == _fetched(kept, tmp_path / "tiny")
    with stores.opened(url) as there:
        copied = there.read(f"{_home(tiny_archive)}/signature.json")
    assert copied
    _exchange(url, f"{_home(tiny_archive, 'other')}/signature.json", copied)
    with pytest.raises(VerifyError, match="no signature for this place verifies"):
        _fetched(other, tmp_path / "again")


def test_what_is_not_there_or_not_ours_is_told(kept: str, tmp_path: Path) -> None:
    absent = f"{kept.rpartition(':')[0]}:{'0' * 64}"
    with pytest.raises(VerifyError, match=r"there is no sha256:0{64} there"):
        _fetched(absent, tmp_path)
    with pytest.raises(VerifyError, match=r"no signature for this place verifies under keys/stranger\.pub"):
        _fetched(kept, tmp_path, Identity(name="stranger", key=Path("keys/stranger.pub")))
    with pytest.raises(VerifyError, match="names no digest"):
        _fetched(kept.partition("@")[0], tmp_path)


def test_two_at_once_lose_nothing_in_git(tmp_path: Path, tiny_archive: Archive) -> None:
    url = _repository(tmp_path)
    made, blobs = modelpack.packed(tiny_archive)

    def keep(model: str) -> str:
        return stores.keep(url, model, made, blobs, cosign=FakeCosign(FakeRegistry()), key=KEY)

    with ThreadPoolExecutor(3) as pool:
        references = list(pool.map(keep, ("one", "two", "three")))
    for number, reference in enumerate(references):
        assert _fetched(reference, tmp_path / str(number))
    # What git itself has of an archive is a pointer.
    path = f"{_home(tiny_archive, 'one')}/blobs/sha256/{tiny_archive.file.sha256}"
    bare = url.removeprefix("git+file://")
    shown = subprocess.run(["git", "-C", bare, "show", f"main:{path}"], check=True, capture_output=True).stdout
    assert f"oid sha256:{tiny_archive.file.sha256}".encode() in shown


def test_what_else_is_in_a_repository_stays_there(tmp_path: Path, tiny_archive: Archive) -> None:
    url = _repository(tmp_path)
    first, outside = tmp_path / "first", tmp_path / "outside"
    outside.mkdir()
    (first / ".gitattributes").write_text("*.png filter=lfs\n")
    (first / "tiny").symlink_to(outside)
    for command in (("add", "--all"), ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm2"), ("push", "-q")):
        subprocess.run(["git", "-C", str(first), *command], check=True, capture_output=True)
    made, blobs = modelpack.packed(tiny_archive)
    cosign = FakeCosign(FakeRegistry())
    # A link that leads out of the repository is followed by nobody.
    with pytest.raises(RegistryError, match="something else has the name of a folder"):
        stores.keep(url, "tiny", made, blobs, cosign=cosign, key=KEY)
    assert list(outside.iterdir()) == []
    stores.keep(url, "other", made, blobs, cosign=cosign, key=KEY)
    bare = url.removeprefix("git+file://")
    shown = subprocess.run(["git", "-C", bare, "show", "main:.gitattributes"], check=True, capture_output=True)
    lines = shown.stdout.decode().splitlines()
    assert (lines[0], len(lines)) == ("*.png filter=lfs", 2)


def test_another_repository_of_the_environment_is_not_used(
    tmp_path: Path, tiny_archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = _repository(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "first" / ".git"))
    made, blobs = modelpack.packed(tiny_archive)
    assert _fetched(stores.keep(url, "tiny", made, blobs, cosign=FakeCosign(FakeRegistry()), key=KEY), tmp_path / "out")


def test_a_bucket_that_is_mistyped_is_not_made(s3: str, tiny_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    _at(s3, monkeypatch)
    made, blobs = modelpack.packed(tiny_archive)
    with pytest.raises(RegistryError, match=r"s3://modles/a: there is no such bucket"):
        stores.keep("s3://modles/a", "tiny", made, blobs, cosign=FakeCosign(FakeRegistry()), key=KEY)
    assert "modles" not in [each["Name"] for each in boto3.client("s3").list_buckets()["Buckets"]]


def test_a_repository_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"git clone failed: (.|\n)*does not appear to be a git repository"):
        _fetched(f"git+file://{tmp_path}/nowhere.git/tiny@sha256:{'0' * 64}", tmp_path)
