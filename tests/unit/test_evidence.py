"""What evidence lacks: nothing in a whole release, and each planted fault is named with its cure."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from pipeline.evidence import CHANNEL, CYCLONEDX, PROVENANCE, REQUIRED, SPDX, TEST_RESULT, Evidence, binding, told
from pipeline.evidence.judging import judge
from tests.unit.evidence_values import DIGEST, attestation, descriptions, evidence, signature, verdict

ELSEWHERE = "127.0.0.1:5000/production/tiny"


def _signed_again(found: Evidence) -> Evidence:
    """With a signature that binds what is attached now, so that only the other fault is seen."""
    return replace(found, signatures=(signature(found.attestations),))


def _with(name: str, **changes: object) -> Evidence:
    found = evidence()
    attestations = tuple(
        replace(each, **changes) if each.name == name else each  # type: ignore[arg-type]
        for each in found.attestations
    )
    return _signed_again(replace(found, attestations=attestations))


def _without(name: str) -> Evidence:
    found = evidence()
    return replace(found, attestations=tuple(each for each in found.attestations if each.name != name))


def _verdict(gate: str, **changes: object) -> Evidence:
    found = evidence()
    kept = tuple(each for each in found.attestations if each.verdict.get("gate") != gate)
    return _signed_again(replace(found, attestations=(*kept, verdict(gate, **changes))))


def _duplicated() -> Evidence:
    found = evidence()
    return _signed_again(
        replace(found, attestations=(*found.attestations, verdict("smoke", at="2026-11-25T11:30:00Z")))
    )


def _failed() -> Evidence:
    predicate = dict(verdict("audit").predicate) | {"result": "FAILED"}
    return _with(f"{TEST_RESULT} audit", predicate=predicate)


def _archive(content: str) -> Evidence:
    found = evidence()
    assert found.contents
    return replace(found, contents=replace(found.contents, archive=content))


FAULTS: dict[str, tuple[Callable[[], Evidence], list[str]]] = {
    "unsigned": (lambda: replace(evidence(), signatures=()), ["unsigned"]),
    "signed by another key": (lambda: replace(evidence(), signatures=(), unknown=1), ["signature-by-another-key"]),
    "signed for another repository": (
        lambda: replace(evidence(), signatures=(signature(evidence().attestations, repository=ELSEWHERE),)),
        ["signature-of-another-place"],
    ),
    "signed for another channel": (
        lambda: replace(evidence(), signatures=(signature(evidence().attestations, **{CHANNEL: "production"}),)),
        ["signature-of-another-place"],
    ),
    "an attestation removed": (lambda: _without(SPDX), ["evidence-missing", "evidence-changed"]),
    "an attestation added": (
        lambda: replace(evidence(), attestations=(*evidence().attestations, attestation("https://example.com", "9"))),
        ["evidence-changed"],
    ),
    "a verdict twice": (_duplicated, ["evidence-duplicated"]),
    "evidence of another digest": (
        lambda: _with(SPDX, subjects=("sha256:" + "e" * 64,)),
        ["evidence-of-another-digest"],
    ),
    "evidence by another key": (lambda: _with(SPDX, by=()), ["evidence-signature"]),
    "another image judged": (lambda: _verdict("smoke", digest="sha256:0"), ["verdict-subject"]),
    "another archive judged": (lambda: _verdict("check", digest="sha256:0"), ["verdict-subject"]),
    "another runtime judged": (lambda: _verdict("check", against="sha256:0"), ["verdict-runtime"]),
    "a failed verdict": (_failed, ["verdict-failed"]),
    "a swapped archive": (
        lambda: _archive("e" * 64),
        ["archive", *["evidence-of-another-image"] * 3, "verdict-subject"],
    ),
    "an SBOM of another image": (
        lambda: _with(CYCLONEDX, predicate=descriptions(config="sha256:" + "e" * 64)[CYCLONEDX]),
        ["evidence-of-another-image"],
    ),
    "an SBOM of another archive": (
        lambda: _with(SPDX, predicate=descriptions(archive="sha256:" + "e" * 64)[SPDX]),
        ["evidence-of-another-image"],
    ),
    "provenance of another archive": (
        lambda: _with(PROVENANCE, predicate=descriptions(archive="sha256:" + "e" * 64)[PROVENANCE]),
        ["evidence-of-another-image"],
    ),
    "an SBOM that nobody can read": (
        lambda: _with(CYCLONEDX, predicate={"components": 7}),
        ["evidence-of-another-image"],
    ),
    **{
        f"a verdict with {name} {value!r}": (
            partial(_verdict, "smoke", **{name: value}),
            ["verdict-unreadable", "evidence-missing"],
        )
        for name, value in (("at", "yesterday"), ("at", None), ("findings", [7]), ("measured", {"p50_ms": "fast"}))
    },
    "a damaged layer": (lambda: replace(evidence(), damage=("layer 1 is something else",)), ["content"]),
}


def test_a_whole_release_lacks_nothing() -> None:
    assert judge(evidence(), channel="staging") == ()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault: str) -> None:
    plant, rules = FAULTS[fault]
    findings = judge(plant(), channel="staging")
    assert [finding.rule for finding in findings] == rules
    assert all(finding.message and finding.fix for finding in findings)


@pytest.mark.parametrize("name", REQUIRED)
def test_every_required_attestation_is_missed(name: str) -> None:
    missing = [finding for finding in judge(_without(name), channel="staging") if finding.rule == "evidence-missing"]
    assert [finding.where for finding in missing] == [name]


def test_what_was_signed_for_staging_is_not_signed_for_production() -> None:
    assert [finding.rule for finding in judge(evidence(), channel="production")] == ["signature-of-another-place"]


def test_the_binding_does_not_depend_on_order_and_does_on_content() -> None:
    assert binding(("1", "2")) == binding(("2", "1"))
    assert binding(("1", "2")) != binding(("1", "3"))
    assert binding(("1", "1")) != binding(("1",))


def test_a_refusal_tells_everything_at_once() -> None:
    text = told(f"{DIGEST} does not verify", judge(_without(SPDX), channel="staging"))
    assert "does not verify: 2 to mend." in text
    assert text.count("Fix: ") == 2


def test_evidence_by_somebody_else_says_how_to_trust_him() -> None:
    found = evidence()
    by_nobody = replace(found, attestations=tuple(replace(each, by=()) for each in found.attestations))
    cures = {each.fix for each in judge(by_nobody, channel="staging") if each.rule == "evidence-signature"}
    assert len(cures) == 1
    assert "the channel's signers in promotion.toml" in cures.pop()
