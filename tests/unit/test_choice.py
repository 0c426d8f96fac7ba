"""Which candidate is taken: the fastest within the budget, and only for a gain that is not noise."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Candidate, PrecisionChoice
from pipeline.errors import ExportError
from pipeline.export.choice import Tried, choose
from tests.unit import values

BEFORE = {"accuracy": 0.9}


def _tried(name: str, p50: float, *, accuracy: float = 0.9, refused: str = "") -> Tried:
    precision, memory_format = name.split()
    return Tried(
        precision=precision,  # type: ignore[arg-type]
        memory_format=memory_format,  # type: ignore[arg-type]
        refused=refused,
        parity={},
        metrics={} if refused else {"accuracy": accuracy},
        p50=None if refused else p50,
    )


def _chosen(
    folder: Path,
    *tried: Tried,
    precision: PrecisionChoice = "auto",
    budget: Mapping[str, float] | None = None,
    before: Mapping[str, float] = BEFORE,
    **asked: Any,
) -> dict[str, Candidate]:
    spec = replace(values.model_spec(folder), budget=budget or {}, **({"memory_format": "auto"} | asked))
    candidates = choose(tried, spec=spec, precision=precision, before=before)
    assert sum(candidate.taken for candidate in candidates) == 1
    return {f"{each.precision} {each.memory_format}": each for each in candidates}


def _taken(candidates: Mapping[str, Candidate]) -> str:
    return next(name for name, candidate in candidates.items() if candidate.taken)


PLAIN = _tried("fp32 contiguous", 10.0)


@pytest.mark.parametrize(("p50", "taken"), [(9.4, "fp32 channels_last"), (9.6, "fp32 contiguous")])
def test_a_gain_has_to_be_more_than_noise(tmp_path: Path, p50: float, taken: str) -> None:
    assert _taken(_chosen(tmp_path, PLAIN, _tried("fp32 channels_last", p50))) == taken


@pytest.mark.parametrize(
    ("accuracy", "budget", "because"),
    [
        (0.897, {"accuracy": 0.002}, "accuracy falls from 0.9 to 0.897, and the budget is 0.002"),
        (0.8999, {}, "accuracy falls from 0.9 to 0.8999, and the budget is 0"),
        (float("nan"), {"accuracy": 1.0}, "accuracy falls from 0.9 to nan, and the budget is 1"),
    ],
)
def test_a_candidate_beyond_the_budget_is_not_taken(
    tmp_path: Path, accuracy: float, budget: Mapping[str, float], because: str
) -> None:
    fast = _tried("bf16 contiguous", 1.0, accuracy=accuracy)
    candidates = _chosen(tmp_path, PLAIN, fast, budget=budget)
    assert _taken(candidates) == "fp32 contiguous"
    assert candidates["bf16 contiguous"].because == because


@pytest.mark.parametrize(("accuracy", "budget"), [(0.8985, {"accuracy": 0.002}), (0.9 - 1e-9, {}), (0.95, {})])
def test_a_loss_within_the_budget_is_none(tmp_path: Path, accuracy: float, budget: Mapping[str, float]) -> None:
    candidates = _chosen(tmp_path, PLAIN, _tried("bf16 contiguous", 1.0, accuracy=accuracy), budget=budget)
    assert _taken(candidates) == "bf16 contiguous"
    assert candidates["bf16 contiguous"].because == "10.00 times as fast as fp32 contiguous"


def test_a_metric_that_the_archive_lacks_is_a_loss(tmp_path: Path) -> None:
    before = {"accuracy": 0.9, "recall": 0.5}
    candidates = _chosen(tmp_path, PLAIN, _tried("bf16 contiguous", 1.0), before=before)
    assert candidates["bf16 contiguous"].because == "`evaluate` gives no recall for it"


def test_the_plain_candidate_is_held_to_parity_and_not_to_the_budget(tmp_path: Path) -> None:
    assert _taken(_chosen(tmp_path, _tried("fp32 contiguous", 10.0, accuracy=0.8999))) == "fp32 contiguous"


def test_what_model_yaml_insists_on_is_taken_though_it_is_slower(tmp_path: Path) -> None:
    candidates = _chosen(
        tmp_path, PLAIN, _tried("fp32 channels_last", 20.0), memory_format="channels_last", precision="fp32"
    )
    assert _taken(candidates) == "fp32 channels_last"
    assert candidates["fp32 contiguous"].because == "only for comparison: model.yaml asks for another"


def test_what_model_yaml_insists_on_and_cannot_be_is_refused(tmp_path: Path) -> None:
    refused = _tried("fp32 channels_last", 0.0, refused="no input has four dimensions")
    with pytest.raises(ExportError, match=r"(?s)nothing is left.*fp32 channels_last: no input has four dimensions"):
        _chosen(tmp_path, PLAIN, refused, memory_format="channels_last")


def test_a_refused_plain_candidate_ends_the_export(tmp_path: Path) -> None:
    plain = _tried("fp32 contiguous", 0.0, refused="in the runtime: sample 3: output y differs")
    with pytest.raises(ExportError, match=r"^tiny: in the runtime: sample 3: output y differs$"):
        _chosen(tmp_path, plain, _tried("fp32 channels_last", 1.0))


def test_without_bf16_in_the_cpu_fp32_is_what_can_be_chosen(tmp_path: Path) -> None:
    refused = _tried("bf16 contiguous", 0.0, refused="this CPU has no instructions for bf16")
    asked: dict[str, Any] = {"precision": "fp32", "memory_format": "contiguous"}
    candidates = _chosen(tmp_path, PLAIN, refused, **asked)
    assert _taken(candidates) == "fp32 contiguous"
    assert candidates["bf16 contiguous"].because == "this CPU has no instructions for bf16"
