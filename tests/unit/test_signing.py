"""What cosign says, told apart: that nothing verifies, that a registry refuses, and that it failed itself."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import signing
from pipeline.engine import Job
from pipeline.errors import ContainerFailed, CosignError, PipelineError, RegistryError, ReleaseError
from pipeline.signing import Identity, ToolCosign, payload_of
from pipeline.sigstore import GITHUB, Claimed
from tests.unit.fake_engine import FakeEngine

WHERE = "127.0.0.1:5000/releases/tiny@sha256:" + "0" * 64
KIND = "https://spdx.dev/Document"
PAYLOAD = {"critical": {"identity": {"docker-reference": "127.0.0.1:5000/releases/tiny"}}, "optional": {}}
GET = "GET http://127.0.0.1:5000/v2/releases/tiny"
# As cosign 2.5 says it of what somebody else signed, nobody did, or nobody can read.
NOTHING = {
    "verify": [
        "no signatures found",
        "no matching signatures: invalid signature when validating ASN.1 encoded signature",
        "no matching signatures: unmarshaling bundle: invalid character 'x' looking for beginning of value",
        "no matching signatures: error verifying size; got 7, want 234",
        f"no matching signatures: {GET}/blobs/sha256:7: BLOB_UNKNOWN: blob unknown to registry; sha256:7",
        f"no matching signatures: {GET}/blobs/sha256:7: unexpected status code 404 Not Found: gone",
    ],
    "verify-attestation": [
        "no matching attestations: ",
        "no matching attestations: accepted signatures do not match threshold, Found: 0, Expected 1",
        f"none of the attestations matched the predicate type: {KIND}, found: https://example.com/x",
    ],
    "verify-blob": [
        "invalid signature when validating ASN.1 encoded signature",
        "ecdsa: Invalid IEEE_P1363 encoded bytes",
        "crypto/rsa: verification error",
    ],
}
# What a registry answers, by what cosign makes of it.
REFUSED = [
    f"{GET}/manifests/sha256-0.sig: DENIED: no",
    f"no matching signatures: {GET}/blobs/sha256:7: UNAUTHORIZED: authentication required",
    f"no matching attestations: {GET}/blobs/sha256:7: UNKNOWN: unknown error",
    f"no matching signatures: {GET}/blobs/sha256:7: unexpected status code 500 Internal Server Error",
    "no matching signatures: GET https://cdn.example.com/sha256/7: unexpected status code 403 Forbidden: expired",
    "no matching signatures: GET https://auth.example.com/token?scope=x: unexpected status code 401 Unauthorized",
    f"no matching signatures: invalid signature\n {GET}/blobs/sha256:7: unexpected status code 403 Forbidden",
    f"no matching signatures: {GET}/blobs/sha256:7: unexpected status code 403 Forbidden\n invalid signature",
    'no matching signatures: Get "https://cdn.example.com/sha256/7": tls: failed to verify certificate: x509: expired',
    f"no matching signatures: invalid signature\n {GET}/blobs/sha256:7: unexpected status code 503 Service Unavailable",
    'Get "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused',
]
# What it does that has nothing to do with signatures; the last two are no words of its own.
FAILED = [
    "Error: loading public key: pem to public key: PEM decoding failed",
    "Error: getting Fulcio roots: error reading root PEM file: open /nowhere: no such file or directory",
    "Error: error creating output file /work/out/found: open /work/out/found: permission denied",
    "Error: unknown flag: --output-file",
    "panic: runtime error: index out of range",
    "",
]


@pytest.fixture
def cosign(engine: FakeEngine) -> ToolCosign:
    return ToolCosign(engine=engine, tools=engine.add("release-tools:1"))


@pytest.fixture
def signer(tmp_path: Path) -> Identity:
    (tmp_path / "cosign.pub").write_text("a key")
    return Identity(name="local", key=tmp_path / "cosign.pub")


def _ends(engine: FakeEngine, line: str) -> None:
    """Has cosign say this and fail."""

    def run(_: Job, on_line: Callable[[str], None]) -> None:
        for each in line.splitlines():
            on_line(each)
        raise ContainerFailed(f"`cosign` ended with exit code 1:\n  {line}", code=1)

    engine.on_run = run


def _writes(engine: FakeEngine, found: str | None) -> None:
    """Has cosign end well, with this in its output file, or with none."""

    def run(job: Job, _: Callable[[str], None]) -> None:
        out = next(mount.source for mount in job.mounts if mount.target == "/work/out")
        if found is not None:
            (out / "found").write_text(found)

    engine.on_run = run


def _asked(cosign: ToolCosign, command: str, signer: Identity) -> object:
    """What a command of cosign's is taken for."""
    if command == "verify":
        return cosign.signatures(WHERE, by=signer)
    if command == "verify-attestation":
        return cosign.attestations(WHERE, kind=KIND, by=signer)
    return cosign.verifies(b"content", "AAAA", by=signer)


@pytest.mark.parametrize(("command", "line"), [(name, line) for name, lines in NOTHING.items() for line in lines])
def test_what_does_not_verify_is_no_signature(
    engine: FakeEngine, cosign: ToolCosign, signer: Identity, command: str, line: str
) -> None:
    _ends(engine, f"Error: {line}")
    assert not _asked(cosign, command, signer)


@pytest.mark.parametrize("command", ["verify", "verify-attestation"])
@pytest.mark.parametrize("line", REFUSED)
def test_a_registry_that_refuses_is_not_one_without_signatures(
    engine: FakeEngine, cosign: ToolCosign, signer: Identity, command: str, line: str
) -> None:
    _ends(engine, f"Error: {line}")
    with pytest.raises(RegistryError, match="does not answer, or refuses"):
        _asked(cosign, command, signer)


@pytest.mark.parametrize("command", list(NOTHING))
@pytest.mark.parametrize("line", FAILED)
def test_a_cosign_that_fails_says_nothing_about_signatures(
    engine: FakeEngine, cosign: ToolCosign, signer: Identity, command: str, line: str
) -> None:
    _ends(engine, line)
    with pytest.raises(CosignError, match=rf"(?s)cosign {command} could not find out who signed.*nothing about"):
        _asked(cosign, command, signer)


def test_a_cosign_that_does_not_end_says_nothing_about_signatures(
    engine: FakeEngine, cosign: ToolCosign, signer: Identity
) -> None:
    def run(_: Job, __: Callable[[str], None]) -> None:
        raise ContainerFailed("`cosign` did not end within 300 s and was stopped:", hung=True)

    engine.on_run = run
    for command in NOTHING:
        with pytest.raises(CosignError, match="did not end within 300 s"):
            _asked(cosign, command, signer)


@pytest.mark.parametrize(
    "found", [None, "", "[]", "7", "[7]", "no JSON", "[" * 100_000, '[{"critical": {}}]', '[{"payload": "!"}]']
)
@pytest.mark.parametrize("command", ["verify", "verify-attestation"])
def test_what_cosign_accepts_and_nobody_can_read_is_not_nothing(
    engine: FakeEngine, cosign: ToolCosign, signer: Identity, command: str, found: str | None
) -> None:
    _writes(engine, found)
    with pytest.raises(CosignError, match=f"cosign {command} accepted something"):
        _asked(cosign, command, signer)


def test_what_verifies_is_read(engine: FakeEngine, cosign: ToolCosign, signer: Identity) -> None:
    _writes(engine, json.dumps([PAYLOAD, PAYLOAD]))
    assert cosign.signatures(WHERE, by=signer) == (PAYLOAD, PAYLOAD)
    envelopes = [_envelope(each) for each in (b"one", b"two")]
    for written in (
        "\n".join(map(json.dumps, envelopes)) + "\n",
        "\n\n" + "\n\n".join(map(json.dumps, envelopes)),
        "".join(json.dumps(each, indent=2) for each in envelopes),
    ):
        _writes(engine, written)
        assert cosign.attestations(WHERE, kind=KIND, by=signer) == (b"one", b"two")
    _writes(engine, None)
    assert cosign.verifies(b"content", "AAAA", by=signer)


def _envelope(payload: bytes) -> dict[str, object]:
    return {"payloadType": "t", "payload": base64.b64encode(payload).decode(), "signatures": [{"sig": "AAAA"}]}


def _forged(first: dict[str, object], name: str, value: object) -> str:
    """An object with one more field, which Python reads as another and cosign, in Go, as the last of one name."""
    return f"{json.dumps(first)[:-1]}, {json.dumps(name)}: {json.dumps(value)}}}"


@pytest.mark.parametrize("name", ["Payload", "payload", "PAYLOAD", "payload\u017f"])
def test_an_envelope_that_says_one_thing_to_cosign_and_another_to_us_says_nothing(
    engine: FakeEngine, cosign: ToolCosign, signer: Identity, name: str
) -> None:
    forged = _forged(_envelope(b"forged"), name, base64.b64encode(b"signed").decode())
    _writes(engine, f"{json.dumps(_envelope(b'one'))}\n{forged}\n")
    assert cosign.attestations(WHERE, kind=KIND, by=signer) == (b"one",)
    with pytest.raises(ValueError, match="each once"):
        payload_of(forged.encode())
    assert payload_of(json.dumps(_envelope(b"one")).encode()) == b"one"


CERTIFICATE = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").decode()
PUBLIC = base64.b64encode(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").decode()
BUNDLE: dict[str, object] = {"base64Signature": "AAAA", "cert": CERTIFICATE, "rekorBundle": {"Payload": {}}}


def test_a_bundle_without_a_key_is_put_to_cosign() -> None:
    assert json.loads(signing._certified(json.dumps(BUNDLE))) == BUNDLE
    # Half a character is none that could be written to a file.
    halved = signing._certified(json.dumps({**BUNDLE, "base64Signature": "\ud800"}))
    assert json.loads(halved)["base64Signature"] == "\ud800"
    assert signing._certified(json.dumps({**BUNDLE, "base64Signature": "\ud800"}, ensure_ascii=False)) == halved


def test_what_is_put_to_cosign_is_what_was_read(engine: FakeEngine, cosign: ToolCosign) -> None:
    given = list[bytes]()

    def run(job: Job, _: Callable[[str], None]) -> None:
        given.append((next(each.source for each in job.mounts if each.target == "/work/in") / "bundle").read_bytes())

    engine.on_run = run
    claimed = Identity(name="workflow", claimed=Claimed(identity="https://github.com/octo/yard", issuer=GITHUB))
    inside = _forged({"Payload": {}}, "payload", {"body": "another"})
    whole = f"{json.dumps({**BUNDLE, 'rekorBundle': None})[:-5]}{inside}}}"
    assert cosign.verifies(b"content", whole, by=claimed)
    assert [json.loads(each) for each in given] == [{**BUNDLE, "rekorBundle": {}}]
    assert not cosign.verifies(b"content", _forged(BUNDLE, "Cert", PUBLIC), by=claimed)
    assert len(given) == 1


@pytest.mark.parametrize(
    "bundle",
    [
        _forged(BUNDLE, "Cert", PUBLIC),
        _forged(BUNDLE, "cert", PUBLIC),
        _forged({**BUNDLE, "cert": PUBLIC}, "cert", CERTIFICATE),
        _forged(BUNDLE, "key", PUBLIC),
        _forged(BUNDLE, "REKORBUNDLE", {}),
        json.dumps({**BUNDLE, "cert": PUBLIC}),
        json.dumps({"Cert" if name == "cert" else name: value for name, value in BUNDLE.items()}),
        json.dumps({name: value for name, value in BUNDLE.items() if name != "rekorBundle"}),
        "[" * 100_000,
        "[]",
    ],
)
def test_a_bundle_in_which_somebody_might_find_a_key_is_not(bundle: str) -> None:
    assert not signing._certified(bundle)


def test_a_cosign_that_fails_is_no_damage_of_what_is_there() -> None:
    """A promotion brings again what is damaged, and not what it could not look at."""
    assert CosignError.__bases__ == (PipelineError,)


@pytest.mark.parametrize("content", [None, b"\xe4"])
def test_a_passphrase_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.delenv(signing.PASSPHRASE, raising=False)
    monkeypatch.setenv(signing.PASSPHRASE_FILE, str(file))
    with pytest.raises(ReleaseError, match=f"names {file}, which cannot be read"):
        signing.passphrase()
