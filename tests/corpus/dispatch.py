"""Names, dicts and settings that choose what is called."""

import enum
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.corpus.case import case


@case("trace")
class ComputedName(nn.Module):
    """Layers by getattr() with an f-string, in a loop of fixed length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer0, self.layer1 = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(2):
            x = getattr(self, f"layer{number}")(x).relu()
        return x


@case("refuse", names="x.sum()")
class NameFromValue(nn.Module):
    """The layer's name is made of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer0, self.layer1 = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"layer{int(x.sum() > 0)}")(x)


class _Pooling(enum.Enum):
    MEAN = "mean"
    MAX = "max"


@case("script", "trace")
class EnumSetting(nn.Module):
    """An Enum set when the module was made chooses the way: settled for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.pooling = _Pooling.MAX

    def forward(self, x: Tensor) -> Tensor:
        if self.pooling == _Pooling.MAX:
            return x.amax(1)
        return x.mean(1)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


@case("trace")
class DictOfFunctions(nn.Module):
    """A dict of functions and a setting."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = "tanh"

    def forward(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[self.kind](x)


@case("refuse", names="_ACTIVATIONS[")
class DictByValue(nn.Module):
    """A dict of functions and a value: a branch without an `if`."""

    def forward(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS["relu" if x[0, 0] > 0 else "tanh"](x)


@case("refuse", names="in {0, 2}")
class InSet(nn.Module):
    """Membership in a set of numbers decides."""

    def forward(self, x: Tensor) -> Tensor:
        if int(x.sum(0).argmax()) in {0, 2}:
            return x
        return -x
