"""Python that scripting does not know: right to trace where it only arranges modules, a trap where it decides."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


@case("refuse", names="try")
class TryExcept(nn.Module):
    """An exception decides: scripting has no `try`, and a trace keeps the way without the exception."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.checked(x)
        except ValueError:
            return torch.zeros_like(x)

    def checked(self, x: Tensor) -> Tensor:
        if x.sum() < 0:
            raise ValueError("negative")
        return x.sqrt()


@case("refuse", names="match int(x.sum() > 0)")
class MatchStatement(nn.Module):
    """`match` on a value: scripting does not know it, tracing freezes it."""

    def forward(self, x: Tensor) -> Tensor:
        match int(x.sum() > 0):
            case 1:
                return x * 2
            case _:
                return x - 1


@case("refuse", names=":=")
class Walrus(nn.Module):
    """The branch assigns in its condition, which scripting does not know."""

    def forward(self, x: Tensor) -> Tensor:
        if (total := x.sum()) > 0:
            return x / total
        return x


def _halved(x: Tensor) -> Any:
    return x if x.size(1) == 1 else _halved(x[:, ::2] * 0.5)


@case("refuse", names="x.size(1) == 1", shapes=((-1, -1),))
class Recursion(nn.Module):
    """A function that calls itself until the series is short: no script, and a trace of one depth."""

    def forward(self, x: Tensor) -> Tensor:
        return _halved(x)


@case("trace")
class Closure(nn.Module):
    """A function defined in forward() that uses its variables."""

    def forward(self, x: Tensor) -> Tensor:
        centre = x.mean(1, keepdim=True)

        def centred(power: int) -> Tensor:
            return (x - centre) ** power

        return centred(2) + centred(3)


@case("refuse", names="x.sum() > 0")
class ClosureThatBranches(nn.Module):
    """The same, but the inner function decides."""

    def forward(self, x: Tensor) -> Tensor:
        def signed(y: Tensor) -> Tensor:
            return y if x.sum() > 0 else -y

        return signed(x * 2)


@case("trace")
class Kwargs(nn.Module):
    """Settings go on as **kwargs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x, factor=2.0, shift=1.0)

    def scaled(self, x: Tensor, **settings: float) -> Tensor:
        return x * settings["factor"] + settings["shift"]


@case("refuse", names='x.max() > settings["limit"]')
class KwargsThatDecide(nn.Module):
    """A setting from **kwargs is compared with a value."""

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, limit=1.0)

    def limited(self, x: Tensor, **settings: float) -> Tensor:
        if x.max() > settings["limit"]:
            return x / x.max()
        return x


@case("trace")
class LambdaAttribute(nn.Module):
    """The activation is a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x * torch.sigmoid(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


@case("refuse", names="x.sum() > 0")
class LambdaThatDecides(nn.Module):
    """The lambda holds a conditional expression."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x if x.sum() > 0 else -x

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x * 2)


@case("trace")
class PartialAttribute(nn.Module):
    """The activation is a functools.partial."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = functools.partial(functional.leaky_relu, negative_slope=0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


@case("trace")
class NumpyConstant(nn.Module):
    """NumPy computes a scale from a fixed size."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.sqrt(x.shape[1]))


@case("trace")
class GeneratorExpression(nn.Module):
    """sum() over a generator of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = sum(head(x) for head in self.heads)
        return total


_TABLE = torch.tensor([1.0, 2.0, 3.0])


@case("trace")
class GlobalTensor(nn.Module):
    """A constant table in the module's globals."""

    def forward(self, x: Tensor) -> Tensor:
        return x * _TABLE


class _Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@case("trace")
class SuperForward(_Doubling):
    """forward() goes on from the one that it overrides."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def _skipping_silence(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    @functools.wraps(forward)
    def wrapped(self: Any, x: Tensor) -> Tensor:
        return forward(self, x) if x.abs().max() > 0.1 else x

    return wrapped


@case("refuse", names="x.abs().max() > 0.1", values=(torch.ones,))
class DecoratorThatDecides(nn.Module):
    """A decorator of one's own decides whether forward() is called at all."""

    @_skipping_silence
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


@case("script", "trace")
class IsInstance(nn.Module):
    """A question about a type that the declaration has answered."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            x = x * 2
        return x
