"""A judged image -> a release: pushed by digest, with its evidence attached and all of it bound by one signature."""

import json
import tempfile
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import records, stores
from pipeline.alone import alone
from pipeline.artifacts import Archive, File, Judgement, Release, ServingImage
from pipeline.engine import Engine, Image
from pipeline.errors import ReleaseError
from pipeline.evidence import (
    CHANNEL,
    CYCLONEDX,
    EVIDENCE,
    GATES,
    PROVENANCE,
    RELEASES,
    SPDX,
    TEST_RESULT,
    binding,
    told,
)
from pipeline.evidence.collecting import attached, collect
from pipeline.evidence.judging import judge
from pipeline.oci import Manifest, Registry, Repository, digest_of, manifest
from pipeline.pins import IMAGES
from pipeline.progress import say
from pipeline.release import inventory, modelpack, provenance, sbom
from pipeline.release.provenance import Making
from pipeline.settings import HOME
from pipeline.signing import STATEMENT, Cosign, Key, attested, me

_ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a release is made with: engine, registry, cosign, the tools' image, and the key that signs. `store` is the
    URL of another place that keeps the archive, or empty."""

    engine: Engine
    registry: Registry
    cosign: Cosign
    tools: Image
    key: Key
    store: str = ""


def release(
    image: ServingImage,
    *,
    judgements: tuple[Judgement, ...],
    repository: Repository,
    making: Making,
    out: Path,
    desk: Desk,
) -> Release:
    """Pushes the image and attaches SBOMs, provenance and verdicts; signs last, so that only what is whole is signed.

    What was begun and not finished is completed by running it again: attachments are replaced as one, and a signature
    that is there is not made twice. `out` keeps the SBOMs.

    Raises:
        ReleaseError: a verdict is missing or about something else, a file of the image or what it was trained on has no
            known origin, or what the registry has afterwards is not what was released.
        RegistryError: the registry does not answer or refuses.
    """
    _require(image, judgements)
    with alone(out, busy=ReleaseError(f"{out}: this model is being released just now. Wait for that.")):
        # Before the minutes of describing and pushing: a key that cannot be opened ends it here.
        desk.cosign.sign_bytes(b"torchyard", key=desk.key)
        components = _described(image, out, desk)
        model = modelpack.publish(image.archive, repository, registry=desk.registry)
        desk.cosign.sign(repository.at(model.digest), key=desk.key, annotations={CHANNEL: RELEASES})
        stored = _stored(image, desk)
        temporary = f"image-{image.digest.removeprefix('sha256:')}"
        pushed = desk.engine.push(image.digest, repository=str(repository), tag=temporary)
        found = _pushed(repository, pushed.digest, desk.registry)
        say(f"  pushed {repository.at(pushed.digest)}")
        predicates = _predicates(image, components, judgements, making, out)
        statements = tuple(_statement(kind, predicate, repository, pushed.digest) for kind, predicate in predicates)
        bound = _attach(statements, repository, pushed.digest, desk)
        notes = {CHANNEL: RELEASES, EVIDENCE: bound}
        desk.cosign.sign(repository.at(pushed.digest), key=desk.key, annotations=notes)
        _count(repository, pushed.digest, desk)
        for tag in (f"{image.archive.trained.spec.version}-{image.device}", RELEASES):
            desk.registry.put_manifest(repository, tag, found)
    sizes = dict(zip(image.diff_ids, found.layers, strict=True))
    return Release(
        image=image,
        judgements=judgements,
        repository=str(repository),
        digest=pushed.digest,
        model=model.digest,
        stored=stored,
        evidence=bound,
        sboms=tuple(File.of(out / name) for name in ("cyclonedx.json", "spdx.json")),
        revision=making.source.revision,
        clean=making.source.clean,
        sent=sum(sizes[each].size for each in pushed.sent),
    )


def _require(image: ServingImage, judgements: tuple[Judgement, ...]) -> None:
    """No image gets out by forgetting a gate, or with a verdict about another one."""
    subjects = {"check": f"sha256:{image.archive.file.sha256}", "audit": image.digest, "smoke": image.digest}
    given = {each.verdict.gate: each.verdict.digest for each in judgements}
    for gate in GATES:
        if given.get(gate) != subjects[gate]:
            raise ReleaseError(
                f"{image.tag}: {gate} judged {given.get(gate, 'nothing')}, and this is {subjects[gate]}. "
                f"Run `inv {gate}` for this image and release it then."
            )
    for name, split in image.archive.trained.data.items():
        if not split.sha256:
            raise ReleaseError(
                f"{image.tag}: an item of the {name} data holds something that has no bytes of its own, so that nobody "
                "could say what the model was trained on. Make `data` in model.py give tensors, arrays, numbers, "
                "strings, lists or dicts of these, and train it again."
            )


def _described(image: ServingImage, out: Path, desk: Desk) -> tuple[inventory.Component, ...]:
    """What is in the image, by component; the scans of syft lie in `out` afterwards.

    Raises:
        ReleaseError: a file belongs to no component.
    """
    spec = image.archive.trained.spec
    say("  listing what is in the image")
    with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
        with desk.engine.files(image.digest) as stream:
            tree = inventory.read(stream, Path(folder))
        components, strangers = inventory.components(tree, version=_version(), known=_known(image.archive))
        if strangers:
            listing = "\n".join(f"  /{file.path} ({file.size} bytes)" for file in strangers[:20])
            raise ReleaseError(
                f"{image.tag}: {len(strangers)} file(s) belong to no package, no model and no part of Torchyard, "
                f"or are not what these list:\n{listing}\n"
                "Nobody could say where they come from. Remove them, or ship them as part of a package."
            )
        sbom.scan(Path(folder), out, name=spec.name, version=spec.version, tools=desk.tools, engine=desk.engine)
    return components


def _version() -> str:
    """That of Torchyard."""
    found: str = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return found


def _known(archive: Archive) -> dict[str, str]:
    """The files that we put into an image ourselves, by path in it, with their SHA-256."""
    model = (archive.file, archive.contract, archive.samples, archive.ops)
    folder = IMAGES / "serving" / "server"
    sources = {path.relative_to(folder).as_posix(): File.of(path).sha256 for path in folder.rglob("*.py")}
    return {f"model/{file.path.name}": file.sha256 for file in model if file} | {
        f"opt/torchyard/server/{name}": digest for name, digest in sources.items()
    }


def _stored(image: ServingImage, desk: Desk) -> str:
    """Keeps the archive in the other store, if there is one; its reference there, or nothing."""
    if not desk.store:
        return ""
    say(f"  keeping the archive in {desk.store}")
    made, blobs = modelpack.packed(image.archive)
    return stores.keep(desk.store, image.archive.trained.spec.name, made, blobs, cosign=desk.cosign, key=desk.key)


def _pushed(repository: Repository, digest: str, registry: Registry) -> Manifest:
    found = registry.manifest(repository, digest)
    if found is None:
        raise ReleaseError(f"{repository.at(digest)} was pushed and is not there. Run `inv release` again.")
    return found


def _predicates(
    image: ServingImage,
    components: tuple[inventory.Component, ...],
    judgements: tuple[Judgement, ...],
    making: Making,
    out: Path,
) -> list[tuple[str, dict[str, Any]]]:
    """Type and predicate of everything that is attached; completes the SBOMs in `out`."""
    scans = {name: json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("cyclonedx", "spdx")}
    trainer = image.archive.trained.trainer
    boms = {
        "cyclonedx": sbom.cyclonedx(
            scans["cyclonedx"], components, image.archive, digest=image.digest, trainer=trainer
        ),
        "spdx": sbom.spdx(scans["spdx"], components, image.archive, digest=image.digest),
    }
    for name, document in boms.items():
        records.write_atomic(out / f"{name}.json", json.dumps(document, indent=1) + "\n")
    return [
        (CYCLONEDX, boms["cyclonedx"]),
        (SPDX, boms["spdx"]),
        (PROVENANCE, provenance.predicate(image, components, judgements, making)),
        *((TEST_RESULT, _result(each)) for each in judgements),
    ]


def _result(judgement: Judgement) -> dict[str, Any]:
    """A verdict as https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md."""
    verdict = judgement.verdict
    rules = sorted({finding.rule for finding in verdict.findings if finding.level != "info"})
    inputs = {"name": "inputs", "digest": {"sha256": judgement.inputs.removeprefix("sha256:")}}
    return {
        "result": "WARNED" if rules else "PASSED",
        "configuration": [inputs],
        "passedTests": [] if rules else [verdict.gate],
        "warnedTests": rules,
        "failedTests": [],
        "verdict": {"at": judgement.at, **records.plain(verdict)},
    }


def _statement(kind: str, predicate: dict[str, Any], repository: Repository, digest: str) -> bytes:
    """https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md"""
    subject = {"name": str(repository), "digest": {"sha256": digest.removeprefix("sha256:")}}
    document = {"_type": STATEMENT, "subject": [subject], "predicateType": kind, "predicate": predicate}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _attach(statements: tuple[bytes, ...], repository: Repository, digest: str, desk: Desk) -> str:
    """Puts all attestations into the registry as cosign keeps them, in one manifest and so all or none.

    Returns the digest that binds them together.
    """
    say(f"  signing {len(statements)} attestations")
    layers = []
    for statement in statements:
        content, notes = attested(statement, cosign=desk.cosign, key=desk.key)
        blob = desk.registry.put_blob(repository, content, media_type=_ENVELOPE)
        kind = json.loads(statement)["predicateType"]
        layers.append(replace(blob, annotations=(*notes, ("predicateType", kind))))
    diff_ids = [layer.digest for layer in layers]
    document = {"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = desk.registry.put_blob(repository, json.dumps(document).encode(), media_type=_CONFIG)
    desk.registry.put_manifest(repository, attached(digest, "att"), manifest(config, tuple(layers)))
    return binding(tuple(digest_of(statement).removeprefix("sha256:") for statement in statements))


def _count(repository: Repository, digest: str, desk: Desk) -> None:
    """What the registry has is what was signed: parallel writers lose attachments without an error."""
    evidence = collect(repository, digest, signers=(me(desk.key),), registry=desk.registry, cosign=desk.cosign)
    if findings := judge(evidence, channel=RELEASES):
        raise ReleaseError(told(f"{repository.at(digest)} is not what was released", findings))
