"""Replays the samples: the model must give the answers that the trained model gave."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from server.errors import ContractInvalid, SamplesDisagree
from server.model import strings
from server.model.answers import Answer, ModelFailed, compare
from server.model.samples import Expected, Sample
from server.model.served import ServedModel

# The executor profiles the first run of a shape and specialises in the second; the third is what serving is like.
WARM_UP_RUNS = 3

Shapes: TypeAlias = tuple[tuple[int, ...], ...]


def replay(
    served: ServedModel, samples: Sequence[Sample], *, kind: str = "sample", judged: bool = True
) -> dict[str, dict[str, float]]:
    """Runs every sample once; `max_abs` and `max_rel` over all samples for each output.

    `kind` is what they are called, sample or probe. Where they are not `judged`, differences are only measured.

    Raises:
        SamplesDisagree: an answer is beyond the contract's tolerance, or the model fails; all findings are named.
    """
    contract = served.contract
    largest = {tensor.name: {"max_abs": 0.0, "max_rel": 0.0} for tensor in contract.outputs}
    findings = [
        f"{kind} {index}: {finding}"
        for index, sample in enumerate(samples)
        for finding in _findings(served, sample, largest, judged=judged)
    ]
    if findings:
        tolerance = contract.tolerance
        raise SamplesDisagree(
            f"{contract.name} {contract.version} does not give the answers that the trained model gave "
            f"(allowed: {tolerance.absolute:g} + {tolerance.relative:g} * |expected|). {'; '.join(findings)}. "
            "Export it again; raise `tolerance` only if such a difference is intended."
        )
    return largest


def warm_up(served: ServedModel, samples: Sequence[Sample]) -> None:
    """Runs each shape of the samples, which were replayed once, until the executor has specialised for it.

    How many runs that takes is in the contract, where it was measured. To be called in the thread that will serve.

    Raises:
        ContractInvalid: the contract's plan names a sample that is not there.
    """
    shapes = by_shape(samples)
    runs = dict.fromkeys(shapes, WARM_UP_RUNS)
    for step in served.contract.warm_up:
        if step.sample >= len(samples):
            raise ContractInvalid(
                f"warm_up in the contract names sample {step.sample}, and there are {len(samples)} from 0 on. "
                "Export the model again."
            )
        runs[shapes_of(samples[step.sample])] = step.runs
    for shape, numbers in shapes.items():
        for _ in range(runs[shape] - len(numbers)):
            served.answer(samples[numbers[0]].inputs)


def by_shape(samples: Sequence[Sample]) -> dict[Shapes, list[int]]:
    """The numbers of the samples whose inputs have the same shapes, by these."""
    found: dict[Shapes, list[int]] = {}
    for number, sample in enumerate(samples):
        found.setdefault(shapes_of(sample), []).append(number)
    return found


def shapes_of(sample: Sample) -> Shapes:
    """The shape of each input."""
    return tuple(tuple(shape) for _, shape, _ in sample.inputs)


def _findings(
    served: ServedModel, sample: Sample, largest: dict[str, dict[str, float]], *, judged: bool
) -> Iterator[str]:
    try:
        answers = served.answer(sample.inputs)
    except ModelFailed as error:
        yield str(error)
        return
    for answer in answers:
        name = answer.tensor.name
        finding = _judged(served, answer, sample.outputs[name], largest[name])
        if finding and judged:
            yield f"output {name} {finding}"


def _judged(served: ServedModel, answer: Answer, expected: Expected, largest: dict[str, float]) -> str | None:
    """What is wrong with an answer, if anything; `largest` grows to its differences."""
    if answer.shape != expected.shape:
        return f"has shape {list(answer.shape)}, expected {list(expected.shape)}"
    difference = compare(answer, expected, served.contract.tolerance)
    largest["max_abs"] = max(largest["max_abs"], difference.absolute)
    largest["max_rel"] = max(largest["max_rel"], difference.relative)
    if difference.beyond is None:
        return None
    if answer.tensor.datatype.kind == "string":
        got, wanted = (strings.decode(each)[difference.beyond] for each in (answer.content, expected.content))
        return f"is {got!r:.100} at element {difference.beyond}, expected {wanted!r:.100}"
    return difference.told(expected)
