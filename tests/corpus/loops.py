"""Loops as long as a dimension: a trace unrolls them for its example, mostly without a warning."""

import torch
from torch import Tensor, nn

from tests.corpus.case import case


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


@case("script", names="range(x.size(1))", shapes=((-1, -1, 3),))
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


@case("script", names="range(0, x.size(1), 2)", shapes=((-1, -1),))
class StridedLoop(nn.Module):
    """Every second step: the number of rounds is a division of a size."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.size(0))
        for step in range(0, x.size(1), 2):
            total = total * 0.9 + x[:, step]
        return total


@case("script", names="range(x.size(1))", shapes=((-1, -1),))
class TensorOfRange(nn.Module):
    """The same positions by way of a Python list are those of the example."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([float(at) for at in range(x.size(1))])


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


@case("script", names="range(x.size(0))")
class ListOfInputs(nn.Module):
    """A Python list of tensors as long as the batch, and a question about it."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[at] * at for at in range(x.size(0))]
        return torch.stack(parts) if isinstance(parts, list) else x


@case("script", names="zip(x, weights)")
class ZippedRows(nn.Module):
    """Two tensors are walked side by side."""

    def forward(self, x: Tensor) -> Tensor:
        weights = x.softmax(0)
        total = torch.zeros(1, 3)
        for row, weight in zip(x, weights):  # noqa: B905 (scripting does not know `strict`)
            total = total * 0.5 + row * weight
        return total


@case("refuse", names="range(x.shape[0])")
class LoopWithLambda(nn.Module):
    """A loop over the batch where nothing can be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.step = lambda total, row: total * 0.5 + row

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1, 3)
        for row in range(x.shape[0]):
            total = self.step(total, x[row])
        return total


@case("refuse", names="max(", shapes=((-1, -1),))
class GeneratorOverTime(nn.Module):
    """A generator walks the steps, hidden in a call of Python's max()."""

    def forward(self, x: Tensor) -> Tensor:
        best = max(x[:, step].sum() for step in range(x.size(1)))
        return x - best
