"""Sizes that become Python numbers: the archive is right for the sizes of its example and wrong for others."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case

SERIES = ((-1, -1),)
STEPS = ((-1, -1, 3),)


@case("script", names="range(x.shape[0])")
class LoopOverBatch(nn.Module):
    """A loop over the batch is unrolled by a trace, without any warning."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(3)
        for row in range(x.shape[0]):
            total = total * 0.5 + x[row]
        return total.unsqueeze(0)


@case("script", "trace", shapes=((2, 3),))
class LoopOverFixedBatch(nn.Module):
    """The same loop is harmless where the batch is declared as fixed."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(3)
        for row in range(x.shape[0]):
            total = total * 0.5 + x[row]
        return total.unsqueeze(0)


@case("script", names="range(x.size(1))", shapes=STEPS)
class LoopOverTime(nn.Module):
    """A recurrence written by hand over the length of the series, which is the same in every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.size(0), 5)
        for step in range(x.size(1)):
            state = self.cell(x[:, step], state)
        return state


@case("script", names="range(0, x.size(1), 2)", shapes=SERIES)
class StridedLoop(nn.Module):
    """Every second step: the number of rounds is a division of a size."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.size(0))
        for step in range(0, x.size(1), 2):
            total = total * 0.9 + x[:, step]
        return total


@case("script", names="len(x)")
class LenOfTensor(nn.Module):
    """`len()` of a tensor is a Python number: the batch of the example stays for ever."""

    def forward(self, x: Tensor) -> Tensor:
        return x / len(x)


@case("script", names="int(x.shape[1] / 2)", shapes=SERIES)
class IntOfShape(nn.Module):
    """`int()` takes a size out of the trace."""

    def forward(self, x: Tensor) -> Tensor:
        half = int(x.shape[1] / 2)
        return x[:, :half].sum(1)


@case("script", names="int(x.size(0))")
class IntInView(nn.Module):
    """A view with `int(x.size(0))` works for one batch size only."""

    def forward(self, x: Tensor) -> Tensor:
        batch = int(x.size(0))
        return x.view(batch, 1, 3)


@case("script", "trace", shapes=((-1, 2, 3),))
class SizeInView(nn.Module):
    """The same view with `x.size(0)` as it is stays a size in a trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


@case("script", "trace", shapes=SERIES)
class ArangeOfLength(nn.Module):
    """Positions from the length: a trace follows the size, as long as nothing makes a number of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.arange(x.size(1))


@case("script", names="range(x.size(1))", shapes=SERIES)
class TensorOfRange(nn.Module):
    """The same positions by way of a Python list are those of the example."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([float(at) for at in range(x.size(1))])


@case("script", "trace", shapes=((-1, 3),))
class ZerosOfBatch(nn.Module):
    """An initial state of the batch's size."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(x.shape[0], 2)], dim=1)


@case("script", "trace", shapes=STEPS)
class UnpackedShape(nn.Module):
    """Sizes by unpacking the shape."""

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, features = x.shape
        return x.reshape(batch, steps * features).sum(1) / steps


@case("script", names="x.shape[1] > 4", shapes=SERIES)
class BranchOnLength(nn.Module):
    """Long series are pooled first; the samples are all short."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 4:
            x = x[:, -4:]
        return x.mean(1)


@case("script", names="x.shape[0] == 1")
class BranchOnSingle(nn.Module):
    """A single item has a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return x
        return x - x.mean(0)


@case("script", "trace")
class BranchOnRank(nn.Module):
    """A branch on the rank is none: the declared shape settles it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            x = x.unsqueeze(0)
        return x * 2


@case("script", "trace")
class BranchOnFixedSize(nn.Module):
    """A check of a size that is declared as fixed, with the size in the message."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"expected 3 features, got {x.shape[1]}")
        return x.cumsum(1)


@case("script", names="for row in x")
class ComprehensionOverRows(nn.Module):
    """A list of the rows' results is as long as the example's batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row.softmax(0) for row in x])


@case("script", names="x.unbind(0)")
class UnbindRows(nn.Module):
    """`unbind` gives a Python list, whose length a trace cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1, 3)
        for row in x.unbind(0):
            total = torch.maximum(total, row)
        return total


@case("script", names="x.split(2)")
class SplitBatch(nn.Module):
    """The batch goes through in pieces of two; how many pieces there are is Python's business."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([piece.sum(0) for piece in x.split(2)]).mean(0, keepdim=True)


@case("script", names="enumerate(x)")
class EnumerateRows(nn.Module):
    """Each row is weighted with its place."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1, 3)
        for place, row in enumerate(x):
            total = total + row * (place + 1)
        return total


@case("script", "trace")
class DividedByCount(nn.Module):
    """`numel()` is a size like any other."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.numel()


@case("script", names="math.sqrt(x.size(1))", shapes=SERIES)
class RootOfLength(nn.Module):
    """Attention's scale from a free length: math.sqrt() makes a constant of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x / math.sqrt(x.size(1))


@case("script", "trace")
class RootOfWidth(nn.Module):
    """The same scale from a fixed width is a constant anyway."""

    def forward(self, x: Tensor) -> Tensor:
        return x / math.sqrt(x.size(1))


@case("script", "trace", shapes=SERIES)
class HalfOfLength(nn.Module):
    """`//` on sizes stays in the trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2 + 1]


@case("script", "trace", shapes=SERIES)
class NegativeModulo(nn.Module):
    """Padding to a multiple of four by Python's modulo, whose sign follows the divisor."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(x.size(0), -x.size(1) % 4)], dim=1)


@case("script", "trace", shapes=SERIES)
class PadToEight(nn.Module):
    """Padding by a difference of sizes in a list of numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, [0, 8 - x.size(1)])


@case("refuse", names="round(x.size(1) / 2)", shapes=SERIES)
class RoundHalf(nn.Module):
    """Python rounds a half to even, TorchScript away from zero, and a trace bakes the number in."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : round(x.size(1) / 2)].sum(1)


@case("script", "trace", shapes=STEPS)
class Expanded(nn.Module):
    """A learnt token for every item of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


def _halved(x: Tensor) -> Any:
    return x if x.size(1) == 1 else _halved(x[:, ::2] * 0.5)


@case("refuse", names="x.size(1) == 1", shapes=SERIES)
class Recursion(nn.Module):
    """A function that calls itself until the series is short: no script, and a trace of one depth."""

    def forward(self, x: Tensor) -> Tensor:
        return _halved(x)


@case("script", names="x.dim() > 1 and x.shape[0] > 2", shapes=((-1, 3),))
class GuardedBySize(nn.Module):
    """A condition whose first half is settled hides a second half that is not."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() > 1 and x.shape[0] > 2:
            return x.flip(0)
        return x


@case("script", names="x.shape == y.shape", shapes=((-1, -1), (-1, 4)))
class ShapesCompared(nn.Module):
    """Two inputs are added if they fit; in the samples they always do."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape == y.shape:
            return x + y
        return y


@case("script", "trace", shapes=((-1, 2, 4, 4),))
class Interpolated(nn.Module):
    """Twice the size, from the size."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, size=(x.shape[2] * 2, x.shape[3] * 2), mode="nearest")


@case(
    "script",
    names="int(lengths[",
    shapes=((-1, -1), (-1,)),
    values=(torch.randn, lambda shape: torch.full(shape, 2)),
    rare=lambda: [(torch.ones(2, 5), torch.tensor([1, 5]))],
)
class SliceByValue(nn.Module):
    """Each row counts up to its own length, which comes as a value."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        total = torch.zeros(1)
        for row in range(x.size(0)):
            total = total + x[row, : int(lengths[row])].sum()
        return total
