"""Which candidate becomes the archive: the fastest one that loses no more of a metric than model.yaml allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.artifacts import Candidate, Chosen, Deviation, MemoryFormat, ModelSpec, Precision, PrecisionChoice
from pipeline.errors import ExportError

# Below this, medians of two measurements of the same archive differ.
GAIN = 0.05
# What the order of additions changes in a metric that is a mean, relative to the metric.
NOISE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A candidate with what was found out about it; where `refused` says why it cannot be, the rest may be missing.

    `parity` maps stages to the deviation of each output; `p50` is in milliseconds.
    """

    precision: Precision
    memory_format: MemoryFormat
    refused: str
    parity: Mapping[str, Mapping[str, Deviation]]
    metrics: Mapping[str, float]
    p50: float | None


def name_of(precision: Precision, memory_format: MemoryFormat) -> str:
    """The name of a candidate, and of its folder."""
    return f"{precision}-{memory_format}"


def settled(spec: ModelSpec, chosen: Chosen) -> ModelSpec:
    """The model with what was chosen where it leaves that to evidence."""
    return replace(
        spec,
        precision=chosen.precision if spec.precision == "auto" else spec.precision,
        memory_format=chosen.memory_format if spec.memory_format == "auto" else spec.memory_format,
    )


def choose(
    tried: Sequence[Tried], *, spec: ModelSpec, precision: PrecisionChoice, before: Mapping[str, float]
) -> tuple[Candidate, ...]:
    """Every candidate with the reason why it was taken or not; exactly one is taken.

    The first one is plain: fp32 and contiguous. `precision` is what may be chosen from: the spec's, or fp32 where the
    CPU has no bf16. `before` are the trained model's metrics.

    Raises:
        ExportError: what model.yaml insists on is not to be had.
    """
    plain = tried[0]
    if plain.refused:
        raise ExportError(f"{spec.name}: {plain.refused}")
    against = {id(each): _against(each, plain, spec, precision, before) for each in tried}
    fit = [each for each in tried if not against[id(each)]]
    if not fit:
        reasons = "".join(
            f"\n  {each.precision} {each.memory_format}: {against[id(each)]}" for each in tried if each is not plain
        )
        raise ExportError(
            f"{spec.name}: nothing is left of `precision: {spec.precision}` and `memory_format: {spec.memory_format}` "
            f"in model.yaml. Set both to auto, or raise `budget` if the loss is intended.{reasons}"
        )
    standard = fit[0]
    taken = min(fit, key=_p50)
    if _p50(taken) > (1 - GAIN) * _p50(standard):
        taken = standard
    return tuple(
        Candidate(
            precision=each.precision,
            memory_format=each.memory_format,
            p50=each.p50,
            metrics=each.metrics,
            taken=each is taken,
            because=against[id(each)] or _because(each, taken, standard, alone=len(fit) == 1),
        )
        for each in tried
    )


def _against(
    each: Tried, plain: Tried, spec: ModelSpec, precision: PrecisionChoice, before: Mapping[str, float]
) -> str:
    """Why a candidate cannot be taken, or nothing."""
    if each.refused:
        return each.refused
    if precision not in ("auto", each.precision) or spec.memory_format not in ("auto", each.memory_format):
        return "only for comparison: model.yaml asks for another"
    # The plain archive computes what the trained model does within the tolerance; no other could do better.
    return "" if each is plain else _loss(each.metrics, before, spec.budget)


def _loss(after: Mapping[str, float], before: Mapping[str, float], budget: Mapping[str, float]) -> str:
    """Which metric falls below what the budget allows, if one does; a metric that it does not name may lose nothing."""
    for metric, value in before.items():
        allowed = budget.get(metric, 0.0)
        if metric not in after:
            return f"`evaluate` gives no {metric} for it"
        # A NaN is a loss too.
        if not after[metric] >= value - allowed - NOISE * max(1.0, abs(value)):
            return f"{metric} falls from {value:.6g} to {after[metric]:.6g}, and the budget is {allowed:g}"
    return ""


def _because(each: Tried, taken: Tried, standard: Tried, *, alone: bool) -> str:
    if each is taken:
        if alone:
            return "the only one that fits model.yaml"
        if each is standard:
            return f"no other is faster by {GAIN:.0%}"
        return f"{_p50(standard) / _p50(each):.2f} times as fast as {standard.precision} {standard.memory_format}"
    slower = _p50(each) / _p50(taken)
    return f"{slower:.2f} times as slow" if slower >= 1 else f"faster by less than {GAIN:.0%}"


def _p50(each: Tried) -> float:
    return each.p50 if each.p50 is not None else float("inf")
