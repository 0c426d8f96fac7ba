"""What a release is made again with, other than its materials."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import MemoryFormatChoice, PrecisionChoice
from pipeline.evidence import PROVENANCE, Evidence
from pipeline.reproduce import as_chosen
from tests.unit.evidence_values import attestation, evidence
from tests.unit.values import model_spec


def _chose(**told: object) -> Evidence:
    found = evidence()
    made = attestation(PROVENANCE, "3", {"buildDefinition": {"internalParameters": told}})
    return replace(found, attestations=tuple(made if each.kind == PROVENANCE else each for each in found.attestations))


@pytest.mark.parametrize(
    ("asked", "told", "made"),
    [
        (("auto", "auto"), ("bf16", "channels_last"), ("bf16", "channels_last")),
        (("auto", "auto"), ("fp32", "contiguous"), ("fp32", "contiguous")),
        (("fp32", "auto"), ("bf16", "channels_last"), ("fp32", "channels_last")),
        (("auto", "contiguous"), ("bf16", "channels_last"), ("bf16", "contiguous")),
        (("auto", "auto"), ("int4", 7), ("auto", "auto")),
    ],
)
def test_what_was_chosen_by_measurement_is_not_measured_again(
    tmp_path: Path,
    asked: tuple[PrecisionChoice, MemoryFormatChoice],
    told: tuple[str, object],
    made: tuple[str, str],
) -> None:
    spec = replace(model_spec(tmp_path), precision=asked[0], memory_format=asked[1])
    again = as_chosen(_chose(precision=told[0], memoryFormat=told[1]), spec)
    assert (again.precision, again.memory_format) == made
    assert replace(again, precision=asked[0], memory_format=asked[1]) == spec
