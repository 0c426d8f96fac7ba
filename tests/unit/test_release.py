"""What a release says of an image: each file's component, the SBOMs completed, provenance, and what stops it."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from pipeline.artifacts import Archive, DataOrigin, File, Judgement, ServingImage, Split, Verdict
from pipeline.errors import ReleaseError
from pipeline.oci import Repository
from pipeline.pins import IMAGES
from pipeline.release import Desk, inventory, provenance, release, sbom
from pipeline.release.inventory import Component
from pipeline.release.provenance import Making, Source
from tests.unit import values
from tests.unit.fake_engine import FakeEngine
from tests.unit.fake_registry import FakeCosign, FakeRegistry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# The SHA-256 of b"h11" as https://packaging.python.org/en/latest/specifications/recording-installed-packages/ has it.
RECORD = """h11/__init__.py,sha256=lzuY1O86rIyZHV0CeDfDxnZ-wF6-IOXEnAPY3eWI3og,3
h11-0.16.0.dist-info/METADATA,,
"""
LIBRARIES = {
    "libtorch_cpu.so": {"package": "torch", "version": "2.8.0", "sha256": _sha256(b"torch")},
    "libcudart.so.12": {"package": "nvidia-cuda-runtime-cu12", "version": "12.8.90", "sha256": _sha256(b"cudart")},
}
FILES = {
    "etc/passwd": b"root",
    "model/contract.json": b'{"version": "1.0.0"}',
    "model/model.pt": b"model",
    "opt/torchyard/lib/_engine.cpython-313-x86_64-linux-gnu.so": b"engine",
    "opt/torchyard/lib/libcudart.so.12": b"cudart",
    "opt/torchyard/lib/libraries.json": json.dumps(LIBRARIES).encode(),
    "opt/torchyard/lib/libtorch_cpu.so": b"torch",
    "opt/torchyard/server/app.py": b"app",
    "opt/torchyard/site/h11-0.16.0.dist-info/METADATA": b"Name: h11\nVersion: 0.16.0\n",
    "opt/torchyard/site/h11-0.16.0.dist-info/RECORD": RECORD.encode(),
    "opt/torchyard/site/h11/__init__.py": b"h11",
    "opt/torchyard/site/h11/__pycache__/__init__.cpython-313.pyc": b"bytecode",
    "usr/lib/libc.so.6": b"libc",
    "var/lib/dpkg/status.d/libc6": b"Package: libc6\nVersion: 2.41-12\nSHA256: " + b"5" * 64 + b"\n",
    "var/lib/dpkg/status.d/libc6.md5sums": hashlib.md5(b"libc").hexdigest().encode() + b"  lib/libc.so.6\n",
}
KNOWN = {path: _sha256(FILES[path]) for path in FILES if path.startswith(("model/", "opt/torchyard/server/"))}
PACKAGES = {("g++", "4:14.2.0-1"): "c" * 64, ("libc6", "2.41-12"): "5" * 64}
SOURCE = Source(revision="0" * 40, remote="https://example.com/models.git", clean=False)


def _tar(files: dict[str, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    out.seek(0)
    return out


def _listed(folder: Path, files: dict[str, bytes]) -> tuple[tuple[Component, ...], list[str]]:
    tree = inventory.read(_tar(files), folder)
    components, strangers = inventory.components(tree, version="0.1.0", known=KNOWN)
    return components, [file.path for file in strangers]


def test_every_file_belongs_to_its_component(tmp_path: Path) -> None:
    components, strangers = _listed(tmp_path, FILES)
    assert strangers == []
    assert {f"{each.kind}/{each.name} {each.version}": len(each.files) for each in components} == {
        "application/torchyard-root 0.1.0": 1,
        "application/torchyard-serving 0.1.0": 3,
        "deb/libc6 2.41-12": 3,
        "model/contract.json 1.0.0": 1,
        "model/model.pt 1.0.0": 1,
        "pypi/h11 0.16.0": 4,
        "pypi/nvidia-cuda-runtime-cu12 12.8.90": 1,
        "pypi/torch 2.8.0": 1,
    }
    assert (tmp_path / "usr/lib/libc.so.6").read_bytes() == b"libc"


@pytest.mark.parametrize(
    "path",
    [
        "model/planted.py",
        "opt/planted",
        "opt/torchyard/lib/libtorch_planted.so",
        "opt/torchyard/server/planted.py",
        "opt/torchyard/site/planted.py",
        "usr/bin/planted",
        "usr/lib/__pycache__/planted.cpython-313.pyc",
    ],
)
def test_a_planted_file_belongs_to_none(tmp_path: Path, path: str) -> None:
    assert _listed(tmp_path, FILES | {path: b"planted"})[1] == [path]


@pytest.mark.parametrize(
    "path",
    [
        "model/model.pt",
        "opt/torchyard/lib/libtorch_cpu.so",
        "opt/torchyard/server/app.py",
        "opt/torchyard/site/h11/__init__.py",
        "usr/lib/libc.so.6",
    ],
)
def test_a_changed_file_belongs_to_none(tmp_path: Path, path: str) -> None:
    assert _listed(tmp_path, FILES | {path: b"changed"})[1] == [path]


def test_what_the_engine_adds_is_no_file_of_the_image(tmp_path: Path) -> None:
    assert _listed(tmp_path, FILES | {"etc/hosts": b"", ".dockerenv": b""})[1] == []
    assert _listed(tmp_path, FILES | {"etc/hosts": b"evil"})[1] == ["etc/hosts"]


def test_nothing_is_unpacked_outside_the_folder(tmp_path: Path) -> None:
    _listed(tmp_path / "in", {"../../escaped": b"evil", "/escaped": b"evil"})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def _syft() -> dict[str, Any]:
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "file", "name": "tiny", "version": "1.0.0"}},
        "components": [{"type": "library", "name": "h11", "version": "0.16.0", "bom-ref": "h11"}],
    }


def test_the_sbom_has_what_syft_saw_and_all_the_rest(tmp_path: Path) -> None:
    archive = values.archive(tmp_path)
    components, _ = _listed(tmp_path / "image", FILES)
    digest = "sha256:" + "d" * 64
    made = sbom.cyclonedx(_syft(), components, archive, digest=digest, trainer="sha256:7")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(made)) is None
    named = {each["name"]: each for each in made["components"]}
    assert len(named) == len(made["components"])
    assert named["h11"]["purl"] == "pkg:pypi/h11@0.16.0"
    assert named["libc6"]["hashes"] == [{"alg": "SHA-256", "content": "5" * 64}]
    assert named["torch"]["purl"] == "pkg:pypi/torch@2.8.0"
    assert named["model.pt"]["type"] == "machine-learning-model"
    assert {file["name"] for each in made["components"] for file in each.get("components", ())} == {
        f"/{path}" for path in FILES
    }
    again = sbom.cyclonedx(_syft(), components, archive, digest=digest, trainer="sha256:7")
    assert again == made


def _syft_spdx() -> dict[str, Any]:
    """What syft says of a folder in which it knows no package."""
    root = {"SPDXID": "SPDXRef-Root", "name": "tiny", "versionInfo": "1.0.0", "downloadLocation": "NOASSERTION"}
    return {
        "SPDXID": "SPDXRef-DOCUMENT",
        "spdxVersion": "SPDX-2.3",
        "name": "tiny",
        "packages": [root],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": root["SPDXID"],
            }
        ],
    }


@pytest.mark.parametrize("origin", [DataOrigin(source="two photographs", license="CC-BY-2.0 AND MIT"), DataOrigin()])
def test_what_the_data_is_licensed_under_reaches_sboms_and_provenance(tmp_path: Path, origin: DataOrigin) -> None:
    archive = values.archive(tmp_path)
    spec = archive.trained.spec
    told = replace(spec, training=replace(spec.training, data=origin))
    archive = replace(archive, trained=replace(archive.trained, spec=told))
    components, _ = _listed(tmp_path / "image", FILES)
    digest = "sha256:" + "d" * 64

    bom = sbom.cyclonedx(_syft(), components, archive, digest=digest, trainer="sha256:7")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None
    data = [each for each in bom["components"] if each["name"] in {"tiny-training-data", "tiny-held-out-data"}]
    assert [each.get("licenses") for each in data] == [[{"expression": origin.license}] if origin.license else None] * 2
    assert all((f"Source: {origin.source}." in each["description"]) is bool(origin.source) for each in data)

    packages = {each["name"]: each for each in sbom.spdx(_syft_spdx(), components, archive, digest=digest)["packages"]}
    for name, split in archive.trained.data.items():
        package = packages[f"tiny-{name}-data"]
        assert package["licenseDeclared"] == (origin.license or "NOASSERTION")
        assert package["comment"] == f"{split.items} items. {origin.source}".strip()
    # The model has its own.
    assert packages["model.pt"]["licenseDeclared"] == "Apache-2.0"

    made = provenance.predicate(_image(archive), components, (), _making())["buildDefinition"]
    assert made["internalParameters"]["training"]["data"] == {"source": origin.source, "license": origin.license}
    materials = {each["name"]: each for each in made["resolvedDependencies"] if "name" in each}
    for name, split in archive.trained.data.items():
        notes = {"items": split.items, "source": origin.source, "license": origin.license}
        assert materials[f"{name} data"]["annotations"] == notes


def test_provenance_names_every_material_by_digest(tmp_path: Path) -> None:
    image = _image(values.archive(tmp_path))
    components, _ = _listed(tmp_path / "image", FILES)
    made = provenance.predicate(image, components, (), _making())
    inside = made["buildDefinition"]["internalParameters"]
    assert inside["clean"] is False
    assert (inside["precision"], inside["memoryFormat"], inside["batchSize"]) == ("fp32", "contiguous", 8)
    assert inside["accepted"] == image.archive.evidence.accepted
    assert inside["warmUp"] == [{"sample": 0, "runs": 3}]
    materials = made["buildDefinition"]["resolvedDependencies"]
    assert all(len(each["digest"]) == 1 and all(each["digest"].values()) for each in materials)
    compiler = {"uri": "pkg:deb/debian/g%2B%2B@4:14.2.0-1?distro=debian-13", "digest": {"sha256": "c" * 64}}
    assert materials.count(compiler) == 1
    locks = [(IMAGES / name / "requirements.lock").read_text() for name in ("serving", "pytorch-cuda")]
    wheels = [each for each in materials if each.get("uri", "").startswith("pkg:pypi/")]
    assert len(wheels) == sum(lock.count("==") for lock in locks)
    names = {each.get("name") or each["uri"] for each in materials}
    # It is in the toolchain, too.
    (libc,) = (each for each in materials if each.get("uri", "").startswith("pkg:deb/debian/libc6@"))
    assert libc["digest"] == {"sha256": "5" * 64}
    bare = tuple(replace(each, digest="") for each in components)
    again = provenance.predicate(image, bare, (), _making())["buildDefinition"]["resolvedDependencies"]
    record = hashlib.sha256(FILES["var/lib/dpkg/status.d/libc6"]).hexdigest()
    assert {**libc, "digest": {"sha256": record}, "annotations": {"of": "control record"}} in again
    assert {"training data", "held-out data"} <= names
    assert next(each for each in materials if each.get("name") == "training data")["digest"] == {"sha256": "a" * 64}
    assert {"archive", "weights", "model_src/tiny/model.py", "pkg:deb/debian/libc6@2.41-12?distro=debian-13"} <= names
    assert any(name.startswith("pkg:pypi/torch@2.8.0") for name in names)
    assert "operators" not in names
    library = File(path=tmp_path / "ops.so", sha256="b" * 64, size=1)
    compiled = replace(image, archive=replace(image.archive, ops=library))
    (material,) = [each for each in _materials(compiled, components) if each.get("name") == "operators"]
    assert material["digest"] == {"sha256": library.sha256}


def test_a_lock_that_leaves_the_file_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "IMAGES", tmp_path)
    one = f"click==8.5.1 \\\n    --hash=sha256:{'a' * 64}\n    # via uvicorn\n"
    for name in ("serving", "pytorch-cuda"):
        values.file(tmp_path / name / "requirements.lock", one)
    image = _image(values.archive(tmp_path / "made"))
    assert sum("pkg:pypi" in each.get("uri", "") for each in _materials(image, ())) == 2
    for more in (one.replace("\n    #", f" \\\n    --hash=sha256:{'b' * 64}\n    #"), "click @ https://x/click.whl\n"):
        values.file(tmp_path / "pytorch-cuda" / "requirements.lock", one + more)
        with pytest.raises(ReleaseError, match=r"pytorch-cuda/requirements.lock: not every package has one version"):
            _materials(image, ())


def _materials(image: ServingImage, components: tuple[Component, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = provenance.predicate(image, components, (), _making())["buildDefinition"][
        "resolvedDependencies"
    ]
    return found


def _image(archive: Archive) -> ServingImage:
    return ServingImage(
        tag="tiny:1.0.0-cpu",
        digest="sha256:" + "1" * 64,
        diff_ids=(),
        device="cpu",
        runtime="sha256:" + "2" * 64,
        archive=archive,
    )


def _making() -> Making:
    moment = "2026-11-25T00:00:00Z"
    return Making(source=SOURCE, engine="20.10.24", fetched=moment, finished=moment, records=(), packages=PACKAGES)


def _verdicts(image: ServingImage) -> list[Verdict]:
    """All that it takes for a release."""
    subjects = {"check": f"sha256:{image.archive.file.sha256}", "audit": image.digest, "smoke": image.digest}
    return [Verdict(gate=gate, digest=it, against="", findings=(), measured={}) for gate, it in subjects.items()]


def _released(image: ServingImage, verdicts: list[Verdict], folder: Path, engine: FakeEngine) -> None:
    store, key = FakeRegistry(), folder / "cosign.key"
    tools = engine.add("release-tools:1")
    release(
        image,
        judgements=tuple(Judgement(verdict=each, at="2026-11-25T00:00:00Z", inputs="sha256:1") for each in verdicts),
        repository=Repository(host="127.0.0.1:5000", path="releases/tiny"),
        making=_making(),
        out=folder / "out",
        desk=Desk(engine=engine, registry=store, cosign=FakeCosign(store), tools=tools, key=key),
    )


@pytest.mark.parametrize("gate", ["check", "audit", "smoke"])
@pytest.mark.parametrize("digest", [None, "sha256:" + "0" * 64])
def test_an_image_without_its_verdicts_is_not_released(
    tmp_path: Path, engine: FakeEngine, gate: str, digest: str | None
) -> None:
    image = _image(values.archive(tmp_path))
    verdicts = {each.gate: each for each in _verdicts(image)}
    judged = verdicts.pop(gate)
    given = [*verdicts.values(), *([replace(judged, digest=digest)] if digest else [])]
    with pytest.raises(ReleaseError, match=rf"{gate} judged {digest or 'nothing'}, and this is {judged.digest}"):
        _released(image, given, tmp_path, engine)
    assert not (tmp_path / "out").exists()


def test_what_was_trained_on_something_unknown_is_not_released(tmp_path: Path, engine: FakeEngine) -> None:
    archive = values.archive(tmp_path)
    unknown = {**archive.trained.data, "training": Split(items=8, sha256="")}
    image = _image(replace(archive, trained=replace(archive.trained, data=unknown)))
    with pytest.raises(ReleaseError, match="an item of the training data holds something that has no bytes"):
        _released(image, _verdicts(image), tmp_path, engine)
    assert not (tmp_path / "out").exists()
