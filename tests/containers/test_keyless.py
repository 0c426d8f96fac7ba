"""Releases and promotions that are signed without a key, by real cosign, with a Sigstore on loopback."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import images, pins, policy
from pipeline.artifacts import Limits, Release
from pipeline.engine import Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import PromoteError, ReleaseError, VerifyError
from pipeline.evidence import CYCLONEDX, PROVENANCE, SPDX, TEST_RESULT, Evidence
from pipeline.evidence.collecting import attached
from pipeline.fetch import fetch
from pipeline.line import Line
from pipeline.oci import manifest, parse
from pipeline.oci.http import HttpRegistry
from pipeline.promote import promote
from pipeline.promote.lock import Holder, machine
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.release import Desk
from pipeline.release.provenance import Source
from pipeline.settings import HOME
from pipeline.signing import Identity, ToolCosign
from pipeline.sigstore import Claimed, Instance
from pipeline.status import status
from pipeline.verify import verify
from tests.containers.conftest import REGISTRIES
from tests.containers.sigstore import ISSUER, Sigstore

NAME = "tiny"
WORKFLOW = "octo/yard/.github/workflows/release.yml@refs/heads/main"
OURS = Claimed(identity=f"https://github.com/{WORKFLOW}", issuer=ISSUER)
US = Identity(name="workflow", claimed=OURS)


def _instance(sigstore: Sigstore) -> Instance:
    return Instance(
        fulcio=sigstore.url, rekor=sigstore.url, root=sigstore.root, ctlog=sigstore.ctlog, log=sigstore.rekor
    )


@pytest.fixture(scope="module")
def sigstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sigstore]:
    """In a job that may ask for tokens."""
    with (
        Sigstore(tmp_path_factory.mktemp("sigstore"), workflow=WORKFLOW) as made,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name, value in made.environment.items():
            patched.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def desk(engine: DockerEngine, stores: HttpRegistry, sigstore: Sigstore) -> Desk:
    tools = images.release_tools(pins.load(), engine=engine)
    cosign = ToolCosign(engine=engine, tools=tools, instance=_instance(sigstore))
    return Desk(engine=engine, registry=stores, cosign=cosign, tools=tools, key=None)


@pytest.fixture(scope="module")
def released(tiny_line: Line, desk: Desk) -> Release:
    source = Source(revision="0" * 40, remote="https://github.com/octo/yard.git", clean=True)
    # Not into the registry of the other releases, whose layers the engine would know to be there then.
    return tiny_line.release(desk, releases=f"127.0.0.1:{REGISTRIES[1]}/keyless/releases", source=source)


@pytest.fixture
def office(released: Release, desk: Desk, tmp_path: Path, request: pytest.FixtureRequest) -> Office:
    """Channels named after the test, whose signer is the workflow on any branch."""
    name = request.node.name.removeprefix("test_").replace("_", "-")
    text = (HOME / "promotion.toml").read_text()
    identity = f"https://github.com/{WORKFLOW.removesuffix('main')}*"
    text = text.replace(
        'local = "~/.config/torchyard/cosign.pub"', f'local = {{ identity = "{identity}", issuer = "{ISSUER}" }}'
    )
    for channel, port in zip(("staging", "production"), REGISTRIES, strict=True):
        text = text.replace(f"127.0.0.1:5000/{channel}", f"127.0.0.1:{port}/keyless/{name}/{channel}")
    (tmp_path / "promotion.toml").write_text(text)
    return Office(
        policy=policy.load(tmp_path / "promotion.toml"),
        releases=released.repository.removesuffix(f"/{NAME}"),
        registry=desk.registry,
        cosign=desk.cosign,
        key=None,
        holder=Holder(name="workflow@github", process=os.getpid(), machine=machine()),
    )


def _reference(released: Release) -> str:
    return f"{released.repository}@{released.digest}"


def _verify(released: Release, desk: Desk, by: Identity = US) -> Evidence:
    return verify(_reference(released), signers=(by,), registry=desk.registry, cosign=desk.cosign)


def test_provenance_names_the_workflow_that_built_it(released: Release, desk: Desk) -> None:
    made = _verify(released, desk).attestation(PROVENANCE)
    assert made
    assert made.predicate["runDetails"]["builder"]["id"] == OURS.identity


def test_an_outsider_verifies_with_cosign_alone(
    released: Release, desk: Desk, engine: DockerEngine, sigstore: Sigstore
) -> None:
    common = (f"--certificate-identity={OURS.identity}", f"--certificate-oidc-issuer={ISSUER}", _reference(released))
    kinds = (CYCLONEDX, SPDX, PROVENANCE, TEST_RESULT)
    roots = {
        "SIGSTORE_ROOT_FILE": sigstore.root,
        "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE": sigstore.ctlog,
        "SIGSTORE_REKOR_PUBLIC_KEY": sigstore.rekor,
    }
    for command in (("verify", *common), *(("verify-attestation", f"--type={kind}", *common) for kind in kinds)):
        lines: list[str] = []
        job = Job(
            image=desk.tools.digest,
            command=("/usr/bin/cosign", *command),
            limits=Limits(memory=512, cpus=1, pids=64),
            mounts=tuple(Mount(source=path, target=f"/{name}") for name, path in roots.items()),
            env={"HOME": "/tmp", **{name: f"/{name}" for name in roots}},
            network=True,
        )
        engine.run(job, on_line=lines.append)
        said = "\n".join(lines)
        assert "Existence of the claims in the transparency log was verified offline" in said
        assert "The code-signing certificate was verified using trusted certificate authority certificates" in said


def test_from_release_to_production_and_back(office: Office, released: Release, desk: Desk) -> None:
    now = datetime.now(UTC)
    for channel in ("staging", "production"):
        entry = promote(NAME, to=channel, now=now, office=office)
        assert entry
        assert entry.digest == released.digest
        assert promote(NAME, to=channel, now=now, office=office) is None
    entry = rollback(NAME, channel="production", to=released.digest, reason="a drill", now=now, office=office)
    assert (entry.sequence, entry.reason) == (2, "a drill")
    rows = {row.channel: row for row in status((NAME,), now=now, office=office)}
    assert set(rows) == {"releases", "staging", "production"}
    assert {(row.digest, row.problems) for row in rows.values()} == {(released.digest, ())}
    there = f"{office.repository('production', NAME)}@{released.digest}"
    verify(there, signers=(US,), registry=desk.registry, cosign=desk.cosign)


def test_the_archive_comes_back_by_digest(released: Release, desk: Desk, tmp_path: Path) -> None:
    reference = f"{released.repository}@{released.model}"
    files = fetch(reference, tmp_path, signers=(US,), registry=desk.registry, cosign=desk.cosign)
    assert released.image.archive.file.sha256 in {file.sha256 for file in files}


@pytest.mark.parametrize(
    "claimed",
    [
        replace(OURS, identity="https://github.com/somebody/else/.github/workflows/release.yml@refs/heads/main"),
        replace(OURS, identity=OURS.identity.removesuffix("n")),
        replace(OURS, identity=OURS.identity.replace(".yml", "-yml").replace("-yml", "?yml")),
        replace(OURS, identity=OURS.identity.replace("heads/main", "tags/*")),
        replace(OURS, issuer="https://accounts.example.com"),
    ],
    ids=["another workflow", "the beginning of ours", "no pattern", "a tag", "another issuer"],
)
def test_only_who_is_named_counts(released: Release, desk: Desk, claimed: Claimed) -> None:
    with pytest.raises(VerifyError, match=r"signature-by-another-key(.|\n)*none verifies under a signer's key"):
        _verify(released, desk, Identity(name="other", claimed=claimed))


def test_a_key_is_nobody_here(released: Release, desk: Desk, sigstore: Sigstore) -> None:
    with pytest.raises(VerifyError, match="signature-by-another-key"):
        _verify(released, desk, Identity(name="key", key=sigstore.rekor))


def test_certificates_of_another_authority_do_not_count(
    released: Release, desk: Desk, engine: DockerEngine, sigstore: Sigstore, tmp_path: Path
) -> None:
    _verify(released, desk)
    other = Sigstore(tmp_path, workflow=WORKFLOW)
    ours = _instance(sigstore)
    for instance in (replace(ours, root=other.root), replace(ours, ctlog=other.ctlog), replace(ours, log=other.rekor)):
        there = replace(desk, cosign=ToolCosign(engine=engine, tools=desk.tools, instance=instance))
        with pytest.raises(VerifyError, match="signature-by-another-key"):
            _verify(released, there)


def test_a_signature_needs_its_place_in_the_log(desk: Desk) -> None:
    signature = desk.cosign.sign_bytes(b"content", key=None)
    assert desk.cosign.verifies(b"content", signature, by=US)
    assert not desk.cosign.verifies(b"contents", signature, by=US)
    bundle = json.loads(signature)
    assert not desk.cosign.verifies(b"content", json.dumps(bundle | {"rekorBundle": None}), by=US)
    later = bundle["rekorBundle"]["Payload"] | {
        "integratedTime": bundle["rekorBundle"]["Payload"]["integratedTime"] + 9
    }
    changed = bundle["rekorBundle"] | {"Payload": later}
    assert not desk.cosign.verifies(b"content", json.dumps(bundle | {"rekorBundle": changed}), by=US)


def test_an_attestation_whose_promise_was_exchanged_is_refused(released: Release, desk: Desk) -> None:
    where, digest = parse(_reference(released))
    elsewhere = replace(where, path=f"{where.path}-changed")
    desk.cosign.copy(_reference(released), f"{elsewhere}:copy")
    found = desk.registry.manifest(elsewhere, attached(digest, "att"))
    assert found
    first, second, *others = found.layers
    theirs = dict(second.annotations)["dev.sigstore.cosign/bundle"]
    exchanged = replace(
        first, annotations=tuple((dict(first.annotations) | {"dev.sigstore.cosign/bundle": theirs}).items())
    )
    layers = (exchanged, second, *others)
    desk.registry.put_manifest(elsewhere, attached(digest, "att"), manifest(found.config, layers))
    with pytest.raises(VerifyError, match=r"evidence-signature(.|\n)*does not verify under any signer's key"):
        verify(f"{elsewhere}@{digest}", signers=(US,), registry=desk.registry, cosign=desk.cosign)


def test_whoever_is_no_signer_of_a_channel_changes_nothing_there(
    office: Office, sigstore: Sigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sigstore, "workflow", "octo/fork/.github/workflows/release.yml@refs/heads/main")
    with pytest.raises(PromoteError, match=r"not-a-signer: https://github.com/octo/fork/(.|\n)*none of the signers"):
        promote(NAME, to="staging", now=datetime.now(UTC), office=office)
    assert office.registry.tags(office.repository("staging", NAME)) == ()


def test_without_a_token_nothing_begins(tiny_line: Line, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    where = f"127.0.0.1:{REGISTRIES[0]}/tokenless"
    with pytest.raises(ReleaseError, match=r"id-token: write.*SIGSTORE_ID_TOKEN"):
        tiny_line.release(desk, releases=where, source=Source(revision="0" * 40, remote="", clean=True))
    repository, _ = parse(f"{where}/{NAME}")
    assert desk.registry.tags(repository) == ()


def test_a_token_for_somebody_else_is_refused(desk: Desk, sigstore: Sigstore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token("somebody-else"))
    with pytest.raises(ReleaseError, match=r"could not sign without a key(.|\n)*the token is for somebody-else"):
        desk.cosign.sign_bytes(b"content", key=None)


def test_a_token_is_in_no_argument_and_no_log(desk: Desk, sigstore: Sigstore, monkeypatch: pytest.MonkeyPatch) -> None:
    token = sigstore.token("sigstore")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", token)
    seen: list[str] = []
    run = desk.engine.run

    def watched(job: Job, *, on_line: Callable[[str], None]) -> None:
        seen.extend(job.command)
        run(job, on_line=seen.append)
        on_line("ended")

    monkeypatch.setattr(desk.engine, "run", watched)
    desk.cosign.sign_bytes(b"content", key=None)
    assert seen
    assert token not in " ".join(seen)
    assert base64.b64encode(token.encode()).decode() not in " ".join(seen)
