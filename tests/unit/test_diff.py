"""Two releases beside each other: equal ones differ in nothing, and each planted change is one line."""

import json
from dataclasses import replace
from typing import Any

from pipeline.diff import diff
from pipeline.evidence import CYCLONEDX, Evidence
from tests.unit.evidence_values import attestation, evidence, verdict

SAME = "  layers: 1 shared, 0 only before, 0 only after"


def _release(
    packages: dict[str, str], contract: dict[str, Any], ready: float = 2.0, layer: str = "sha256:1"
) -> Evidence:
    found = evidence()
    assert found.contents
    components = [{"type": "library", "name": name, "version": version} for name, version in packages.items()]
    others = [each for each in found.attestations if each.name != CYCLONEDX and each.verdict.get("gate") != "smoke"]
    made = (
        attestation(CYCLONEDX, "1", {"components": components}),
        verdict("smoke", measured={"ready_seconds": ready}),
    )
    labels = {**found.contents.labels, "io.torchyard.contract": json.dumps(contract)}
    contents = replace(found.contents, labels=labels, layers=(layer,), size=len(layer))
    return replace(found, attestations=(*made, *others), contents=contents)


BEFORE = _release({"libc6": "1", "gone": "1"}, {"operators": ["aten::relu"], "metrics": {"accuracy": 0.9}})


def test_equal_releases_differ_in_nothing() -> None:
    assert list(diff(BEFORE, BEFORE)) == [SAME]


def test_each_change_is_told() -> None:
    contract = {"operators": ["aten::gelu"], "metrics": {"accuracy": 0.8}, "version": "2.0.0"}
    after = _release({"libc6": "2", "new": "1"}, contract, ready=3.0, layer="sha256:22")
    assert list(diff(BEFORE, after)) == [
        "- package gone 1",
        "~ package libc6: 1 -> 2",
        "+ package new 1",
        "+ operator aten::gelu",
        "- operator aten::relu",
        "~ metric accuracy: 0.9 -> 0.8",
        "~ contract version: None -> 2.0.0",
        "~ smoke ready_seconds: 2.0 -> 3.0",
        "~ image size in bytes: 8 -> 9",
        "  layers: 0 shared, 1 only before, 1 only after",
    ]
