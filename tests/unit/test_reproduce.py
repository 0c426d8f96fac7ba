"""What a release is made again with, other than its materials."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Chosen, Decided
from pipeline.errors import VerifyError
from pipeline.evidence import PROVENANCE, Evidence
from pipeline.line import Line
from pipeline.reproduce import reproduce
from tests.unit.evidence_values import attestation, evidence
from tests.unit.values import model_spec

_TOLD = {
    "accepted": "all requests are of one size",
    "precision": "bf16",
    "memoryFormat": "channels_last",
    "batchSize": 4,
    "warmUp": [{"sample": 0, "runs": 2}, {"sample": 3, "runs": 5}],
}


class _AskedFor(Exception):
    pass


def _line(decided: Decided) -> Line:
    raise _AskedFor(decided)


def _chose(**told: object) -> Evidence:
    found = evidence()
    made = attestation(PROVENANCE, "3", {"buildDefinition": {"internalParameters": told}})
    return replace(found, attestations=tuple(made if each.kind == PROVENANCE else each for each in found.attestations))


def test_what_was_accepted_and_chosen_is_taken_from_provenance(tmp_path: Path) -> None:
    spec = replace(model_spec(tmp_path), sources=())
    with pytest.raises(_AskedFor) as asked:
        reproduce(_chose(**_TOLD), spec, _line)
    chosen = Chosen(precision="bf16", memory_format="channels_last", batch_size=4, runs={0: 2, 3: 5})
    assert asked.value.args == (Decided(accepted="all requests are of one size", chosen=chosen),)


@pytest.mark.parametrize(
    "other",
    [{"precision": "int4"}, {"memoryFormat": 7}, {"batchSize": "many"}, {"warmUp": [{"sample": 0}]}, {"warmUp": None}],
)
def test_a_release_that_does_not_tell_what_was_decided_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    spec = replace(model_spec(tmp_path), sources=())
    with pytest.raises(VerifyError, match="provenance does not tell what was accepted and chosen"):
        reproduce(_chose(**(_TOLD | other)), spec, _line)


@pytest.mark.parametrize("name", _TOLD)
def test_a_release_that_leaves_out_what_was_decided_is_refused(tmp_path: Path, name: str) -> None:
    spec = replace(model_spec(tmp_path), sources=())
    told = {each: value for each, value in _TOLD.items() if each != name}
    with pytest.raises(VerifyError, match="provenance does not tell what was accepted and chosen"):
        reproduce(_chose(**told), spec, _line)
