"""How an image was made: SLSA v1 provenance, with every material by digest.

https://slsa.dev/spec/v1.0/provenance
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import Archive, File, Judgement, ServingImage
from pipeline.errors import ReleaseError
from pipeline.pins import IMAGES
from pipeline.release.inventory import Component, deb, pypi

BUILD_TYPE = "https://torchyard.io/build-serving/v1"
# Who makes it can write what he likes, with a key or without one: https://slsa.dev/spec/v1.0/levels#build-l1
LOCAL = "https://torchyard.io/builders/local-key"
LEVEL = "SLSA build level 1: made and signed by the pipeline itself"
_REQUIREMENT = re.compile(r"^[^\s#]", re.MULTILINE)
_LOCKED = re.compile(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The commit that is checked out, where it came from (empty for nowhere), and whether nothing else is there."""

    revision: str
    remote: str
    clean: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What provenance tells of, besides the image: its source, engine, base packages' time, and the steps' records.

    `packages` are Debian's that it was built with, by name and version, with the SHA-256 of each. `builder` is who
    runs the pipeline, and `run` the address of this run, or empty where it has none.
    """

    source: Source
    engine: str
    fetched: str
    finished: str
    records: tuple[File, ...]
    packages: Mapping[tuple[str, str], str]
    builder: str = LOCAL
    run: str = ""


def predicate(
    image: ServingImage, components: tuple[Component, ...], judgements: tuple[Judgement, ...], making: Making
) -> dict[str, Any]:
    """The predicate of a `https://slsa.dev/provenance/v1` statement about the image."""
    spec = image.archive.trained.spec
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "model": spec.name,
                "version": spec.version,
                "device": image.device,
                "source": {"uri": _uri(making.source), "digest": {"gitCommit": making.source.revision}},
            },
            "internalParameters": {
                "clean": making.source.clean,
                "level": LEVEL,
                "packagesFetched": making.fetched,
                "params": dict(spec.params),
                "training": asdict(spec.training),
                "precision": image.archive.precision,
                "memoryFormat": image.archive.memory_format,
                "batchSize": image.archive.batching.max_size,
                "warmUp": [{"sample": shape.sample, "runs": shape.runs} for shape in image.archive.profile],
                "method": image.archive.evidence.method,
                "accepted": image.archive.evidence.accepted,
            },
            "resolvedDependencies": list(_materials(image, components, making)),
        },
        "runDetails": {
            "builder": {"id": making.builder, "version": {"engine": making.engine, **image.archive.producer}},
            "metadata": {
                "invocationId": making.run or f"{image.digest}/{making.finished}",
                "finishedOn": making.finished,
            },
            "byproducts": [
                *(_file(record, f"record of {record.path.stem}") for record in making.records),
                *({"name": each.verdict.gate, "annotations": {"inputs": each.inputs}} for each in judgements),
            ],
        },
    }


def _materials(image: ServingImage, components: tuple[Component, ...], making: Making) -> Iterator[dict[str, Any]]:
    yield {"uri": _uri(making.source), "digest": {"gitCommit": making.source.revision}}
    yield from _model(image.archive)
    for name, digest in (("pytorch-cuda", image.archive.trained.trainer), ("torchscript-runtime", image.runtime)):
        yield {"name": name, "uri": f"docker-image:{digest}", "digest": {"sha256": digest.removeprefix("sha256:")}}
    shipped = [_package(component) for component in components if component.kind == "deb"]
    yield from shipped
    for (name, version), sha256 in making.packages.items():
        if (found := {"uri": deb(name, version), "digest": {"sha256": sha256}}) not in shipped:
            yield found
    for lock in (IMAGES / "serving" / "requirements.lock", IMAGES / "pytorch-cuda" / "requirements.lock"):
        yield from _wheels(lock)


def _model(archive: Archive) -> Iterator[dict[str, Any]]:
    spec = archive.trained.spec
    for file in spec.sources:
        yield _file(file, f"model_src/{spec.name}/{file.path.relative_to(spec.folder).as_posix()}")
    for name, split in archive.trained.data.items():
        told = {"items": split.items, **asdict(spec.training.data)}
        yield {"name": f"{name} data", "digest": {"sha256": split.sha256}, "annotations": told}
    for name, found in (("weights", archive.trained.weights), ("samples", archive.samples), ("archive", archive.file)):
        yield _file(found, name)
    if archive.ops:
        yield _file(archive.ops, "operators")


def _package(component: Component) -> dict[str, Any]:
    """A Debian package by its file, or by its control record where a root that we did not bootstrap has no more."""
    if component.digest:
        return {"uri": component.purl, "digest": {"sha256": component.digest}}
    record = next(file for file in component.files if file.path == f"var/lib/dpkg/status.d/{component.name}")
    return {"uri": component.purl, "digest": {"sha256": record.sha256}, "annotations": {"of": "control record"}}


def _wheels(lock: Path) -> Iterator[dict[str, Any]]:
    """Each locked package, by the wheel that pip took: the locks of images have one each."""
    text = lock.read_text(encoding="utf-8")
    locked = _LOCKED.findall(text)
    if len(locked) != len(_REQUIREMENT.findall(text)):
        raise ReleaseError(
            f"{lock}: not every package has one version and one hash, so provenance cannot name the file that pip "
            "took. Make it again with `inv pins`."
        )
    for name, version, sha256 in locked:
        yield {"uri": pypi(name, version), "digest": {"sha256": sha256}}


def run(environment: Mapping[str, str]) -> str:
    """The address of the run of a workflow; empty where this is none.

    https://docs.github.com/en/actions/reference/workflows-and-actions/variables
    """
    if "GITHUB_RUN_ID" not in environment:
        return ""
    there = f"{environment['GITHUB_SERVER_URL']}/{environment['GITHUB_REPOSITORY']}/actions/runs"
    return f"{there}/{environment['GITHUB_RUN_ID']}/attempts/{environment['GITHUB_RUN_ATTEMPT']}"


def _file(file: File, name: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": file.sha256}}


def _uri(source: Source) -> str:
    return f"git+{source.remote or 'file:///'}"
