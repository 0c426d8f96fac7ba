"""Runs in the training image: how much of an answer is called rounding, and what is not."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from pipeline.inside import rounding
from pipeline.inside.order import Refused
from pipeline.inside.parity import compare
from pipeline.inside.samples import Sample

CONTRACT = {
    "outputs": [{"name": "logits"}],
    "tolerance": {"absolute": 1e-4, "relative": 1e-4},
    "probes": {"judged": True},
}
SUM = torch.linspace(-1, 1, 4000).reshape(4, 1000)


class Model(nn.Module):  # type: ignore[misc]
    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Uncopyable(Model):
    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("it holds a lock")


def _measured(forward: Callable[[Tensor], Tensor], x: Tensor = SUM, kind: type[Model] = Model) -> float:
    model = kind(forward)
    probe = Sample(inputs=(x,), outputs=(forward(x),))
    (found,) = rounding.measured(model, (probe,), {"outputs": [{"name": "y"}]})
    assert (found.inputs, found.outputs) == (probe.inputs, probe.outputs)
    assert torch.get_default_dtype() == torch.float32
    return found.rounding[0]


def _what_additions_round_is_allowed() -> None:
    small, large = _measured(lambda x: x.sqrt().nan_to_num().sum(1)), _measured(lambda x: (1000 * x).sin().sum(1))
    assert 0 < small < 1e-3
    assert 0 < large < 1e-2
    # A small answer that is the difference of large numbers is rounded as they are.
    assert _measured(lambda x: (x + 3000) - 2999, torch.full((2, 2), 0.3)) > 1e-4
    # Numbers without a datatype of their own are double there, too.
    assert _measured(lambda x: (x @ torch.ones(1000, 2)) / 3) > 0
    assert f"{_measured(lambda x: x / 3):.2g}" == f"{_measured(lambda x: x / 3)}"


def _what_is_no_rounding_is_not() -> None:
    assert _measured(lambda x: 2 * x) == 0
    # Another answer in double precision.
    assert _measured(lambda x: x / 3 if x.dtype == torch.float32 else x) == 0
    # Whole numbers, which rounding may only turn into others.
    assert _measured(lambda x: (x * 1e6 / 3).long()) == 0
    # Another number of rows, and no answer at all.
    assert _measured(lambda x: (x / 3)[x / 3 * 3 == x]) == 0
    assert _measured(lambda x: x @ torch.ones(1000, 2, dtype=torch.float32) / 3) == 0
    assert _measured(lambda x: x / 3, kind=Uncopyable) == 0


def _an_archive_that_rounds_otherwise_passes_and_another_one_does_not() -> None:
    model = resnet18(num_classes=10).eval()
    wrong = copy.deepcopy(model)
    x = 1000 * torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        answer = model(x)
        wrong.fc.weight *= 1.001
        program, other = (torch.jit.freeze(torch.jit.trace(each, x, check_trace=False)) for each in (model, wrong))
    (probe,) = rounding.measured(model, (Sample(inputs=(x,), outputs=(answer,)),), CONTRACT)
    optimised = torch.jit.optimize_for_inference(program)
    found = compare("optimised", optimised, CONTRACT, taken=(), probed=(probe,))["logits"]
    assert 0 < found["absolute"] < probe.rounding[0] < 1e-5 * answer.abs().max()
    try:
        compare("optimised", other, CONTRACT, taken=(), probed=(probe,))
    except Refused as refusal:
        told = str(refusal)
    assert "optimised, probe 0: the output `logits` is" in told


def main() -> None:
    torch.manual_seed(0)
    _what_additions_round_is_allowed()
    _what_is_no_rounding_is_not()
    _an_archive_that_rounds_otherwise_passes_and_another_one_does_not()
    print("held")


if __name__ == "__main__":
    main()
