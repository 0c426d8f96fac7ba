"""Code that forward() reaches by other ways than its own methods: objects, factories, text."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.corpus.case import case


def _loud() -> list[tuple[Tensor, ...]]:
    return [(torch.full((1, 3), 2e6),)]


class _Scaler:
    """A plain object, as preprocessing often is."""

    def __call__(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            return x / x.max()
        return x

    def __getitem__(self, x: Tensor) -> Tensor:
        return x if x.amin() > -1e6 else -x

    @property
    def factor(self) -> float:
        return 2.0


@case("script", names="x.max() > 1e6", rare=_loud)
class PlainObject(nn.Module):
    """An attribute that is no module decides in its __call__(), and only on rare values."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = _Scaler()

    def forward(self, x: Tensor) -> Tensor:
        return self.scaler(x)


@case("script", names="x.amin() > -1e6", rare=lambda: [(torch.full((1, 3), -2e6),)])
class PlainItem(nn.Module):
    """The same object decides in its __getitem__()."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = _Scaler()

    def forward(self, x: Tensor) -> Tensor:
        return self.scaler[x]


@case("script", "trace")
class PlainProperty(nn.Module):
    """The same object gives a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = _Scaler()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scaler.factor


def _limiter(limit: float) -> Callable[[Tensor], Tensor]:
    def limited(x: Tensor) -> Tensor:
        return x / x.max() if x.max() > limit else x

    return limited


@case("refuse", names="x.max() > limit", rare=_loud)
class Factory(nn.Module):
    """A function made by a function, with a branch on rare values."""

    def __init__(self) -> None:
        super().__init__()
        self.limited = _limiter(1e6)

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x)


def _clipped(x: Tensor, limit: float) -> Tensor:
    if x.abs().max() > limit:
        return x.clamp(-1.0, 1.0)
    return x


@case("refuse", names="x.abs().max() > limit", rare=_loud)
class PartialThatDecides(nn.Module):
    """A functools.partial of a function with a branch on rare values."""

    def __init__(self) -> None:
        super().__init__()
        self.clipped = functools.partial(_clipped, limit=1e6)

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x)


@case("refuse", names="self.checked(x", rare=lambda: [(torch.zeros(1, 3),)], values=(torch.rand,))
class MadeOfText(nn.Module):
    """A function made by eval() has no source to read, and torch.equal() gives no warning."""

    def __init__(self) -> None:
        super().__init__()
        self.checked = eval("lambda x, zeros: x - 1 if torch.equal(x, zeros) else x", {"torch": torch})

    def forward(self, x: Tensor) -> Tensor:
        return self.checked(x, torch.zeros_like(x))


@dataclass
class _Clamped:
    value: Tensor

    def __post_init__(self) -> None:
        if self.value.max() > 1e6:
            self.value = self.value * 0


@case("refuse", names="self.value.max() > 1e6", rare=_loud)
class DataclassThatDecides(nn.Module):
    """A dataclass made on the way decides in its __post_init__()."""

    def forward(self, x: Tensor) -> Tensor:
        return _Clamped(x).value + 1


class _Gains:
    @staticmethod
    def of(x: Tensor) -> Tensor:
        return x.mean() if x.max() < 1e6 else x.max()


@case("script", names="x.max() < 1e6", rare=lambda: [(torch.tensor([[2e6, 0.0, 1.0]]),)])
class StaticMethod(nn.Module):
    """A static method of a plain class decides."""

    def forward(self, x: Tensor) -> Tensor:
        return x - _Gains.of(x)


class _Guard:
    def __init__(self, x: Tensor) -> None:
        self.loud = bool(x.max() > 1e6)

    def __enter__(self) -> float:
        return 0.0 if self.loud else 1.0

    def __exit__(self, *_: object) -> None:
        return None


@case("refuse", names="bool(x.max() > 1e6)", rare=_loud)
class ContextThatDecides(nn.Module):
    """A context manager looks at the values."""

    def forward(self, x: Tensor) -> Tensor:
        with _Guard(x) as gain:
            return x * gain


@case("script", "refuse", names="self.current", rare=_loud)
class PropertyThatDecides(nn.Module):
    """A property decides on what the call left there; threads would share it, so refusing is right too."""

    def forward(self, x: Tensor) -> Tensor:
        self.current = x
        return x * self.gain

    @property
    def gain(self) -> float:
        x = self.current
        return 0.0 if x.max() > 1e6 else 1.0


@case("refuse", names="x.sum() > 0")
class BoundElsewhere(nn.Module):
    """forward() calls a method under another name, and scripting stumbles over the two names."""

    def forward(self, x: Tensor) -> Tensor:
        return self.signed(x)

    def _signed(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    signed = _signed
