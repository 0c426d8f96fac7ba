"""Sizes that become Python numbers: the archive is right for the sizes of its example and wrong for others."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


@case("script", names="len(x)")
class LenOfTensor(nn.Module):
    """`len()` of a tensor is a Python number: the batch of the example stays for ever."""

    def forward(self, x: Tensor) -> Tensor:
        return x / len(x)


@case("script", names="int(x.shape[1] / 2)", shapes=((-1, -1),))
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


@case("script", "trace", shapes=((-1, -1),))
class ArangeOfLength(nn.Module):
    """Positions from the length: a trace follows the size, as long as nothing makes a number of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.arange(x.size(1))


@case("script", "trace", shapes=((-1, 3),))
class ZerosOfBatch(nn.Module):
    """An initial state of the batch's size."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(x.shape[0], 2)], dim=1)


@case("script", "trace", shapes=((-1, -1, 3),))
class UnpackedShape(nn.Module):
    """Sizes by unpacking the shape."""

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, features = x.shape
        return x.reshape(batch, steps * features).sum(1) / steps


@case("script", names="x.shape[1] > 4", shapes=((-1, -1),))
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


@case("script", "trace")
class DividedByCount(nn.Module):
    """`numel()` is a size like any other."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.numel()


@case("script", names="math.sqrt(x.size(1))", shapes=((-1, -1),))
class RootOfLength(nn.Module):
    """Attention's scale from a free length: math.sqrt() makes a constant of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x / math.sqrt(x.size(1))


@case("script", "trace")
class RootOfWidth(nn.Module):
    """The same scale from a fixed width is a constant anyway."""

    def forward(self, x: Tensor) -> Tensor:
        return x / math.sqrt(x.size(1))


@case("script", "trace", shapes=((-1, -1),))
class HalfOfLength(nn.Module):
    """`//` on sizes stays in the trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2 + 1]


@case("script", "trace", shapes=((-1, -1),))
class NegativeModulo(nn.Module):
    """Padding to a multiple of four by Python's modulo, whose sign follows the divisor."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(x.size(0), -x.size(1) % 4)], dim=1)


@case("script", "trace", shapes=((-1, -1),))
class PadToEight(nn.Module):
    """Padding by a difference of sizes in a list of numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, [0, 8 - x.size(1)])


@case("refuse", names="round(x.size(1) / 2)", shapes=((-1, -1),))
class RoundHalf(nn.Module):
    """round() gives a float in TorchScript, which is no index, and a trace bakes the number in."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : round(x.size(1) / 2)].sum(1)


@case("script", "trace", shapes=((-1, -1, 3),))
class Expanded(nn.Module):
    """A learnt token for every item of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


@case("script", names="x.dim() > 1 and x.shape[0] > 2", rare=lambda: [(torch.eye(3)[:2],)])
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


@case("refuse", names="x.shape[1:].numel()", shapes=((-1, -1),))
class NumelOfShape(nn.Module):
    """A size object's own method gives a plain number, without a warning; scripting does not know it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / x.shape[1:].numel()


@case("refuse", names="np.prod(x.shape)", shapes=((-1, -1),))
class NumpyOfShape(nn.Module):
    """NumPy multiplies free sizes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / float(np.prod(x.shape))


@case("script", names="min(x.size(1), 6)", shapes=((-1, -1),))
class LeastOfSizes(nn.Module):
    """Python's min() chooses between a size and a limit, which no sample reaches."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : min(x.size(1), 6)].sum(1)


@case("script", "trace", shapes=((-1, -1),))
class TensorOfSize(nn.Module):
    """torch.tensor() of a size is one of the few that a trace follows."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.tensor(x.size(1))


@case("trace", shapes=((-1, -1),))
class SizeInLambda(nn.Module):
    """A size goes through a lambda and stays a size."""

    def __init__(self) -> None:
        super().__init__()
        self.shorter = lambda x: x[:, : x.size(1) // 2 + 1]

    def forward(self, x: Tensor) -> Tensor:
        return self.shorter(x) * x.size(0)


@case("refuse", names="len(x)")
class LenInLambda(nn.Module):
    """The same lambda with len() has no right archive."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled = lambda x: x / len(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x)
