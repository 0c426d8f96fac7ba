"""The evidence of a release in which nothing is missing, to plant faults in."""

from datetime import UTC, datetime
from typing import Any

from pipeline.evidence import (
    CHANNEL,
    CYCLONEDX,
    EVIDENCE,
    GATES,
    PROVENANCE,
    SPDX,
    TEST_RESULT,
    Attestation,
    Contents,
    Evidence,
    Signature,
    binding,
)
from pipeline.oci import Repository

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
REPOSITORY = Repository(host="127.0.0.1:5000", path="staging/tiny")
DIGEST = "sha256:" + "d" * 64
CONFIG = "sha256:" + "c" * 64
ARCHIVE = "a" * 64
RUNTIME = "sha256:" + "b" * 64


def attestation(kind: str, payload: str, predicate: dict[str, Any] | None = None) -> Attestation:
    """One that `local` signed about DIGEST."""
    return Attestation(kind=kind, subjects=(DIGEST,), predicate=predicate or {}, payload=payload, by=("local",))


def verdict(gate: str, **changes: Any) -> Attestation:
    """A gate's, given an hour before NOW."""
    said = {
        "gate": gate,
        "digest": f"sha256:{ARCHIVE}" if gate == "check" else CONFIG,
        "against": RUNTIME if gate == "check" else "",
        "at": "2026-11-25T11:00:00Z",
        "findings": [],
        "measured": {"ready_seconds": 2.0, "p50_ms": 5.0},
    }
    return attestation(TEST_RESULT, gate, {"result": "PASSED", "verdict": said | changes})


def descriptions(config: str = CONFIG, archive: str = f"sha256:{ARCHIVE}") -> dict[str, dict[str, Any]]:
    """What SBOMs and provenance say of an image, by the digest of its configuration and of its archive."""
    image, model = config.removeprefix("sha256:"), archive.removeprefix("sha256:")
    materials = {"archive": model, "torchscript-runtime": RUNTIME.removeprefix("sha256:")}
    return {
        CYCLONEDX: {
            "metadata": {"component": {"hashes": [{"alg": "SHA-256", "content": image}]}},
            "components": [{"type": "machine-learning-model", "hashes": [{"alg": "SHA-256", "content": model}]}],
        },
        SPDX: {
            "documentNamespace": f"https://torchyard.io/spdx/tiny/{image}",
            "files": [{"checksums": [{"algorithm": "SHA256", "checksumValue": model}]}],
        },
        PROVENANCE: {
            "buildDefinition": {
                "internalParameters": {"packagesFetched": "2026-11-20T00:00:00Z"},
                "resolvedDependencies": [
                    {"name": name, "digest": {"sha256": digest}} for name, digest in materials.items()
                ],
            }
        },
    }


def evidence() -> Evidence:
    """A release that was promoted to staging by `local`."""
    attestations = (
        *(attestation(kind, kind, predicate) for kind, predicate in descriptions().items()),
        *(verdict(gate) for gate in GATES),
    )
    return Evidence(
        repository=REPOSITORY,
        digest=DIGEST,
        contents=Contents(
            config=CONFIG,
            labels={"io.torchyard.archive.digest": f"sha256:{ARCHIVE}", "io.torchyard.runtime.digest": RUNTIME},
            layers=("sha256:1",),
            diff_ids=("sha256:2",),
            size=2**20,
            archive=ARCHIVE,
        ),
        signatures=(signature(attestations),),
        unknown=0,
        attestations=attestations,
        damage=(),
    )


def signature(attestations: tuple[Attestation, ...], **changes: Any) -> Signature:
    """That of `local` for staging, which binds these attestations."""
    bound = binding(tuple(each.payload for each in attestations))
    place = changes.pop("repository", str(REPOSITORY))
    return Signature(by="local", repository=place, annotations={CHANNEL: "staging", EVIDENCE: bound} | changes)
