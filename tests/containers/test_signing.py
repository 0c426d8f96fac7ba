"""cosign signs with a key that is given as a file, and with one that is only in the environment."""

import base64
import json
from pathlib import Path

import pytest

from pipeline import images, pins
from pipeline.engine.docker import DockerEngine
from pipeline.errors import ContainerFailed, CosignError, ReleaseError
from pipeline.signing import PASSPHRASE, PRIVATE_KEY, Identity, ToolCosign
from pipeline.sigstore import GITHUB, Claimed

CONTENT = b"what is signed"


@pytest.fixture(scope="module")
def cosign(engine: DockerEngine) -> ToolCosign:
    return ToolCosign(engine=engine, tools=images.release_tools(pins.load(), engine=engine))


@pytest.fixture
def keys(cosign: ToolCosign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Identity]:
    """A private key, which is in no file, and whose signatures are expected."""
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    private, public = cosign.generate()
    (tmp_path / "cosign.pub").write_text(public)
    return private, Identity(name="workflow", key=tmp_path / "cosign.pub")


def test_a_key_in_the_environment_signs_without_a_file(
    cosign: ToolCosign, keys: tuple[str, Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, signer = keys
    nowhere = tmp_path / "cosign.key"
    with pytest.raises(ReleaseError, match=f"no such private key(.|\\n)*{PRIVATE_KEY}"):
        cosign.sign_bytes(CONTENT, key=nowhere)
    monkeypatch.setenv(PRIVATE_KEY, private)
    signature = cosign.sign_bytes(CONTENT, key=nowhere)
    assert cosign.verifies(CONTENT, signature, by=signer)
    assert not cosign.verifies(CONTENT + b"!", signature, by=signer)


def test_a_key_in_the_environment_needs_its_passphrase(
    cosign: ToolCosign, keys: tuple[str, Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRIVATE_KEY, keys[0])
    monkeypatch.setenv(PASSPHRASE, "guessed")
    with pytest.raises(ContainerFailed, match="decrypt"):
        cosign.sign_bytes(CONTENT, key=tmp_path / "cosign.key")


def test_a_key_that_is_none_is_not_somebody_whose_signatures_are_missing(
    cosign: ToolCosign, keys: tuple[str, Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRIVATE_KEY, keys[0])
    signature = cosign.sign_bytes(CONTENT, key=tmp_path / "cosign.key")
    (tmp_path / "nonsense.pub").write_text("nonsense")
    with pytest.raises(CosignError, match=r"(?s)could not find out.*PEM decoding failed.*says nothing about"):
        cosign.verifies(CONTENT, signature, by=Identity(name="nonsense", key=tmp_path / "nonsense.pub"))


def test_a_signature_that_brings_a_key_of_its_own_is_none(
    cosign: ToolCosign, keys: tuple[str, Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cosign takes the key in a bundle for the one that it was given."""
    private, public = cosign.generate()
    monkeypatch.setenv(PRIVATE_KEY, private)
    signature = cosign.sign_bytes(CONTENT, key=tmp_path / "cosign.key")
    forged = json.dumps({"base64Signature": signature, "cert": base64.b64encode(public.encode()).decode()})
    assert not cosign.verifies(CONTENT, forged, by=keys[1])
    claimed = Identity(name="workflow", claimed=Claimed(identity="https://github.com/octo/yard", issuer=GITHUB))
    assert not cosign.verifies(CONTENT, forged, by=claimed)
    # Nor under a name that only cosign reads as that, beside a certificate.
    certificate = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").decode()
    folded = json.dumps({"base64Signature": signature, "cert": certificate, "Cert": json.loads(forged)["cert"]})
    assert not cosign.verifies(CONTENT, folded, by=claimed)
