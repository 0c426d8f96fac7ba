"""Python walks over a tensor where no loop is to be seen: the number of steps is that of the example."""

import functools

import torch
from torch import Tensor, nn

from tests.corpus.case import case


@case("refuse", names="sum(x)")
class BuiltinSum(nn.Module):
    """Python's sum() of a tensor adds row by row."""

    def forward(self, x: Tensor) -> Tensor:
        return x - sum(x) / 8


@case("refuse", names="[*x]")
class StarredRows(nn.Module):
    """A list display unpacks the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([*x]) * 2


@case("refuse", names="first, *rest = x")
class FirstAndRest(nn.Module):
    """An assignment takes the rows apart."""

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x
        return first * 2 + len(rest)


@case("refuse", names="functools.reduce")
class Reduced(nn.Module):
    """functools.reduce() folds the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda total, row: total * 0.5 + row, x.unbind(0)).unsqueeze(0)


@case("refuse", names="filter(")
class Filtered(nn.Module):
    """filter() keeps the rows that please."""

    def forward(self, x: Tensor) -> Tensor:
        kept = list(filter(lambda row: bool(row.sum() > 0), x))
        return torch.stack([torch.zeros(3), *kept]).sum(0)


@case("refuse", names="map(")
class Mapped(nn.Module):
    """map() over the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(list(map(torch.Tensor.relu, x)))


@case("script", names="any(")
class AnyRow(nn.Module):
    """any() over a generator stops at the first row that is loud, and none is in the samples."""

    def forward(self, x: Tensor) -> Tensor:
        if any(bool(row.sum() > 40) for row in x):
            return x * 0
        return x


@case("refuse", names="0.5 in x", rare=lambda: [(torch.full((1, 3), 0.5),)])
class InTensor(nn.Module):
    """`in` asks a tensor for a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if 0.5 in x else x


@case("refuse", names="max(x[0, 0], x[0, 1])")
class LargerOfTensors(nn.Module):
    """Python's max() of two tensors compares their values; a script has no such max()."""

    def forward(self, x: Tensor) -> Tensor:
        return x - max(x[0, 0], x[0, 1])


@case("refuse", names="sorted(")
class SortedRows(nn.Module):
    """sorted() with a key that looks at values."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(sorted(x, key=lambda row: float(row.sum())))


@case("refuse", names="self.experts[int(")
class Experts(nn.Module):
    """The values choose the expert from a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[int(x.sum(0).argmax())](x)


@case("refuse", names="apply_")
class AppliedInPython(nn.Module):
    """Tensor.apply_() runs Python on each value, which no trace records."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone().apply_(lambda value: value if value > 0 else -2 * value)


@case("refuse", names=".numpy()")
class SharedMemory(nn.Module):
    """NumPy writes into the tensor's memory behind torch's back."""

    def forward(self, x: Tensor) -> Tensor:
        answer = x * 2
        shared = answer.numpy()
        shared[shared < 0] = 0
        return answer


@case("script", "trace")
class UnpackedColumns(nn.Module):
    """Columns by unpacking, of which there are always three."""

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = x.unbind(1)
        return first + second * third
