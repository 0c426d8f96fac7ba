"""What hangs on a digest in a registry, and what of it verifies: frozen values that a policy can be held against."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.artifacts import Finding, Level
from pipeline.engine import LABEL
from pipeline.oci import Repository

CYCLONEDX = "https://cyclonedx.org/bom"
SPDX = "https://spdx.dev/Document"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PROMOTION = "https://torchyard.io/attestations/promotion/v1"
GATES = ("check", "audit", "smoke")
# What a gate finds without refusing, by rule, and a channel may forbid.
PASSING = ("dangling-link", "device-literal", "frozen-branch", "no-samples", "not-read", "upgraded-operator")
# What every release has, as `kind` or `kind gate`.
REQUIRED = (CYCLONEDX, SPDX, PROVENANCE, *(f"{TEST_RESULT} {gate}" for gate in GATES))

# Annotations that are part of what a signature signs.
CHANNEL = f"{LABEL}.channel"
EVIDENCE = f"{LABEL}.evidence"
APPROVES = f"{LABEL}.approves"
# The first channel: where `inv release` puts images.
RELEASES = "releases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature that verifies: whose, and what it says. `repository` is where it was made for."""

    by: str
    repository: str
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """An in-toto statement that is attached to a digest; `by` are those under whose keys it verifies.

    `payload` is the SHA-256 of the statement, `subjects` are the digests that it is about.
    """

    kind: str
    subjects: tuple[str, ...]
    predicate: Mapping[str, Any]
    payload: str
    by: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its kind, with the gate where it is a verdict."""
        return f"{self.kind} {self.verdict.get('gate', '')}".strip() if self.kind == TEST_RESULT else self.kind

    @property
    def verdict(self) -> Mapping[str, Any]:
        """What the gate said; empty where this is no verdict, or one that nobody can read."""
        found = self.predicate.get("verdict")
        return found if isinstance(found, dict) and _is_verdict(found) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The image itself. `config` is the digest of its configuration, its id in an engine; `size` is in bytes, as sent.

    `archive` is the SHA-256 of the archive in its top layer as found there, or empty; `layers` are the layers' digests,
    `diff_ids` those of what is in them.
    """

    config: str
    labels: Mapping[str, str]
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]
    size: int
    archive: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of a digest from the registry alone. `unknown` counts the signatures that nobody's key fits.

    `damage` tells what of the image the registry does not have as its digest says.
    """

    repository: Repository
    digest: str
    contents: Contents | None
    signatures: tuple[Signature, ...]
    unknown: int
    attestations: tuple[Attestation, ...]
    damage: tuple[str, ...]

    def attestation(self, name: str) -> Attestation | None:
        """The one that verifies under this name, if there is one."""
        return next((each for each in self.attestations if each.name == name and each.by), None)

    @property
    def version(self) -> str:
        """The model's version, as the image is labelled."""
        return self.contents.labels.get("org.opencontainers.image.version", "") if self.contents else ""

    @property
    def bound(self) -> str:
        """What a signature that binds all that is attached names: see `binding`."""
        return binding(tuple(each.payload for each in self.attestations))


def binding(payloads: tuple[str, ...]) -> str:
    """The digest of all attestations of a release, by the SHA-256 of each: what its signature binds together."""
    return f"sha256:{hashlib.sha256(json.dumps(sorted(payloads)).encode()).hexdigest()}"


def _is_verdict(found: Mapping[str, Any]) -> bool:
    """Whether it has what is read of a verdict, in the shape of `pipeline.artifacts.Verdict`."""
    try:
        when(found["at"])
        words = all(isinstance(each["rule"], str) for each in found["findings"])
        return words and all(isinstance(value, int | float) for value in found["measured"].values())
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def when(text: str) -> datetime:
    """A time as attestations have it, RFC 3339 in UTC."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def written(moment: datetime) -> str:
    """A time as attestations have it, RFC 3339 in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def finding(rule: str, where: str, message: str, fix: str, level: Level = "error") -> Finding:
    """A condition that is not met. What it quotes may be anybody's."""
    return Finding(rule=rule, level=level, where=plain(where), message=plain(message), fix=plain(fix))


def plain(text: str) -> str:
    """A text in one line, with nothing that a terminal takes for a command."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def told(title: str, findings: tuple[Finding, ...]) -> str:
    """A refusal: every condition that is not met, each with its cure."""
    parts = [f"{title}: {len(findings)} to mend."]
    parts += [f"{each.rule}: {each.where}\n  {each.message}\n  Fix: {each.fix}" for each in findings]
    return "\n\n".join(parts)
