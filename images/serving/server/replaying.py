"""Replays the samples: the model must give the answers that the trained model gave."""

from collections.abc import Iterator, Sequence

from server import strings
from server.answers import Answer, ModelFailed, compare
from server.errors import SamplesDisagree
from server.samples import Expected, Sample
from server.served import ServedModel

# The executor profiles the first run of a shape and specialises in the second; the third is what serving is like.
WARM_UP_RUNS = 3


def replay(served: ServedModel, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Runs every sample once; `max_abs` and `max_rel` over all samples for each output.

    Raises:
        SamplesDisagree: an answer is beyond the contract's tolerance, or the model fails; all findings are named.
    """
    contract = served.contract
    largest = {tensor.name: {"max_abs": 0.0, "max_rel": 0.0} for tensor in contract.outputs}
    findings = [
        f"sample {index}: {finding}"
        for index, sample in enumerate(samples)
        for finding in _findings(served, sample, largest)
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

    To be called in the thread that will serve.
    """
    by_shape: dict[tuple[tuple[int, ...], ...], list[Sample]] = {}
    for sample in samples:
        by_shape.setdefault(tuple(tuple(shape) for _, shape, _ in sample.inputs), []).append(sample)
    for replayed in by_shape.values():
        for _ in range(WARM_UP_RUNS - len(replayed)):
            served.answer(replayed[0].inputs)


def _findings(served: ServedModel, sample: Sample, largest: dict[str, dict[str, float]]) -> Iterator[str]:
    try:
        answers = served.answer(sample.inputs)
    except ModelFailed as error:
        yield str(error)
        return
    for answer in answers:
        name = answer.tensor.name
        finding = _judged(served, answer, sample.outputs[name], largest[name])
        if finding:
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
    return f"differs by up to {difference.absolute:.3g}, beyond tolerance first at element {difference.beyond}"
