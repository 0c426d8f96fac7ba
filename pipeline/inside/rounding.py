"""How much of a model's answer is rounding: what it answers beside what it answers in double precision."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample, Value
from pipeline.inside.verdict.trial import FAILURES, LONGEST, limited, run

# How many times the model's own rounding error its archive may be off by: both are off from the exact answer, each in
# its own order of additions. Measured over the probes of resnet18, mobilenet_v3, shufflenet, squeezenet and a
# perceptron: frozen, optimised or in channels_last, an archive is off from the model by up to 2.7 times that error.
TIMES = 4
# A share of the largest number of an answer. Where the model is off from double precision by more, that is no rounding
# of single operations: the model does something else there, or the answer is noise.
MOST = 1e-3


def measured(model: nn.Module, probes: Sequence[Sample], contract: dict[str, Any]) -> tuple[Sample, ...]:
    """The probes, each with what rounding may add to the absolute tolerance of each of its outputs.

    A tolerance is made for the numbers that are served. A probe may have a thousand times as large ones, or make the
    model take differences of large numbers: then the order of additions alone moves an answer by more. So each answer
    is computed once more in double precision, and its largest difference, times `TIMES`, is allowed too. It is 0 where
    the model has no floating-point output, cannot be run in double precision, or does not answer the same there.
    """
    names = [tensor["name"] for tensor in contract["outputs"]]
    try:
        exact = copy.deepcopy(model).double()
    except FAILURES:
        # What cannot be copied cannot be compared: nothing is allowed beyond the tolerance.
        return tuple(replace(probe, rounding=(0.0,) * len(names)) for probe in probes)
    return tuple(replace(probe, rounding=_of(exact, probe, names)) for probe in probes)


def _of(exact: nn.Module, probe: Sample, names: Sequence[str]) -> tuple[float, ...]:
    inputs = [_double(each) for each in probe.inputs]
    try:
        with limited(LONGEST), _double_by_default():
            answers = run(exact, inputs, names)
    except (Refused, *FAILURES):
        return (0.0,) * len(names)
    if len(answers) != len(probe.outputs) or not all(map(_alike, probe.outputs, answers)):
        return (0.0,) * len(names)
    return tuple(map(_slack, probe.outputs, answers))


def _alike(answer: Value, exact: Value) -> bool:
    """Whether both are of one shape, and equal where nothing is rounded: numbers of boxes, classes, strings."""
    if not isinstance(answer, Tensor) or not isinstance(exact, Tensor):
        return type(answer) is type(exact) and answer == exact
    if answer.shape != exact.shape:
        return False
    return bool(answer.is_floating_point() or torch.equal(answer, exact))


def _slack(answer: Value, exact: Value) -> float:
    """To two digits, upwards, so that equal weights give the same number wherever they are exported."""
    if not isinstance(answer, Tensor) or not isinstance(exact, Tensor) or not answer.numel():
        return 0.0
    off = float((answer.double() - exact.double()).abs().max())
    if not 0 < off <= MOST * float(answer.double().abs().max()):
        return 0.0
    step = 10.0 ** (math.floor(math.log10(TIMES * off)) - 1)
    return float(f"{math.ceil(TIMES * off / step) * step:.2g}")


def _double(value: Value) -> Value:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def _double_by_default() -> Iterator[None]:
    """What forward() makes without a datatype, such as torch.zeros(3), is double, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
