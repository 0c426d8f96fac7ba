"""Two releases beside each other: packages, operators, accuracy, measurements, size and layers."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.engine import LABEL
from pipeline.evidence import CYCLONEDX, GATES, TEST_RESULT, Evidence


def diff(before: Evidence, after: Evidence) -> Iterator[str]:
    """What differs, a line each: `-` is only in the first, `+` only in the second, `~` is in both and changed."""
    yield from _changes("package", _packages(before), _packages(after))
    was, now = _contract(before), _contract(after)
    yield from _changes("operator", _names(was.get("operators", ())), _names(now.get("operators", ())))
    yield from _changes("metric", was.get("metrics", {}), now.get("metrics", {}))
    kept = ("version", "precision", "memory_format", "inputs", "outputs", "tolerance")
    yield from _changes("contract", {name: was.get(name) for name in kept}, {name: now.get(name) for name in kept})
    for gate in GATES:
        yield from _changes(gate, _measured(before, gate), _measured(after, gate))
    yield from _image(before, after)


def _image(before: Evidence, after: Evidence) -> Iterator[str]:
    if not before.contents or not after.contents:
        return
    was, now = before.contents, after.contents
    yield from _changes("image", {"size in bytes": was.size}, {"size in bytes": now.size})
    shared = len(set(was.layers) & set(now.layers))
    yield f"  layers: {shared} shared, {len(was.layers) - shared} only before, {len(now.layers) - shared} only after"


def _changes(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"- {what} {name} {before[name]}".rstrip()
        elif name not in before:
            yield f"+ {what} {name} {after[name]}".rstrip()
        elif before[name] != after[name]:
            yield f"~ {what} {name}: {before[name]} -> {after[name]}"


def _packages(evidence: Evidence) -> dict[str, str]:
    """Versions by name. The model's own files are told of by their contract."""
    found = evidence.attestation(CYCLONEDX)
    components = found.predicate.get("components", ()) if found else ()
    return {each["name"]: each.get("version", "") for each in components if each["type"] in {"library", "application"}}


def _contract(evidence: Evidence) -> dict[str, Any]:
    labels = evidence.contents.labels if evidence.contents else {}
    found: dict[str, Any] = json.loads(labels.get(f"{LABEL}.contract", "{}"))
    return found


def _names(operators: tuple[str, ...]) -> dict[str, str]:
    return dict.fromkeys(operators, "")


def _measured(evidence: Evidence, gate: str) -> Mapping[str, Any]:
    found = evidence.attestation(f"{TEST_RESULT} {gate}")
    measured: Mapping[str, Any] = found.verdict.get("measured", {}) if found else {}
    return measured
