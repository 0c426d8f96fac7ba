"""A release with a real registry and real cosign: what is attached, who accepts it, and what stops it."""

import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from packageurl import PackageURL
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from pipeline import pins
from pipeline.artifacts import Archive, File, Limits, ModelSpec, Release
from pipeline.assemble import assemble
from pipeline.diff import diff
from pipeline.engine import Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import ReleaseError, VerifyError
from pipeline.evidence import (
    CYCLONEDX,
    GATES,
    PROVENANCE,
    SPDX,
    TEST_RESULT,
    Attestation,
    Evidence,
    when,
    written,
)
from pipeline.evidence.collecting import attached, collect
from pipeline.fetch import fetch
from pipeline.line import Line
from pipeline.oci import Repository, parse
from pipeline.records import plain
from pipeline.release import Desk, release
from pipeline.release.provenance import LOCAL, Making, Source
from pipeline.release.source import source
from pipeline.reproduce import device, reproduce
from pipeline.signing import PASSPHRASE, Identity, Key, ToolCosign, me
from pipeline.verify import verify
from tests.containers.conftest import REGISTRIES, SOURCE

NAME = "tiny"


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
    # Debian may have newer versions by now.
    lists = (pins.IMAGES / f"{name}.packages" for name in ("base/serving", "pytorch-cuda/toolchain"))
    recorded = {line.split()[0] for each in lists for line in each.read_text().splitlines()}
    assert {PackageURL.from_string(uri).name for uri in debs} == recorded
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


def test_what_the_gates_found_is_attested(evidence: Evidence, released: Release) -> None:
    assert [each.verdict.gate for each in released.judgements] == list(GATES)
    for each in released.judgements:
        attested = evidence.attestation(f"{TEST_RESULT} {each.verdict.gate}")
        assert attested
        assert attested.verdict == {"at": each.at, **plain(each.verdict)}
        rules = sorted({finding.rule for finding in each.verdict.findings if finding.level != "info"})
        assert (attested.predicate["result"], attested.predicate["warnedTests"]) == (
            "WARNED" if rules else "PASSED",
            rules,
        )


def _is_deb(material: dict[str, Any]) -> bool:
    return str(material.get("uri", "")).startswith("pkg:deb/")


def test_strict_validators_accept_sboms_and_provenance(released: Release, evidence: Evidence, desk: Desk) -> None:
    boms = {file.path.name: file.path for file in released.sboms}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(boms["cyclonedx.json"].read_text()) is None
    document = parse_file(str(boms["spdx.json"]))
    assert not validate_full_spdx_document(document)
    found = evidence.attestation(PROVENANCE)
    assert found
    json_format.ParseDict(dict(found.predicate), provenance_pb2.Provenance())
    (by,) = _signer(desk.key)
    reference = f"{released.repository}@{released.digest}"
    (statement,) = desk.cosign.attestations(reference, kind=PROVENANCE, by=by)
    parsed = json_format.ParseDict(json.loads(statement), statement_pb2.Statement())
    assert [dict(each.digest) for each in parsed.subject] == [{"sha256": released.digest.removeprefix("sha256:")}]
    # What was validated is what is attested.
    for kind, name in ((CYCLONEDX, "cyclonedx.json"), (SPDX, "spdx.json")):
        attested = evidence.attestation(kind)
        assert attested
        assert attested.predicate == json.loads(boms[name].read_text())


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
    # What it was held against comes with it.
    assert json.loads((tmp_path / "contract.json").read_text())["metrics"] == archive.metrics
    assert archive.metrics.keys() == {"accuracy"}
    host, _, path = released.repository.partition("/")
    repository = Repository(host=host, path=path)
    with pytest.raises(VerifyError, match=r"is no image, but an artifact of type 'application/vnd\.cncf\.model"):
        collect(repository, released.model, signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)


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
    compared = reproduce(
        evidence,
        tiny_spec,
        lambda decided: Line(tiny_spec, pins=pins.load(), engine=engine, build=tmp_path, decided=decided),
    )
    assert [each.what for each in compared if each.is_tool] == ["pytorch-cuda", "torchscript-runtime"]
    assert [each.what for each in compared if not each.is_tool] == [
        *("training data", "held-out data", "weights", "samples", "archive", "model layer", "image")
    ]
    assert {each.what for each in compared if not each.agrees} == set()
    assert device(evidence) == "cpu"


def test_other_sources_are_not_made_into_the_release(evidence: Evidence, tiny_line: Line, tiny_spec: ModelSpec) -> None:
    changed = replace(tiny_spec, sources=tuple(replace(file, sha256="0" * 64) for file in tiny_spec.sources))
    with pytest.raises(VerifyError, match=f"model.py, model.yaml differ(.|\n)*commit {SOURCE.revision}"):
        reproduce(evidence, changed, lambda _: tiny_line)


def test_a_release_again_changes_nothing_but_its_times(tiny_line: Line, desk: Desk, released: Release) -> None:
    again = tiny_line.release(desk, releases=f"127.0.0.1:{REGISTRIES[0]}/releases", source=SOURCE)
    assert (again.digest, again.sent) == (released.digest, 0)
    assert released.sent > 0


def _kept(repository: str, what: str) -> set[str]:
    """What of `_layers` or `_manifests/revisions` the first registry has in a repository, by digest."""
    folder = f"/var/lib/registry/docker/registry/v2/repositories/{repository}/{what}/sha256"
    client = docker.from_env()
    try:
        chunks, _ = client.containers.get(f"torchyard-registry-{REGISTRIES[0]}").get_archive(folder)
        with tarfile.open(fileobj=BytesIO(b"".join(chunks))) as found:
            return {f"sha256:{member.name.split('/')[1]}" for member in found if member.name.endswith("/link")}
    finally:
        client.close()


def _changed(archive: Archive, folder: Path) -> Archive:
    """The same with other weights: a program that nobody runs here, in a contract that names it."""
    spec = replace(archive.trained.spec, version="1.0.1")
    (folder / archive.file.path.name).write_bytes(archive.file.path.read_bytes() + b"other weights")
    file, contract = File.of(folder / archive.file.path.name), json.loads(archive.contract.path.read_text())
    contract["archive"] |= {"sha256": file.sha256, "size": file.size}
    (folder / archive.contract.path.name).write_text(json.dumps(contract))
    trained = replace(archive.trained, spec=spec)
    return replace(archive, file=file, contract=File.of(folder / archive.contract.path.name), trained=trained)


def test_of_another_model_in_the_same_image_nothing_else_is_sent(
    released: Release, desk: Desk, engine: DockerEngine, tmp_path: Path
) -> None:
    """The model layer, configurations, what is attested and signed, the archive for `inv fetch`; and no other blob."""
    path = f"changed/{NAME}"
    where = Repository(host=f"127.0.0.1:{REGISTRIES[0]}", path=path)
    desk.cosign.copy(f"{released.repository}@{released.digest}", f"{where}:before")
    desk.cosign.copy(f"{released.repository}@{released.model}", f"{where}:archive-before")
    before = {what: _kept(path, what) for what in ("_layers", "_manifests/revisions")}
    runtime, epoch = engine.find(released.image.runtime), pins.load().serving_root.epoch
    assert runtime
    image = assemble(_changed(released.image.archive, tmp_path), runtime=runtime, epoch=epoch, engine=engine)
    subjects = {"check": f"sha256:{image.archive.file.sha256}", "audit": image.digest, "smoke": image.digest}
    judged = tuple(
        replace(each, verdict=replace(each.verdict, digest=subjects[each.verdict.gate])) for each in released.judgements
    )
    moment = written(datetime.now(UTC))
    making = Making(source=SOURCE, engine="20.10.24", fetched=moment, finished=moment, records=(), packages={})
    try:
        made = release(image, judgements=judged, repository=where, making=making, out=tmp_path / "out", desk=desk)
    finally:
        engine.remove((image.tag,))
    names = (made.digest, *(attached(made.digest, what) for what in ("att", "sig")))
    names += (made.model, attached(made.model, "sig"))
    pushed, *others = (found for name in names if (found := desk.registry.manifest(where, name)))
    assert len(others) == len(names) - 1
    # Of the image itself that is one layer.
    assert made.sent == pushed.layers[-1].size
    ours = {pushed.config.digest, pushed.layers[-1].digest}
    for each in others:
        ours |= {each.config.digest, *(layer.digest for layer in each.layers)}
    sent = {what: _kept(path, what) - known for what, known in before.items()}
    assert sent["_manifests/revisions"] == {each.digest for each in (pushed, *others)}
    assert sent["_layers"] == ours - before["_layers"]
    assert sent["_layers"] & {layer.digest for layer in pushed.layers} == {pushed.layers[-1].digest}
    # What did not change of the archive is not sent again either.
    assert f"sha256:{image.archive.samples.sha256}" in before["_layers"]


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


def test_the_commit_and_what_is_beside_it_are_told_and_nobodys_password(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    with pytest.raises(ReleaseError, match="work in a git repository with a commit"):
        source(tmp_path / "nowhere")
    git("init", "--quiet")
    with pytest.raises(ReleaseError, match="git does not tell which commit this is"):
        source(tmp_path)
    git("commit", "--quiet", "--allow-empty", "--message=first")
    first = source(tmp_path)
    assert first == Source(revision=git("rev-parse", "HEAD"), remote="", clean=True)
    git("remote", "add", "origin", "https://me:planted-password@example.com/models.git")
    (tmp_path / "model.py").touch()
    assert source(tmp_path) == replace(first, remote="https://example.com/models.git", clean=False)


def test_a_tag_is_nothing_to_verify(released: Release, desk: Desk) -> None:
    with pytest.raises(VerifyError, match="names no digest"):
        verify(f"{released.repository}:releases", signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)
