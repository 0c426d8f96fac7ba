"""A release with a real registry and real cosign: what is attached, who accepts it, and what stops it."""

import json
import re
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
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from pipeline import pins
from pipeline.artifacts import Limits, ModelSpec, Release
from pipeline.diff import diff
from pipeline.engine import Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import ReleaseError, VerifyError
from pipeline.evidence import (
    CYCLONEDX,
    PROVENANCE,
    SPDX,
    TEST_RESULT,
    Attestation,
    Evidence,
    when,
)
from pipeline.fetch import fetch
from pipeline.line import Line
from pipeline.oci import parse
from pipeline.release import Desk, release
from pipeline.release.provenance import LOCAL
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
    assert [each.what for each in compared if each.is_tool] == ["pytorch-cuda", "torchscript-runtime"]
    assert [each.what for each in compared if not each.is_tool] == [
        *("training data", "held-out data", "weights", "samples", "archive", "model layer", "image")
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


def test_a_tag_is_nothing_to_verify(released: Release, desk: Desk) -> None:
    with pytest.raises(VerifyError, match="names no digest"):
        verify(f"{released.repository}:releases", signers=_signer(desk.key), registry=desk.registry, cosign=desk.cosign)
