"""Evidence -> what it lacks of a release: each missing or broken thing with its cure, judged without asking anybody."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.artifacts import Finding
from pipeline.engine import LABEL
from pipeline.evidence import (
    CHANNEL,
    CYCLONEDX,
    EVIDENCE,
    GATES,
    PROVENANCE,
    REQUIRED,
    SPDX,
    TEST_RESULT,
    Evidence,
    Signature,
    finding,
)

_AGAIN = "Release it again where it was built: `inv release --model NAME`."
_TRUSTED = "Have a signer release it, or add whoever did to the channel's signers in promotion.toml if you trust him."
_REBUILT = "Do not use it. Build and release it again: `inv build-serving`, `inv release`."


def judge(evidence: Evidence, *, channel: str) -> tuple[Finding, ...]:
    """What speaks against a digest in the repository of a channel, whatever a policy asks on top."""
    return (
        *_image(evidence),
        *_attached(evidence),
        *_described(evidence),
        *_verdicts(evidence),
        *_signed(evidence, channel),
    )


def placed(evidence: Evidence, channel: str) -> tuple[Signature, ...]:
    """The signatures that were made for this very place: repository and channel."""
    return tuple(
        each
        for each in evidence.signatures
        if each.repository == str(evidence.repository) and each.annotations.get(CHANNEL) == channel
    )


def _image(evidence: Evidence) -> Iterator[Finding]:
    place = str(evidence.repository)
    for damage in evidence.damage:
        yield finding("content", place, damage, _REBUILT)
    if not (contents := evidence.contents):
        return
    labelled = contents.labels.get(f"{LABEL}.archive.digest", "").removeprefix("sha256:")
    if not evidence.damage and contents.archive != labelled:
        text = f"the archive inside is {contents.archive or 'missing'} and the label names {labelled or 'none'}"
        yield finding("archive", place, text, _REBUILT)


def _attached(evidence: Evidence) -> Iterator[Finding]:
    for each in evidence.attestations:
        if evidence.digest not in each.subjects:
            text = f"is about {', '.join(each.subjects) or 'nothing'} and was copied here from there"
            yield finding("evidence-of-another-digest", each.name, text, _AGAIN)
        elif not each.by:
            text = "does not verify under any signer's key: it was changed, or signed by somebody else"
            yield finding("evidence-signature", each.name, text, _TRUSTED)
        elif each.kind == TEST_RESULT and not each.verdict:
            yield finding("verdict-unreadable", each.name, "it has not what a gate's verdict has", _AGAIN)
    counts = Counter(each.name for each in evidence.attestations if each.by)
    found = {each.name for each in evidence.attestations}
    for name in REQUIRED:
        if name not in found:
            yield finding("evidence-missing", name, "no attestation of this kind is attached", _AGAIN)
    for name, count in counts.items():
        if count > 1:
            text = f"{count} attestations of this kind are attached, and nobody can tell which counts"
            yield finding("evidence-duplicated", name, text, _AGAIN)


def _described(evidence: Evidence) -> Iterator[Finding]:
    """SBOMs and provenance have to be about what is inside, and not only attached to it."""
    if not (contents := evidence.contents):
        return
    image, archive = contents.config.removeprefix("sha256:"), contents.archive
    runtime = contents.labels.get(f"{LABEL}.runtime.digest", "").removeprefix("sha256:")
    asked = {CYCLONEDX: (_cyclonedx, {image, archive}), SPDX: (_spdx, {image, archive})}
    for kind, (read, wanted) in (asked | {PROVENANCE: (_provenance, {archive, runtime})}).items():
        if not (found := evidence.attestation(kind)):
            continue
        try:
            named = set(read(found.predicate))
        except (KeyError, TypeError, AttributeError):
            named = set()
        if missing := sorted(wanted - named):
            text = f"it does not tell of {', '.join(f'sha256:{each}' for each in missing)}, which is here"
            yield finding("evidence-of-another-image", kind, text, _AGAIN)


def _cyclonedx(document: Mapping[str, Any]) -> Iterator[str]:
    """The digests of the image and of its models in an SBOM."""
    models = [each for each in document["components"] if each["type"] == "machine-learning-model"]
    yield from (each["content"] for one in (document["metadata"]["component"], *models) for each in one["hashes"])


def _spdx(document: Mapping[str, Any]) -> Iterator[str]:
    yield document["documentNamespace"].rpartition("/")[2]
    yield from (each["checksumValue"] for file in document["files"] for each in file["checksums"])


def _provenance(predicate: Mapping[str, Any]) -> Iterator[str]:
    """The digests of the archive and of the runtime image that an image is said to be made of."""
    for each in predicate["buildDefinition"]["resolvedDependencies"]:
        if each.get("name") in {"archive", "torchscript-runtime"}:
            yield each["digest"]["sha256"]


def _verdicts(evidence: Evidence) -> Iterator[Finding]:
    """A verdict has to be about what is inside: archive and runtime for `check`, the image's id for the others."""
    for gate in GATES:
        found = evidence.attestation(f"{TEST_RESULT} {gate}")
        if not found or not evidence.contents:
            continue
        archive = f"sha256:{evidence.contents.archive}"
        wanted = archive if gate == "check" else evidence.contents.config
        if (subject := found.verdict.get("digest")) != wanted:
            text = f"it judged {subject}, and what is here is {wanted}"
            yield finding("verdict-subject", gate, text, f"Run `inv {gate}` for this image, and release it again.")
        runtime = evidence.contents.labels.get(f"{LABEL}.runtime.digest")
        if gate == "check" and (against := found.verdict.get("against")) != runtime:
            text = f"it judged the archive against the runtime {against}, and the image stands on {runtime}"
            yield finding("verdict-runtime", gate, text, "Run `inv check` for this model, and release it again.")
        if found.predicate.get("result") not in {"PASSED", "WARNED"}:
            text = f"its result is {found.predicate.get('result')}"
            yield finding("verdict-failed", gate, text, f"Mend what `inv {gate}` shows, and release again.")


def _signed(evidence: Evidence, channel: str) -> Iterator[Finding]:
    place = str(evidence.repository)
    if not evidence.signatures:
        if evidence.unknown:
            text = f"{evidence.unknown} signature(s), and none verifies under a signer's key"
            yield finding("signature-by-another-key", place, text, _TRUSTED)
        else:
            yield finding("unsigned", place, f"{evidence.digest} has no signature", _AGAIN)
        return
    here = placed(evidence, channel)
    if not here:
        places = {f"{each.repository} as {each.annotations.get(CHANNEL, 'nothing')}" for each in evidence.signatures}
        text = f"is signed for {', '.join(sorted(places))}, and not for this repository as {channel}"
        cure = "The signature was copied. Promote the image with `inv promote`, which signs it for its place."
        yield finding("signature-of-another-place", place, text, cure)
    elif not any(each.annotations.get(EVIDENCE) == evidence.bound for each in here):
        text = "what is attached is not what the signature binds: an attestation was removed, added or exchanged"
        yield finding("evidence-changed", place, text, _AGAIN)
