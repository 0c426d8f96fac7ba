"""Python sees numbers and decides, but on what is settled: no script because of a lambda or the like, a right trace."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


def _swish(x, beta=1.5):  # type: ignore[no-untyped-def]
    return x * torch.sigmoid(beta * x)


@case("trace")
class UntypedDefault(nn.Module):
    """Scripting takes an argument without a type for a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return _swish(x, 2.0)


@case("trace")
class WeightDecides(nn.Module):
    """A branch on a parameter's value: the weights are as fixed as a setting."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.activation = lambda x: x.tanh() * 2

    def forward(self, x: Tensor) -> Tensor:
        if self.scale.item() > 0.5:
            x = x * self.scale
        return self.activation(x)


@case("script", "trace")
class BufferDecides(nn.Module):
    """A branch on a buffer that nothing changes."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled: Tensor
        self.register_buffer("enabled", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        if bool(self.enabled):
            return x * 2
        return x


@case("trace")
class FixedWidth(nn.Module):
    """int() and range() of a size that is declared as fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.tanh() * 2

    def forward(self, x: Tensor) -> Tensor:
        total = x[:, : int(x.shape[1] / 2)].sum(1)
        for column in range(x.size(1)):
            total = total + x[:, column] / (column + 1)
        return self.activation(total)


@case("trace")
class CheckedRank(nn.Module):
    """Assertions about rank, datatype and width, which the declaration has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.tanh() * 2

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 2, f"rank {x.dim()}"
        assert x.dtype == torch.float32 and x.shape[-1] == 3  # noqa: PT018
        return self.activation(x)


@case("trace")
class TrainingWithLambda(nn.Module):
    """Noise behind `self.training`, in a module that cannot be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.tanh() * 2

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = functional.dropout(x) + torch.randn_like(x)
        return self.activation(x)


@case("trace")
class SettledTry(nn.Module):
    """`try` around an attribute that is there or not, once for all."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            scale = self.scale
        except AttributeError:
            scale = 2.0
        return x * scale


@case("script", "trace")
class SettledWhile(nn.Module):
    """A while loop over plain numbers."""

    def forward(self, x: Tensor) -> Tensor:
        power = 1
        while power < 8:
            x = x + torch.cos(x * power)
            power *= 2
        return x


@case("trace")
class WeightsByName(nn.Module):
    """A loop over the model's own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        norm = sum(weight.abs().sum() for _, weight in self.named_parameters())
        return self.layer(x) / norm


@case("trace")
class ClassName(nn.Module):
    """A branch on the name of the class."""

    def forward(self, x: Tensor) -> Tensor:
        if type(self).__name__ == "ClassName":
            return x * 2
        return x


@case("trace", shapes=((-1, -1, 3),))
class RecurrentWithClosure(nn.Module):
    """A recurrent layer over any length, in a module that cannot be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        def last(series: Tensor) -> Tensor:
            return series[:, -1]

        return last(self.recurrent(x)[0])


@case("script", "trace")
class KeptForLater(nn.Module):
    """The last activations are kept for whoever wants to look at them; no answer depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = None
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.layer(x)
        self.last = answer.detach()
        return answer * 2


class _Doubled(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2


@case("trace")
class OwnCall(nn.Module):
    """A layer with its own __call__(), which scripting passes over in silence."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _Doubled(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@case("script", "trace")
class Property(nn.Module):
    """A property computed from a setting."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2

    @property
    def gain(self) -> float:
        return 1.0 / self.heads

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


@case("trace")
class ConstantText(nn.Module):
    """Text handled in Python, all of it settled."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = " Tanh-Fast "

    def forward(self, x: Tensor) -> Tensor:
        name, *_ = self.kind.strip().lower().partition("-")
        return getattr(torch, name)(x)


@case("trace")
class SortedNames(nn.Module):
    """sorted() puts the names of layers in order, not values."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"right": nn.Linear(3, 3), "left": nn.Linear(3, 3)})

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = sum(self.parts[name](x) for name in sorted(self.parts))
        return total


@case("trace")
class SortedParts(nn.Module):
    """sorted() puts named answers in order by their names."""

    def forward(self, x: Tensor) -> Tensor:
        parts = OrderedDict(second=x * 2, first=x + 1)
        return torch.cat([part for _, part in sorted(parts.items())], dim=1)
