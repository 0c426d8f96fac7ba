"""A release and its promotions with real registries and real cosign, and every attack on them refused in its own words.

Each test works in channels of its own, into which it promotes the one release that all share.
"""

import base64
import gzip
import json
import os
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from pipeline import images, pins, policy, registry
from pipeline.artifacts import Limits, ModelSpec, Release
from pipeline.diff import diff
from pipeline.engine import Job, Mount
from pipeline.engine.credentials import credentials
from pipeline.engine.docker import DockerEngine
from pipeline.errors import PipelineError, PromoteError, RegistryError, ReleaseError, VerifyError
from pipeline.evidence import (
    CHANNEL,
    CYCLONEDX,
    EVIDENCE,
    PROVENANCE,
    SPDX,
    TEST_RESULT,
    Attestation,
    Evidence,
    binding,
    when,
)
from pipeline.evidence.collecting import attached
from pipeline.fetch import fetch
from pipeline.keys import keys
from pipeline.line import Line
from pipeline.oci import DOCKER_MANIFEST, Blob, Manifest, Repository, digest_of, manifest, parse
from pipeline.oci.http import HttpRegistry
from pipeline.promote import Office, approve, promote, rollback
from pipeline.promote import log as logs
from pipeline.promote.lock import Holder, hold, machine
from pipeline.release import Desk, release
from pipeline.release.provenance import LOCAL, Source
from pipeline.reproduce import device, reproduce
from pipeline.settings import HOME
from pipeline.signing import PASSPHRASE, Identity, Key, ToolCosign, attested, envelope, me
from pipeline.status import status
from pipeline.verify import verify
from tests.containers.conftest import REGISTRIES

NAME = "tiny"
SOURCE = Source(revision="0" * 40, remote="https://example.com/models.git", clean=True)


@pytest.fixture(scope="session")
def key(cosign: ToolCosign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("keys") / "cosign.key"
    keys(private, cosign=cosign)
    return private


@pytest.fixture(scope="session")
def stranger(cosign: ToolCosign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("stranger") / "cosign.key"
    keys(private, cosign=cosign)
    return private


@pytest.fixture(scope="session")
def desk(engine: DockerEngine, stores: HttpRegistry, cosign: ToolCosign, key: Path) -> Desk:
    tools = images.release_tools(pins.load(), engine=engine)
    return Desk(engine=engine, registry=stores, cosign=cosign, tools=tools, key=key)


@pytest.fixture(scope="session")
def released(tiny_line: Line, desk: Desk) -> Release:
    return tiny_line.release(desk, releases=f"127.0.0.1:{REGISTRIES[0]}/releases", source=SOURCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yard:
    """The channels of one test: staging in the first registry, production in the second."""

    office: Office
    digest: str

    def repository(self, channel: str) -> Repository:
        return self.office.repository(channel, NAME)

    def promote(self, to: str, **options: Any) -> logs.Entry | None:
        return promote(NAME, to=to, office=self.office, **{"now": datetime.now(UTC)} | options)

    def tag(self, channel: str) -> str | None:
        found = self.office.registry.manifest(self.repository(channel), channel)
        return found.digest if found else None


def _named_after(request: pytest.FixtureRequest) -> str:
    """What a repository of a test is called."""
    return re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")


@pytest.fixture
def yard(released: Release, desk: Desk, tmp_path: Path, request: pytest.FixtureRequest) -> Yard:
    """Channels named after the test."""
    name = _named_after(request)
    text = (HOME / "promotion.toml").read_text()
    text = text.replace("~/.config/torchyard/cosign.pub", str(me(desk.key).key))
    text = text.replace("127.0.0.1:5000/staging", f"127.0.0.1:{REGISTRIES[0]}/{name}/staging")
    text = text.replace("127.0.0.1:5000/production", f"127.0.0.1:{REGISTRIES[1]}/{name}/production")
    (tmp_path / "promotion.toml").write_text(text)
    office = Office(
        policy=policy.load(tmp_path / "promotion.toml"),
        releases=f"127.0.0.1:{REGISTRIES[0]}/releases",
        registry=desk.registry,
        cosign=desk.cosign,
        key=desk.key,
        holder=Holder(name="somebody@here", process=os.getpid(), machine=machine()),
    )
    return Yard(office=office, digest=released.digest)


def _signer(key: Key) -> tuple[Identity, ...]:
    return (me(key),)


@pytest.fixture(scope="session")
def evidence(released: Release, desk: Desk) -> Evidence:
    """The release, verified."""
    reference = f"{released.repository}@{released.digest}"
    return verify(reference, signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)


def test_a_release_verifies_and_says_how_it_was_made(evidence: Evidence, released: Release) -> None:
    assert {each.name for each in evidence.attestations} == {
        *(CYCLONEDX, SPDX, PROVENANCE),
        *(f"{TEST_RESULT} {gate}" for gate in ("check", "audit", "smoke")),
    }
    found = evidence.attestation(PROVENANCE)
    assert found
    made = found.predicate["buildDefinition"]
    assert made["externalParameters"]["source"]["digest"] == {"gitCommit": SOURCE.revision}
    named = {each.get("name"): each["digest"]["sha256"] for each in made["resolvedDependencies"] if "name" in each}
    assert named["archive"] == released.image.archive.file.sha256
    assert f"sha256:{named['torchscript-runtime']}" == released.image.runtime
    assert f"model_src/{NAME}/model.py" in named
    debs = {each["uri"]: each["digest"]["sha256"] for each in made["resolvedDependencies"] if _is_deb(each)}
    assert len(debs) == len((pins.IMAGES / "base" / "serving.packages").read_text().splitlines())
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in debs.values())
    inside = made["internalParameters"]
    assert (inside["params"], inside["training"]["epochs"], inside["clean"]) == ({"hidden": 16}, 20, True)
    assert inside["level"].startswith("SLSA build level 1")
    assert timedelta() < datetime.now(UTC) - when(inside["packagesFetched"]) < timedelta(days=60)
    told = found.predicate["runDetails"]
    assert told["builder"]["id"] == LOCAL
    records = {each["name"]: each.get("digest", {}).get("sha256", "") for each in told["byproducts"]}
    for step in ("train", "export", "check", "assemble", "audit", "smoke"):
        assert re.fullmatch("[0-9a-f]{64}", records[f"record of {step}"])


def _is_deb(material: dict[str, Any]) -> bool:
    return str(material.get("uri", "")).startswith("pkg:deb/")


def test_strict_validators_accept_sboms_and_provenance(released: Release, evidence: Evidence) -> None:
    boms = {file.path.name: file.path for file in released.sboms}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(boms["cyclonedx.json"].read_text()) is None
    document = parse_file(str(boms["spdx.json"]))
    assert not validate_full_spdx_document(document)
    found = evidence.attestation(PROVENANCE)
    assert found
    json_format.ParseDict(dict(found.predicate), provenance_pb2.Provenance())


def test_every_file_of_the_image_is_in_the_sbom(released: Release, desk: Desk) -> None:
    boms = {file.path.name: json.loads(file.path.read_text()) for file in released.sboms}
    listed = {
        file["name"].removeprefix("/"): file["hashes"][0]["content"]
        for component in boms["cyclonedx.json"]["components"]
        for file in component.get("components", ())
    }
    assert {each["fileName"].removeprefix("./") for each in boms["spdx.json"]["files"]} == set(listed)
    engines = {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"}
    with desk.engine.files(released.image.digest) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        found = {member.name for member in archive if member.isreg()}
    assert found - engines == set(listed)
    assert listed["model/model.pt"] == released.image.archive.file.sha256


def test_no_layer_hides_a_file_from_the_sbom(released: Release, desk: Desk) -> None:
    """What lies under another file, or is removed by a later layer, is shipped all the same: there is no such file."""
    seen: list[str] = []
    with desk.engine.save(released.image.digest) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content and (member.name.endswith("/layer.tar") or member.name.startswith("blobs/sha256/")):
                with suppress(tarfile.ReadError), tarfile.open(fileobj=BytesIO(content.read())) as layer:
                    seen += [each.name.removeprefix("./") for each in layer if not each.isdir()]
    assert "model/model.pt" in seen
    assert len(set(seen)) == len(seen)
    assert [name for name in seen if name.rpartition("/")[2].startswith(".wh.")] == []


def test_the_sbom_names_what_syft_cannot_see(released: Release) -> None:
    boms = {file.path.name: json.loads(file.path.read_text()) for file in released.sboms}
    kinds = {each["name"]: each for each in boms["cyclonedx.json"]["components"]}
    assert kinds["torch"]["purl"] == "pkg:pypi/torch@2.8.0"
    assert kinds["nvidia-cuda-runtime-cu12"]["version"].startswith("12.8")
    assert kinds["libc6"]["purl"].startswith("pkg:deb/debian/libc6@2.41")
    assert kinds["model.pt"]["type"] == "machine-learning-model"
    assert kinds["model.pt"]["licenses"] == [{"expression": "Apache-2.0"}]
    data = released.image.archive.trained.data
    assert set(data) == {"training", "held-out"}
    assert kinds["model.pt"]["modelCard"]["modelParameters"]["datasets"] == [
        {"ref": f"data/{NAME}-{name}-data"} for name in data
    ]
    packages = {each["name"]: each for each in boms["spdx.json"]["packages"]}
    for name, split in data.items():
        assert kinds[f"{NAME}-{name}-data"]["type"] == "data"
        assert kinds[f"{NAME}-{name}-data"]["hashes"] == [{"alg": "SHA-256", "content": split.sha256}]
        told = packages[f"{NAME}-{name}-data"]
        assert told["checksums"] == [{"algorithm": "SHA256", "checksumValue": split.sha256}]
        relation = {"spdxElementId": packages["model.pt"]["SPDXID"], "relatedSpdxElement": told["SPDXID"]}
        assert {**relation, "relationshipType": "GENERATED_FROM"} in boms["spdx.json"]["relationships"]


def test_an_outsider_verifies_with_cosign_alone(released: Release, desk: Desk, engine: DockerEngine) -> None:
    reference = f"{released.repository}@{released.digest}"
    common = ("--key=/key.pub", "--insecure-ignore-tlog=true")
    kinds = (CYCLONEDX, SPDX, PROVENANCE, TEST_RESULT)
    attestations = (("verify-attestation", f"--type={kind}", *common, reference) for kind in kinds)
    for command in (("verify", *common, reference), *attestations):
        job = Job(
            image=desk.tools.digest,
            command=("/usr/bin/cosign", *command),
            limits=Limits(memory=512, cpus=1, pids=64),
            mounts=(Mount(source=_signer(desk.key)[0].key or Path(), target="/key.pub"),),
            env={"HOME": "/tmp"},
            network=True,
        )
        lines: list[str] = []
        engine.run(job, on_line=lines.append)
        assert any("The signatures were verified against the specified public key" in line for line in lines)


def test_the_archive_comes_back_by_digest(released: Release, desk: Desk, tmp_path: Path) -> None:
    reference = f"{released.repository}@{released.model}"
    files = fetch(reference, tmp_path, signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)
    found = {file.path.name: file.sha256 for file in files}
    archive = released.image.archive
    assert found == {file.path.name: file.sha256 for file in (archive.file, archive.contract, archive.samples)}


def test_an_archive_is_kept_in_another_store_too(
    tiny_line: Line, desk: Desk, released: Release, tmp_path: Path
) -> None:
    there = replace(desk, store=f"file://{tmp_path}/store")
    made = tiny_line.release(there, releases=f"127.0.0.1:{REGISTRIES[0]}/releases", source=SOURCE)
    assert made.stored == f"file://{tmp_path}/store/{NAME}@{released.model}"
    files = fetch(made.stored, tmp_path / "out", signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)
    assert released.image.archive.file.sha256 in {file.sha256 for file in files}
    moved = made.stored.replace("/store/", "/moved/")
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(VerifyError, match="no signature for this place verifies"):
        fetch(moved, tmp_path / "again", signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)


def test_a_release_is_made_again_from_its_materials(
    evidence: Evidence, engine: DockerEngine, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    line = Line(tiny_spec, pins=pins.load(), engine=engine, build=tmp_path)
    compared = reproduce(evidence, tiny_spec, line)
    assert [each.what for each in compared if each.is_material] == [
        *("training data", "held-out data", "pytorch-cuda", "torchscript-runtime")
    ]
    assert [each.what for each in compared if not each.is_material] == [
        *("weights", "samples", "archive", "model layer", "image")
    ]
    assert {each.what for each in compared if not each.agrees} == set()
    assert device(evidence) == "cpu"


def test_other_sources_are_not_made_into_the_release(evidence: Evidence, tiny_line: Line, tiny_spec: ModelSpec) -> None:
    changed = replace(tiny_spec, sources=tuple(replace(file, sha256="0" * 64) for file in tiny_spec.sources))
    with pytest.raises(VerifyError, match=f"model.py, model.yaml differ(.|\n)*commit {SOURCE.revision}"):
        reproduce(evidence, changed, tiny_line)


def test_a_release_again_changes_nothing_but_its_times(tiny_line: Line, desk: Desk, released: Release) -> None:
    again = tiny_line.release(desk, releases=f"127.0.0.1:{REGISTRIES[0]}/releases", source=SOURCE)
    assert (again.digest, again.sent) == (released.digest, 0)
    assert released.sent > 0


def test_an_image_that_was_not_judged_is_not_released(tiny_line: Line, desk: Desk, released: Release) -> None:
    image = replace(tiny_line.assemble, digest="sha256:" + "0" * 64)
    repository, _ = parse(released.repository)
    with pytest.raises(ReleaseError, match=r"audit judged sha256:\w+, and this is sha256:0{64}"):
        release(
            image,
            judgements=released.judgements,
            repository=repository,
            making=None,  # type: ignore[arg-type]
            out=Path("nowhere"),
            desk=desk,
        )


def test_the_passphrase_stays_out_of_arguments_labels_and_logs(desk: Desk, engine: DockerEngine) -> None:
    jobs: list[Job] = []
    lines: list[str] = []

    class Watching(DockerEngine):
        def run(self, job: Job, *, on_line: Callable[[str], None]) -> None:
            jobs.append(job)
            super().run(job, on_line=lines.append)
            on_line("ended")

    client = docker.from_env()
    try:
        watched = ToolCosign(engine=Watching(client, engine.info().address), tools=desk.tools)
        watched.sign_bytes(b"content", key=desk.key)
    finally:
        client.close()
    assert len(jobs) == 1
    assert PASSPHRASE in jobs[0].env
    assert "planted-passphrase" not in " ".join([*jobs[0].command, *lines])
    assert [mount for mount in jobs[0].mounts if mount.writable and mount.source == desk.key] == []
    assert not jobs[0].network


def test_a_wrong_passphrase_and_a_missing_key_are_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "planted-mistake")
    with pytest.raises(ReleaseError, match=r"could not sign with .*, and is its passphrase what"):
        desk.cosign.sign_bytes(b"content", key=desk.key)
    with pytest.raises(ReleaseError, match="there is no such private key"):
        desk.cosign.sign_bytes(b"content", key=Path("/nowhere/cosign.key"))


def test_from_release_to_production_and_back(yard: Yard) -> None:
    assert yard.promote("staging", dry_run=True) is None
    assert yard.tag("staging") is None
    first = yard.promote("staging")
    assert first
    assert (first.sequence, first.previous) == (1, "")
    assert yard.promote("staging") is None
    assert yard.promote("production")
    assert yard.tag("staging") == yard.tag("production") == yard.digest
    with pytest.raises(PromoteError, match="the log has no digest before the current one to go back to"):
        rollback(NAME, channel="production", reason="it smells", now=datetime.now(UTC), office=yard.office)
    entry = rollback(
        NAME, channel="production", to=yard.digest, reason="a drill", now=datetime.now(UTC), office=yard.office
    )
    assert (entry.sequence, entry.reason) == (2, "a drill")
    rows = {row.channel: row for row in status((NAME,), now=datetime.now(UTC), office=yard.office)}
    assert {name: row.problems for name, row in rows.items()} == {"releases": (), "staging": (), "production": ()}
    assert rows["production"].digest == yard.digest
    assert rows["production"].signers == ("local",)


def _refused(yard: Yard, to: str = "staging", **options: Any) -> str:
    with pytest.raises(PipelineError) as refused:
        yard.promote(to, **options)
    assert yard.tag(to) != yard.digest
    return str(refused.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forger:
    """Somebody who can write to the registry, and has a key of his own."""

    yard: Yard
    key: Path

    @property
    def source(self) -> Repository:
        """A copy of the release, in releases of this test's own."""
        return self.yard.repository("releases")

    def put(self, what: str, *layers: Blob) -> None:
        """Puts other layers in the place of what is attached, with a configuration that fits."""
        store = self.yard.office.registry
        document = {"rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]}}
        kind = self.attachments(what).config.media_type
        config = store.put_blob(self.source, json.dumps(document).encode(), media_type=kind)
        store.put_manifest(self.source, attached(self.yard.digest, what), manifest(config, layers))

    def attachments(self, what: str) -> Manifest:
        found = self.yard.office.registry.manifest(self.source, attached(self.yard.digest, what))
        assert found
        return found

    def statements(self) -> list[bytes]:
        """What is attested of the release."""
        store = self.yard.office.registry
        envelopes = [store.blob(self.source, layer.digest) for layer in self.attachments("att").layers]
        return [base64.b64decode(json.loads(each)["payload"]) for each in envelopes]

    def sign(self, digest: str, statements: list[bytes], key: Key) -> None:
        bound = binding(tuple(digest_of(each).removeprefix("sha256:") for each in statements))
        notes = {CHANNEL: "releases", EVIDENCE: bound}
        self.yard.office.cosign.sign(self.source.at(digest), key=key, annotations=notes)

    def release(self, digest: str, statements: list[dict[str, Any]]) -> None:
        """Attests these of a digest, with our key, in the place of all that was, and signs it."""
        office, encoded, layers = self.yard.office, [json.dumps(each).encode() for each in statements], []
        for each, layer in zip(encoded, self.attachments("att").layers, strict=True):
            content, notes = attested(each, cosign=office.cosign, key=office.key)
            blob = office.registry.put_blob(self.source, content, media_type=layer.media_type)
            layers.append(replace(blob, annotations=notes))
        made = manifest(self.attachments("att").config, tuple(layers))
        office.registry.put_manifest(self.source, attached(digest, "att"), made)
        self.sign(digest, encoded, office.key)


@pytest.fixture
def forger(yard: Yard, stranger: Path, request: pytest.FixtureRequest) -> Forger:
    """With the release copied, unsigned, to releases of this test's own, where it is signed again with our key."""
    name = _named_after(request)
    office = replace(yard.office, releases=f"127.0.0.1:{REGISTRIES[0]}/{name}/releases")
    forged = Forger(yard=replace(yard, office=office), key=stranger)
    original = yard.repository("releases")
    office.cosign.copy(original.at(yard.digest), f"{forged.source}:releases")
    return forged


def _sign(forger: Forger, key: Key) -> None:
    forger.sign(forger.yard.digest, forger.statements(), key)


def test_a_signature_copied_from_another_repository_is_refused(forger: Forger) -> None:
    told = _refused(forger.yard)
    assert "signature-of-another-place" in told
    assert "releases/tiny as releases, and not for this repository" in told


def test_an_unsigned_image_is_refused(forger: Forger) -> None:
    forger.put("sig")
    assert "unsigned: " in _refused(forger.yard)


def test_a_signature_by_another_key_is_refused(forger: Forger) -> None:
    forger.put("sig")
    _sign(forger, forger.key)
    assert "signature-by-another-key" in _refused(forger.yard)


def test_an_attestation_that_is_removed_duplicated_or_changed_is_refused(forger: Forger) -> None:
    _sign(forger, forger.yard.office.key)
    whole, store = forger.attachments("att"), forger.yard.office.registry
    assert forger.yard.promote("staging", dry_run=True) is None

    forger.put("att", *whole.layers[:-1])
    told = _refused(forger.yard)
    assert f"evidence-missing: {TEST_RESULT} smoke" in told
    assert "evidence-changed" in told

    forger.put("att", *whole.layers, whole.layers[-1])
    told = _refused(forger.yard)
    assert f"evidence-duplicated: {TEST_RESULT} smoke" in told

    statement = base64.b64decode(json.loads(store.blob(forger.source, whole.layers[-1].digest))["payload"])
    better = statement.replace(b'"WARNED"', b'"PASSED"').replace(b'"at":"20', b'"at":"19')
    forged = envelope(better, cosign=forger.yard.office.cosign, key=forger.key)
    blob = store.put_blob(forger.source, forged, media_type=whole.layers[-1].media_type)
    forger.put("att", *whole.layers[:-1], blob)
    told = _refused(forger.yard)
    assert f"evidence-signature: {TEST_RESULT} smoke" in told

    elsewhere = statement.replace(forger.yard.digest.removeprefix("sha256:").encode(), b"e" * 64)
    copied = envelope(elsewhere, cosign=forger.yard.office.cosign, key=forger.yard.office.key)
    blob = store.put_blob(forger.source, copied, media_type=whole.layers[-1].media_type)
    forger.put("att", *whole.layers[:-1], blob)
    told = _refused(forger.yard)
    assert "evidence-of-another-digest" in told
    assert f"is about sha256:{'e' * 64} and was copied here" in told


def test_a_verdict_that_is_too_old_is_refused(yard: Yard) -> None:
    told = _refused(yard, now=datetime.now(UTC) + timedelta(days=31))
    assert told.count("verdict-too-old") == 3
    assert "staging takes none older than 30 days" in told


def test_a_stage_cannot_be_skipped(yard: Yard) -> None:
    assert "there is nothing in staging, so nothing can come from there" in _refused(yard, "production")
    told = _refused(yard, "production", digest="sha256:" + "f" * 64)
    assert "the registry has nothing with this digest" in told


def _swapped(forger: Forger, document: dict[str, Any]) -> str:
    """What a promotion says to another manifest in the release's place, with all that hung on that."""
    store = forger.yard.office.registry
    swapped = Manifest(media_type=DOCKER_MANIFEST, content=json.dumps(document).encode())
    store.put_manifest(forger.source, "releases", swapped)
    for what in ("sig", "att"):
        store.put_manifest(forger.source, attached(swapped.digest, what), forger.attachments(what))
    return _refused(forger.yard)


def test_a_swapped_archive_is_refused(forger: Forger) -> None:
    """The layer is exchanged and the manifest follows, and then the configuration as well."""
    store, digest = forger.yard.office.registry, forger.yard.digest
    found = store.manifest(forger.source, digest)
    assert found
    other = BytesIO()
    with tarfile.open(fileobj=other, mode="w:gz") as layer:
        member = tarfile.TarInfo("model/model.pt")
        member.size = 4
        layer.addfile(member, BytesIO(b"evil"))
    blob = store.put_blob(forger.source, other.getvalue(), media_type=found.layers[-1].media_type)
    document = json.loads(found.content)
    document["layers"][-1] |= {"digest": blob.digest, "size": blob.size}
    told = _swapped(forger, document)
    assert f"content: {forger.source}" in told
    assert f"{blob.digest} unpacks to sha256:" in told

    # Whoever does it well changes the configuration, too.
    config = json.loads(store.blob(forger.source, found.config.digest))
    config["rootfs"]["diff_ids"][-1] = digest_of(gzip.decompress(other.getvalue()))
    put = store.put_blob(forger.source, json.dumps(config).encode(), media_type=found.config.media_type)
    document["config"] |= {"digest": put.digest, "size": put.size}
    told = _swapped(forger, document)
    assert "archive: " in told
    assert "the archive inside is" in told
    assert "evidence-of-another-digest" in told
    assert "unsigned" in told or "signature-by-another-key" in told


def test_bytes_changed_on_the_registrys_disk_are_noticed(released: Release, forger: Forger) -> None:
    layer = forger.yard.office.registry.manifest(forger.source, released.digest)
    assert layer
    digest = layer.layers[-1].digest.removeprefix("sha256:")
    path = f"/var/lib/registry/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}"
    client = docker.from_env()
    container = client.containers.get(f"torchyard-registry-{REGISTRIES[0]}")
    chunks, _ = container.get_archive(f"{path}/data")
    original = b"".join(chunks)
    forged = BytesIO()
    with tarfile.open(fileobj=forged, mode="w") as archive:
        member = tarfile.TarInfo("data")
        member.size, member.uid, member.gid = layer.layers[-1].size, 65532, 65532
        archive.addfile(member, BytesIO(b"\0" * member.size))
    try:
        assert container.put_archive(path, forged.getvalue())
        told = _refused(forger.yard)
    finally:
        container.put_archive(path, original)
        client.close()
    assert "content: " in told
    assert "the registry gives something else, with the digest sha256:" in told


def test_a_tag_moved_behind_our_back_is_refused_and_put_right(yard: Yard, released: Release) -> None:
    yard.promote("staging")
    store, where = yard.office.registry, yard.repository("staging")
    found = store.manifest(where, released.digest)
    assert found
    other = Manifest(media_type=found.media_type, content=found.content + b"\n")
    store.put_manifest(where, "staging", other)
    told = _refused(yard, "production", digest=yard.digest)
    assert f"names {other.digest}, and the log says {yard.digest}: the tag was moved behind our back" in told
    row = next(row for row in status((NAME,), now=datetime.now(UTC), office=yard.office) if row.channel == "staging")
    assert "drift" in row.problems
    now = datetime.now(UTC)
    rollback(NAME, channel="staging", to=yard.digest, reason="the tag was moved", now=now, office=yard.office)
    assert yard.tag("staging") == yard.digest
    assert yard.promote("production", dry_run=True) is None


def test_a_changed_log_is_refused(yard: Yard) -> None:
    yard.promote("staging")
    now = datetime.now(UTC)
    rollback(NAME, channel="staging", to=yard.digest, reason="the true reason", now=now, office=yard.office)
    store, where = yard.office.registry, yard.repository("staging")
    whole = store.manifest(where, logs.TAG)
    assert whole

    def forged(number: int) -> Manifest:
        document = json.loads(store.blob(where, whole.layers[number].digest))
        statement = base64.b64decode(document["payload"]).replace(b"somebody@here", b"nobody@there!")
        document["payload"] = base64.b64encode(statement).decode()
        blob = store.put_blob(where, json.dumps(document).encode(), media_type=whole.layers[0].media_type)
        layers = (*whole.layers[:number], blob, *whole.layers[number + 1 :])
        return manifest(whole.config, layers)

    store.put_manifest(where, logs.TAG, forged(0))
    assert "log-chain: " in _refused(yard, "production")
    store.put_manifest(where, logs.TAG, forged(1))
    assert "log-signature: " in _refused(yard, "production")
    store.put_manifest(where, logs.TAG, manifest(whole.config, whole.layers[1:]))
    assert "log-chain: " in _refused(yard, "production")
    store.put_manifest(where, logs.TAG, whole)
    assert yard.promote("production", dry_run=True) is None


def _log(yard: Yard, channel: str) -> logs.Log:
    signers = yard.office.policy.channel(channel).signers
    return logs.read(
        yard.repository(channel), signers=signers, registry=yard.office.registry, cosign=yard.office.cosign
    )


def test_of_two_promotions_at_once_one_wins_and_nothing_is_lost(yard: Yard) -> None:
    def run(name: str) -> str:
        racer = replace(yard.office, holder=Holder(name=name, process=os.getpid(), machine=machine()))
        try:
            return str(promote(NAME, to="staging", now=datetime.now(UTC), office=racer))
        except PromoteError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        told = list(pool.map(run, ("one@here", "two@there")))
    lost = [each for each in told if "was first. Nothing of yours was done" in each]
    assert len(lost) <= 1
    log = _log(yard, "staging")
    assert (len(log.entries), log.problems) == (1, ())
    assert yard.tag("staging") == yard.digest


def test_who_holds_the_lock_keeps_others_out_until_he_is_gone(yard: Yard) -> None:
    where, store = yard.repository("staging"), yard.office.registry
    theirs = Holder(name="two@there", process=1, machine="there")
    with hold(where, theirs, registry=store) as still:
        with pytest.raises(PromoteError, match=r"two@there \(process 1\) is promoting or rolling back just now"):
            yard.promote("staging")
        still()
    # A run of ours that was killed left its lock behind.
    gone = replace(yard.office.holder, process=2**22 + 1)
    with hold(where, gone, registry=store) as still:
        assert yard.promote("staging")
        with pytest.raises(PromoteError, match="somebody else is promoting or rolling back just now"):
            still()


def _twin(forger: Forger) -> str:
    """Another digest with the same image in it, released as well: its manifest has a line more."""
    store, where = forger.yard.office.registry, forger.source
    found = store.manifest(where, forger.yard.digest)
    assert found
    other = Manifest(media_type=found.media_type, content=found.content + b"\n")
    store.put_manifest(where, other.digest, other)
    subject = [{"name": str(where), "digest": {"sha256": other.digest.removeprefix("sha256:")}}]
    forger.release(other.digest, [each | {"subject": subject} for each in map(json.loads, forger.statements())])
    return other.digest


def test_of_two_digests_at_once_none_is_lost(forger: Forger) -> None:
    """Whoever comes second is refused, or comes after the first: the log has what was said to be done, and the tag is
    the newest of it."""
    _sign(forger, forger.yard.office.key)
    digests = (forger.yard.digest, _twin(forger))

    def run(number: int) -> logs.Entry | str:
        office = replace(forger.yard.office, holder=Holder(name=f"{number}@here", process=number, machine=str(number)))
        try:
            found = promote(NAME, to="staging", digest=digests[number], now=datetime.now(UTC), office=office)
        except PromoteError as error:
            return str(error)
        assert found
        return found

    with ThreadPoolExecutor() as pool:
        told = list(pool.map(run, (0, 1)))
    done = [each for each in told if isinstance(each, logs.Entry)]
    assert done
    assert all("was first. Nothing of yours was done" in each for each in told if isinstance(each, str))
    log = _log(forger.yard, "staging")
    assert ({entry.digest for entry in log.entries}, log.problems) == ({entry.digest for entry in done}, ())
    assert log.current
    assert forger.yard.tag("staging") == log.current.digest
    # Whoever was refused goes on from there.
    behind = next(digest for digest in digests if digest != log.current.digest)
    entry = forger.yard.promote("staging", digest=behind)
    assert entry
    assert (entry.sequence, forger.yard.tag("staging")) == (len(log.entries) + 1, behind)
    now = datetime.now(UTC)
    back = rollback(NAME, channel="staging", reason="slower", now=now, office=forger.yard.office)
    assert back.digest == forger.yard.tag("staging") == log.current.digest


class _Dying(HttpRegistry):
    """A registry that ends when it is about to be written to at this tag."""

    def __init__(self, engine: DockerEngine, port: int, tag: str) -> None:
        super().__init__(credentials)
        self._tag, self._stop = tag, partial(registry.stop, port, engine=engine)

    def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
        if name == self._tag:
            self._stop()
        super().put_manifest(repository, name, manifest)


class _DyingCopy(ToolCosign):
    """Ends the registry that it is about to copy to."""

    def copy(self, source: str, target: str) -> None:
        registry.stop(REGISTRIES[1], engine=self._engine)
        super().copy(source, target)


@pytest.mark.parametrize("moment", ["copy", logs.TAG, "production"])
def test_a_registry_that_dies_on_the_way_is_made_up_for(yard: Yard, engine: DockerEngine, moment: str) -> None:
    """Before the image is copied, before the log has it, and before the tag is moved."""
    yard.promote("staging")
    office = replace(yard.office, registry=_Dying(engine, REGISTRIES[1], moment))
    if moment == "copy":
        office = replace(
            office, cosign=_DyingCopy(engine=engine, tools=images.release_tools(pins.load(), engine=engine))
        )
    with pytest.raises(RegistryError, match="does not answer"):
        replace(yard, office=office).promote("production")
    registry.start(REGISTRIES[1], pins=pins.load(), engine=engine, registry=HttpRegistry(credentials))
    assert yard.tag("production") is None
    entry = yard.promote("production")
    assert entry
    assert (entry.sequence, yard.tag("production")) == (1, yard.digest)
    assert (len(_log(yard, "production").entries), _log(yard, "production").problems) == (1, ())


def test_whoever_has_to_approve_does_so_with_his_own_key(yard: Yard, stranger: Path) -> None:
    boss = Identity(name="boss", key=me(stranger).key)
    channels = dict(yard.office.policy.channels)
    channels["production"] = replace(channels["production"], approvers=(boss,))
    yard = replace(yard, office=replace(yard.office, policy=replace(yard.office.policy, channels=channels)))
    yard.promote("staging")
    assert "approval: boss" in _refused(yard, "production")
    with pytest.raises(PromoteError, match="production asks for the approval of boss"):
        approve(NAME, to="production", office=yard.office)
    assert approve(NAME, to="production", office=replace(yard.office, key=stranger)) == yard.digest
    # It is no signature for a place: what is approved verifies as before, also for those who do not know him.
    reference, signers = yard.repository("staging").at(yard.digest), tuple(yard.office.policy.signers.values())
    assert verify(reference, signers=signers, registry=yard.office.registry, cosign=yard.office.cosign)
    assert yard.promote("production")
    rows = {row.channel: row.problems for row in status((NAME,), now=datetime.now(UTC), office=yard.office)}
    assert rows == {"releases": (), "staging": (), "production": ()}


def test_older_evidence_that_is_put_back_is_noticed(forger: Forger) -> None:
    """It verifies in all that it says: only the log knows that it is no longer what was promoted."""
    _sign(forger, forger.yard.office.key)
    forger.yard.promote("staging")
    store, where = forger.yard.office.registry, forger.yard.repository("staging")
    older = {what: store.manifest(where, attached(forger.yard.digest, what)) for what in ("att", "sig")}
    # As after another `inv release` of the same image.
    statements = [json.loads(each) for each in forger.statements()]
    made = next(each for each in statements if each["predicateType"] == PROVENANCE)
    made["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2026-01-01T00:00:00Z"
    forger.release(forger.yard.digest, statements)
    assert forger.yard.promote("staging")
    for what, found in older.items():
        assert found
        store.put_manifest(where, attached(forger.yard.digest, what), found)
    assert "evidence-exchanged" in _refused(forger.yard, "production")
    assert forger.yard.promote("staging")
    assert forger.yard.promote("production")


def test_what_differs_between_two_releases_is_told(evidence: Evidence) -> None:
    """Against itself, and with one thing changed in each place that is compared, as the real documents have it."""
    assert evidence.contents
    shared = len(evidence.contents.layers)
    assert list(diff(evidence, evidence)) == [f"  layers: {shared} shared, 0 only before, 0 only after"]

    def changed(each: Attestation) -> Attestation:
        predicate = json.loads(json.dumps(dict(each.predicate)))
        if each.kind == CYCLONEDX:
            next(one for one in predicate["components"] if one["name"] == "libc6")["version"] = "0"
        if each.name == f"{TEST_RESULT} smoke":
            predicate["verdict"]["measured"]["p50_ms"] = 0.0
        return replace(each, predicate=predicate)

    contract = json.loads(evidence.contents.labels["io.torchyard.contract"])
    contract["metrics"] = dict.fromkeys(contract["metrics"], 0.0)
    labels = {**evidence.contents.labels, "io.torchyard.contract": json.dumps(contract)}
    contents = replace(evidence.contents, labels=labels, size=7, layers=("sha256:new", *evidence.contents.layers[1:]))
    other = replace(evidence, attestations=tuple(map(changed, evidence.attestations)), contents=contents)
    told = list(diff(evidence, other))
    assert [line.partition(":")[0] for line in told] == [
        "~ package libc6",
        *(f"~ metric {name}" for name in sorted(contract["metrics"])),
        "~ smoke p50_ms",
        "~ image size in bytes",
        "  layers",
    ]
    assert told[-1] == f"  layers: {shared - 1} shared, 1 only before, 1 only after"


def test_evidence_that_was_removed_from_a_channel_is_brought_again(yard: Yard) -> None:
    yard.promote("staging")
    where, name = yard.repository("staging"), attached(yard.digest, "att")
    found = yard.office.registry.manifest(where, name)
    assert found
    yard.office.registry.put_manifest(where, name, manifest(found.config, found.layers[1:]))
    with pytest.raises(PromoteError, match="evidence-missing"):
        yard.promote("production")
    entry = yard.promote("staging")
    assert entry
    assert entry.sequence == 2
    assert yard.promote("staging") is None
    assert yard.promote("production", dry_run=True) is None


def test_a_tag_is_nothing_to_verify(released: Release, desk: Desk) -> None:
    with pytest.raises(VerifyError, match="names no digest"):
        verify(f"{released.repository}:releases", signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)
