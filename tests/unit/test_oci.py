"""References, manifests, settings and the passphrase: what is understood, and what is refused in which words."""

from pathlib import Path

import pytest

from pipeline import settings
from pipeline.errors import RegistryError, ReleaseError, SettingsError
from pipeline.keys import keys
from pipeline.oci import Blob, Manifest, Repository, manifest, parse, parsed
from pipeline.signing import PASSPHRASE, PASSPHRASE_FILE, encoded, me, passphrase
from pipeline.sigstore import Instance
from tests.unit.fake_registry import FakeCosign, FakeRegistry

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("reference", "host", "path", "name"),
    [
        (f"127.0.0.1:5000/releases/resnet@{DIGEST}", "127.0.0.1:5000", "releases/resnet", DIGEST),
        ("ghcr.io/somebody/models:1.0.0-cpu", "ghcr.io", "somebody/models", "1.0.0-cpu"),
        (f"ghcr.io/somebody/models:1@{DIGEST}", "ghcr.io", "somebody/models", DIGEST),
        ("localhost/a", "localhost", "a", ""),
    ],
)
def test_a_reference_is_taken_apart(reference: str, host: str, path: str, name: str) -> None:
    assert parse(reference) == (Repository(host=host, path=path), name)


@pytest.mark.parametrize("reference", ["", "resnet", "host/UPPER", f"host/a@{DIGEST[:-1]}", "host/a@md5:0", "host/a b"])
def test_what_is_no_reference_is_told(reference: str) -> None:
    with pytest.raises(RegistryError, match="is no reference to something in a registry"):
        parse(reference)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1:5000", True), ("localhost", True), ("[::1]:5000", True), ("ghcr.io", False), ("10.0.0.1:80", False)],
)
def test_only_a_registry_on_this_machine_is_asked_without_tls(host: str, local: bool) -> None:
    assert Repository(host=host, path="a").is_local is local


def test_a_manifest_has_what_it_was_made_of() -> None:
    config, layer = Blob(media_type="c", digest=DIGEST, size=1), Blob(media_type="l", digest=DIGEST, size=2)
    made = manifest(config, (layer,), artifact="a", note="kept")
    assert (made.config, made.layers, made.annotations) == (config, (layer,), {"note": "kept"})


@pytest.mark.parametrize("other", ["config", "Config", "layerS"])
def test_a_manifest_that_others_read_otherwise_is_none(other: str) -> None:
    """An engine that is written in Go would take the image of the last name."""
    whole = manifest(Blob(media_type="c", digest=DIGEST, size=1), ())
    forged = whole.content[:-1] + b',"%s":{}}' % other.encode()
    found = Manifest(media_type=whole.media_type, content=forged)
    with pytest.raises(RegistryError, match=f"{found.digest} is no manifest of an image or an artifact"):
        str((found.config, found.layers))


def test_what_others_may_read_otherwise_is_left_out() -> None:
    assert parsed(b'{"a": 1, "A": 2, "b": {"c": 3, "c": 4, "d": 5}}', strict=True) == {"b": {"d": 5}}
    with pytest.raises(ValueError, match="codec can't decode"):
        parsed('{"a": 1}'.encode("utf-16"))


def test_free_names_may_differ_in_case_only() -> None:
    """As a model's parameters do, which a statement tells of."""
    assert parsed(b'{"params": {"C": 1, "c": 2}}') == {"params": {"C": 1, "c": 2}}


# No size: it is infinite as a number of Python's.
HUGE = b'{"config": %(blob)b, "layers": [%(blob)b]}' % {b"blob": b'{"mediaType": "", "digest": "", "size": 1e999}'}


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"layers": 7}', b'{"config": {}, "layers": [{}]}', b'{"config": 7, "layers": [7]}', HUGE],
)
def test_what_is_no_manifest_is_told(content: bytes) -> None:
    found = Manifest(media_type="text/plain", content=content)
    for read in (lambda: found.config, lambda: found.layers):
        with pytest.raises(RegistryError, match=f"{found.digest} is no manifest of an image or an artifact"):
            read()


def test_dsse_signs_type_and_length() -> None:
    """As https://github.com/secure-systems-lab/dsse/blob/master/protocol.md has it."""
    assert encoded(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


def test_the_environment_takes_the_place_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().releases == "127.0.0.1:5000/releases"
    monkeypatch.setenv(settings.REGISTRY, "ghcr.io/somebody")
    monkeypatch.setenv(settings.KEY, "/keys/mine.key")
    found = settings.load()
    assert (found.releases, found.key) == ("ghcr.io/somebody", Path("/keys/mine.key"))
    assert me(found.key).key == Path("/keys/mine.pub")


def test_whoever_has_no_key_signs_as_who_he_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(settings.KEY, "keyless")
    found = settings.load()
    assert (found.key, found.sigstore) == (None, Instance())
    path = tmp_path / "torchyard.toml"
    own = '[sigstore]\nfulcio = "https://f"\nrekor = "https://r"\nroot = "r.pem"\nctlog = "c.pub"\nlog = "l.pub"\n'
    path.write_text((settings.HOME / "torchyard.toml").read_text() + own)
    files = {"root": tmp_path / "r.pem", "ctlog": tmp_path / "c.pub", "log": tmp_path / "l.pub"}
    assert settings.load(path).sigstore == Instance(fulcio="https://f", rekor="https://r", **files)
    path.write_text(path.read_text().replace('root = "r.pem"\n', ""))
    with pytest.raises(SettingsError, match=r"KeyError\('root'\)"):
        settings.load(path)


@pytest.mark.parametrize("content", [b'[registry]\nreleases = "\xe4"', b"[registry", b"[registry]", b"signing = 1"])
def test_settings_that_nobody_can_read_are_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "torchyard.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"cannot be used .* Restore it from git"):
        settings.load(path)


def test_a_registry_of_an_owner_with_capitals_is_found() -> None:
    assert str(settings.repository("ghcr.io/Octo/Yard/releases", "tiny")) == "ghcr.io/octo/yard/releases/tiny"


@pytest.mark.parametrize("folder", ["ghcr.io/some body", "127.0.0.1:5000/a:b", "https://ghcr.io/somebody"])
def test_a_folder_that_cannot_hold_repositories_is_told(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv(settings.REGISTRY, folder)
    with pytest.raises(SettingsError, match="cannot hold repositories"):
        settings.load()


def test_the_passphrase_comes_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    monkeypatch.delenv(PASSPHRASE_FILE, raising=False)
    with pytest.raises(ReleaseError, match="neither COSIGN_PASSWORD nor COSIGN_PASSWORD_FILE is set"):
        passphrase()
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "secret"))
    with pytest.raises(ReleaseError, match="cannot be read"):
        passphrase()
    (tmp_path / "secret").write_text("from a file\n")
    assert passphrase() == "from a file"
    monkeypatch.setenv(PASSPHRASE, "")
    assert passphrase() == ""


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    private = tmp_path / "new" / "cosign.key"
    cosign = FakeCosign(FakeRegistry())
    assert keys(private, cosign=cosign) == private.with_suffix(".pub")
    assert private.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ReleaseError, match="is there already"):
        keys(private, cosign=cosign)
