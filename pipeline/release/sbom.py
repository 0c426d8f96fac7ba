"""What syft sees of an image, completed with what it cannot see, as CycloneDX 1.6 and SPDX 2.3."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import Archive, Limits
from pipeline.engine import Engine, Image, Job, Mount
from pipeline.errors import ContainerFailed, ReleaseError
from pipeline.release.inventory import Component

_LIMITS = Limits(memory=2048, cpus=2, pids=128)
_SECONDS = 600.0
_NONE = "NOASSERTION"


def scan(folder: Path, out: Path, *, name: str, version: str, tools: Image, engine: Engine) -> None:
    """Runs syft over an unpacked image, cut off from everything; writes cyclonedx.json and spdx.json to `out`.

    Raises:
        ReleaseError: syft failed.
    """
    outputs = ("-o", "cyclonedx-json@1.6=/out/cyclonedx.json", "-o", "spdx-json@2.3=/out/spdx.json")
    named = (f"--source-name={name}", f"--source-version={version}")
    job = Job(
        image=tools.digest,
        command=("/usr/bin/syft", "scan", "dir:/image", "--quiet", *named, *outputs),
        limits=_LIMITS,
        mounts=(Mount(source=folder, target="/image"), Mount(source=out, target="/out", writable=True)),
        env={"HOME": "/tmp", "SYFT_CHECK_FOR_APP_UPDATE": "false"},  # noqa: S108 (inside the container)
        seconds=_SECONDS,
    )
    try:
        engine.run(job, on_line=lambda _: None)
    except ContainerFailed as failure:
        raise ReleaseError(f"{name}: syft could not list what is in the image. {failure}") from failure


def cyclonedx(
    document: dict[str, Any], components: tuple[Component, ...], archive: Archive, *, digest: str, trainer: str
) -> dict[str, Any]:
    """syft's CycloneDX with every component and its files; the model's has its card and its training data.

    The schema is https://cyclonedx.org/docs/1.6/json/.
    """
    kept = {(each["name"], each.get("version", "")): each for each in document.get("components", ())}
    for component in components:
        known = kept.setdefault((component.name, component.version), {"type": "library", "name": component.name})
        known |= _described(component, archive)
    subject = document["metadata"]["component"]
    subject |= {"type": "container", "bom-ref": digest, "hashes": [_hash(digest)]}
    seed = json.dumps([digest, sorted(f"{name} {version}" for name, version in kept)])
    made = {
        **document,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "components": [*kept.values(), *(_data(name, archive, trainer) for name in archive.trained.data)],
    }
    references = [each["bom-ref"] for each in made["components"] if "bom-ref" in each]
    made["dependencies"] = [{"ref": digest, "dependsOn": references}]
    return made


def spdx(
    document: dict[str, Any], components: tuple[Component, ...], archive: Archive, *, digest: str
) -> dict[str, Any]:
    """syft's SPDX with every component as a package that contains its files.

    The format is https://spdx.github.io/spdx-spec/v2.3/.
    """
    packages = {(each["name"], each.get("versionInfo", "")): each for each in document["packages"]}
    files, contains = [], []
    for number, component in enumerate(components):
        identity = f"SPDXRef-Component-{number}"
        known = packages.setdefault((component.name, component.version), _package(identity, component, archive))
        known |= {"filesAnalyzed": True, "packageVerificationCode": _verification(component)}
        for place, file in enumerate(component.files):
            reference = f"SPDXRef-File-{number}-{place}"
            sums = [("SHA1", file.sha1), ("SHA256", file.sha256)]
            files.append(
                {
                    "SPDXID": reference,
                    "fileName": f"./{file.path}",
                    "checksums": [{"algorithm": name, "checksumValue": value} for name, value in sums],
                    "licenseConcluded": _NONE,
                    "copyrightText": _NONE,
                }
            )
            contains.append(_relation(known["SPDXID"], "CONTAINS", reference))
    root = next(
        each["relatedSpdxElement"] for each in document["relationships"] if each["relationshipType"] == "DESCRIBES"
    )
    contains += [_relation(root, "CONTAINS", each["SPDXID"]) for each in packages.values() if each["SPDXID"] != root]
    data = [_data_package(number, name, archive) for number, name in enumerate(archive.trained.data)]
    weights = packages[next((each.name, each.version) for each in components if each.name == archive.file.path.name)]
    contains += [_relation(weights["SPDXID"], "GENERATED_FROM", each["SPDXID"]) for each in data]
    described = [each for each in document["relationships"] if each["relationshipType"] == "DESCRIBES"]
    return {
        **document,
        "documentNamespace": f"https://torchyard.io/spdx/{archive.trained.spec.name}/{digest.removeprefix('sha256:')}",
        "packages": [*packages.values(), *data],
        "files": files,
        "relationships": [*described, *contains],
    }


def _described(component: Component, archive: Archive) -> dict[str, Any]:
    found: dict[str, Any] = {"version": component.version} if component.version else {}
    found["bom-ref"] = component.purl or f"{component.kind}/{component.name}"
    found |= {"purl": component.purl} if component.purl else {}
    found |= {"hashes": [_hash(component.digest)]} if component.digest else {}
    found["components"] = [
        {"type": "file", "name": f"/{file.path}", "hashes": [_hash(file.sha256)]} for file in component.files
    ]
    if component.kind == "application":
        found["type"] = "application"
    if component.kind == "model":
        found["type"] = "machine-learning-model" if component.name == archive.file.path.name else "data"
        found["hashes"] = [_hash(component.files[0].sha256)]
        found["licenses"] = [{"expression": archive.trained.spec.license}]
    if component.kind == "model" and component.name == archive.file.path.name:
        found |= {"description": archive.trained.spec.description, "modelCard": _card(archive)}
    return found


def _card(archive: Archive) -> dict[str, Any]:
    spec = archive.trained.spec
    inputs = [{"format": f"{each.name} {each.datatype} {list(each.shape)}"} for each in spec.inputs]
    outputs = [{"format": f"{each.name} {each.datatype} {list(each.shape)}"} for each in spec.outputs]
    metrics = [{"type": name, "value": f"{value:.6g}"} for name, value in sorted(archive.metrics.items())]
    data = [{"ref": _data_reference(name, archive)} for name in archive.trained.data]
    return {
        "modelParameters": {"datasets": data, "inputs": inputs, "outputs": outputs},
        "quantitativeAnalysis": {"performanceMetrics": metrics},
    }


def _data(name: str, archive: Archive, trainer: str) -> dict[str, Any]:
    """What was trained on, or held out, by its content: what model.py's `data()` gave in the image that trained."""
    spec, split = archive.trained.spec, archive.trained.data[name]
    origin = spec.training.data
    text = f"{split.items} items, as data() of model.py gives them in the training image {trainer}."
    text += f" Source: {origin.source}." if origin.source else ""
    return {
        "type": "data",
        "bom-ref": _data_reference(name, archive),
        "name": f"{spec.name}-{name}-data",
        "version": spec.version,
        "description": text,
        "data": [{"type": "dataset", "name": f"{spec.name}-{name}-data", "description": text}],
        "hashes": [_hash(split.sha256)],
        **({"licenses": [{"expression": origin.license}]} if origin.license else {}),
    }


def _data_reference(name: str, archive: Archive) -> str:
    return f"data/{archive.trained.spec.name}-{name}-data"


def _data_package(number: int, name: str, archive: Archive) -> dict[str, Any]:
    """The same for SPDX, where it is no part of the image: the model was generated from it."""
    split, origin = archive.trained.data[name], archive.trained.spec.training.data
    return {
        "SPDXID": f"SPDXRef-Data-{number}",
        "name": f"{archive.trained.spec.name}-{name}-data",
        "versionInfo": archive.trained.spec.version,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": origin.license or _NONE,
        "copyrightText": _NONE,
        "comment": f"{split.items} items. {origin.source}".strip(),
        "checksums": [{"algorithm": "SHA256", "checksumValue": split.sha256}],
    }


def _package(identity: str, component: Component, archive: Archive) -> dict[str, Any]:
    licence = archive.trained.spec.license if component.kind == "model" else component.licence or _NONE
    references = [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": component.purl}]
    return {
        "SPDXID": identity,
        "name": component.name,
        **({"versionInfo": component.version} if component.version else {}),
        "downloadLocation": _NONE,
        "licenseConcluded": _NONE,
        "licenseDeclared": licence,
        "copyrightText": _NONE,
        **({"externalRefs": references} if component.purl else {}),
    }


def _verification(component: Component) -> dict[str, str]:
    """https://spdx.github.io/spdx-spec/v2.3/package-information/#79-package-verification-code-field"""
    sums = "".join(sorted(file.sha1 for file in component.files))
    return {"packageVerificationCodeValue": hashlib.sha1(sums.encode(), usedforsecurity=False).hexdigest()}


def _relation(source: str, kind: str, target: str) -> dict[str, str]:
    return {"spdxElementId": source, "relationshipType": kind, "relatedSpdxElement": target}


def _hash(digest: str) -> Mapping[str, str]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}
