"""Values that become Python numbers, lists or text: a trace has the example's ones, as constants."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


@case("script", names="int(x.sum() > 0)")
class BoolAsNumber(nn.Module):
    """No `if` at all: a comparison becomes a Python number, and the number a factor."""

    def forward(self, x: Tensor) -> Tensor:
        return x * int(x.sum() > 0)


@case("refuse", names="float(x.abs().max())", rare=lambda: [(torch.tensor([[float("nan"), 9.0, 0.0]]),)])
class PythonMax(nn.Module):
    """Python's max() decides without an `if`, and TorchScript's decides otherwise about NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x / max(float(x.abs().max()), 1.0)


@case("script", names="int(which)", shapes=((-1, 3), (1,)), values=(torch.randn, lambda shape: torch.randint(3, shape)))
class IndexByValue(nn.Module):
    """A value picks the column: no branch, but a Python index."""

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        return x[:, int(which)]


@case("script", names="float(x.mean())")
class NumberFromValue(nn.Module):
    """A Python number made from a value goes back into a tensor: the trace has a constant there."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, float(x.mean()))


@case("refuse", names="tolist()", rare=lambda: [(torch.tensor([[float("nan"), 0.5, 0.1]]),)])
class SortedInPython(nn.Module):
    """Python sorts the values: a trace keeps the order of its example, and a script sorts NaN elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        values: list[float] = x.sum(0).tolist()
        values.sort()
        return x + torch.tensor(values)


@case("refuse", names="tolist()")
class UntypedList(nn.Module):
    """`.tolist()` without a written type cannot be scripted, and a trace keeps the values of its example."""

    def forward(self, x: Tensor) -> Tensor:
        values = x.sum(0).tolist()
        return x + torch.tensor([value * 2 for value in values])


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


@case("script", names="x.sum().item()")
class FormattedValue(nn.Module):
    """An f-string of a value decides."""

    def forward(self, x: Tensor) -> Tensor:
        text = f"{x.sum().item() > 0}"
        if text == "True":
            return x * 2
        return x


@case("refuse", names=".format(", rare=lambda: [(torch.tensor([[0.01, 0.0, 0.0]]),)])
class RoundedText(nn.Module):
    """A value is compared as text with one digit; TorchScript's format() ignores the digits."""

    def forward(self, x: Tensor) -> Tensor:
        if "{:.1f}".format(x.sum().item()) == "0.0":  # noqa: UP032 (the trap)
            return torch.zeros_like(x)
        return x


@case("refuse", names=".numpy()")
class ThroughNumpy(nn.Module):
    """The values leave torch and come back: a trace has the example's values there, as a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.detach().cpu().numpy())) * 2


@case("script", names="torch.equal(", rare=lambda: [(torch.ones(2, 3),), (torch.zeros(1, 3),)])
class TensorsEqual(nn.Module):
    """torch.equal() answers with a Python bool, and a trace takes it without a warning."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.equal(x, x.flip(1)):
            return torch.zeros_like(x) - 1
        return x


@case("script", names="torch.allclose(", rare=lambda: [(torch.full((1, 3), 1e-9),)])
class TensorsClose(nn.Module):
    """torch.allclose() likewise."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if torch.allclose(x, torch.zeros_like(x)) else x


@case("script", names="torch.is_nonzero(", values=(torch.ones,))
class IsNonzero(nn.Module):
    """torch.is_nonzero() likewise."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.sum() if torch.is_nonzero(x.sum()) else x - 1


@case("refuse", names="str(int(x[0, 0]))", rare=lambda: [(torch.full((1, 3), 1e25),)])
class LengthOfText(nn.Module):
    """The digits of a value are counted; a script has whole numbers of 64 bits only."""

    def forward(self, x: Tensor) -> Tensor:
        return x * len(str(int(x[0, 0])))


@case("refuse", names=".numpy()")
class NumpyDecides(nn.Module):
    """NumPy looks at the values and decides."""

    def forward(self, x: Tensor) -> Tensor:
        return -x if np.mean(x.numpy()) > 0 else x


@case("script", "trace")
class IndexedByArgmax(nn.Module):
    """A tensor as an index stays one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.gather(1, x.argmax(1, keepdim=True))


def _lengths(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(1, 3, shape)


@case(
    "script",
    "trace",
    shapes=((-1, 6), (-1,)),
    values=(torch.randn, _lengths),
    rare=lambda: [(torch.ones(1, 6), torch.tensor([5]))],
)
class SliceByTensor(nn.Module):
    """A slice by a tensor stays one; only int() would take it out of the trace."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x[:, : lengths.max()].sum(1)


@case("script", "trace", shapes=((-1,),), values=(_lengths,))
class ArangeByTensor(nn.Module):
    """A mask as wide as the largest length among the values."""

    def forward(self, lengths: Tensor) -> Tensor:
        return torch.arange(10).unsqueeze(0) < lengths.max() + lengths.unsqueeze(1)


@case("script", "trace", shapes=((-1,),), values=(lambda shape: torch.randint(0, 4, shape),))
class AsManyAsFound(nn.Module):
    """Operators whose answer is as large as the values say."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.bincount(x), torch.unique(x), functional.one_hot(x).sum(0)


@case(
    "script",
    names="torch.tensor([",
)
class TensorOfNumbers(nn.Module):
    """torch.tensor() of numbers that come from tensors copies the example's."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([float(x.min()), float(x.max())])
