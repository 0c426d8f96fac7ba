"""What goes wrong only on an input that neither a sample nor a random probe is like."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


def _loud() -> list[tuple[Tensor, ...]]:
    return [(torch.full((1, 3), 2e6),), (torch.full((2, 3), 2e6),)]


@case("script", names="x.shape[0] > 64", rare=lambda: [(torch.ones(80, 3),)])
class LargeBatch(nn.Module):
    """Only a batch beyond any probe goes through in parts."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 64:
            return x - x[:64].mean(0)
        return x


@case("refuse", names="x.shape[0] > 64", rare=lambda: [(torch.ones(80, 3),)])
class LargeBatchInLambda(nn.Module):
    """The same where nothing can be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.centred = lambda x: x - x[:64].mean(0) if x.shape[0] > 64 else x

    def forward(self, x: Tensor) -> Tensor:
        return self.centred(x)


@case("refuse", names="torch.rand_like(x)", rare=_loud)
class RarelyNoisy(nn.Module):
    """Noise on loud inputs only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            return x * torch.rand_like(x)
        return x


@case("refuse", names="functional.dropout(", rare=_loud)
class RarelyDropped(nn.Module):
    """Dropout that is always on, for loud inputs only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            x = functional.dropout(x, 0.5)
        return x


@case("refuse", names="is_scripting()", rare=_loud)
class RarelyScripting(nn.Module):
    """On loud inputs the script goes a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            if torch.jit.is_scripting():
                return x
            return x * 0
        return x


class _Halved(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) / 2


@case("refuse", names="__call__", rare=_loud)
class RarelyOwnCall(nn.Module):
    """On loud inputs a layer is called whose own __call__() scripting passes over."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _Halved(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            return self.layer(x)
        return x


@case("refuse", names="self.peak", rare=_loud)
class RarelyStateful(nn.Module):
    """A loud input changes all later answers."""

    def __init__(self) -> None:
        super().__init__()
        self.peak: Tensor
        self.register_buffer("peak", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            self.peak.mul_(2)
        return x / self.peak


@case("script", names="round(", rare=lambda: [(torch.full((1, 3), value),) for value in (0.5, 1.5, 2.5, -0.5)])
class HalfRounded(nn.Module):
    """Python rounds a half to the even side, and so does a script."""

    def forward(self, x: Tensor) -> Tensor:
        return x + round(float(x[0, 0]))


@case("script", names="math.floor(", rare=lambda: [(torch.full((1, 3), float("nan")),)])
class NanFloored(nn.Module):
    """Python cannot make a whole number of NaN, and neither can a script."""

    def forward(self, x: Tensor) -> Tensor:
        return x + math.floor(float(x[0, 0]))


@case("script", names="divmod(", shapes=((-1, 3),), values=(lambda shape: torch.randint(-50, 50, shape),))
class NegativeDivmod(nn.Module):
    """divmod() of negative numbers."""

    def forward(self, x: Tensor) -> Tensor:
        whole, rest = divmod(int(x[0, 0]), 7)
        return x + whole * 100 + rest


@case("refuse", names="str(", values=(torch.rand,))
class TextOfFloat(nn.Module):
    """The digits that Python writes are not those that a script writes."""

    def forward(self, x: Tensor) -> Tensor:
        return x + len(str(float(x[0, 0])))


@case("script", names="x.item()", shapes=((1,),), values=(lambda shape: torch.randint(-9, 9, shape),))
class HalvedItem(nn.Module):
    """`.item()` of whole numbers, in a true division."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float() + x.item() / 2


def _guarded(forward: Callable[[Any, Tensor], Tensor]) -> Any:
    def wrapped(self: Any, x: Tensor) -> Tensor:
        return x if torch.equal(x, torch.zeros_like(x)) else forward(self, x)

    return wrapped


@case("refuse", names="torch.equal(x, torch.zeros_like(x))", values=(torch.rand,))
class GuardedBySilence(nn.Module):
    """A decorator without functools.wraps() asks torch.equal(), which gives no warning."""

    @_guarded
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@case("refuse", names="x.max() > 1e6", rare=_loud)
class Suppressed(nn.Module):
    """contextlib.suppress() is a `try` that does not look like one."""

    def forward(self, x: Tensor) -> Tensor:
        answer = x
        with contextlib.suppress(ValueError):
            answer = self.checked(x)
        return answer

    def checked(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            raise ValueError("loud")
        return x * 2


@case("refuse", names="x.max() < 1e6", rare=lambda: [(torch.tensor([[2e6, 0.0, 1.0]]),)])
class ListOfLambdas(nn.Module):
    """One lambda of a list decides."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [lambda x: x + 1, lambda x: x if x.max() < 1e6 else x * 0]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


@case("refuse", names="x.split(64)", rare=lambda: [(torch.ones(70, 3).cumsum(0),)])
class LargeBatchInParts(nn.Module):
    """Only a batch beyond any probe has more than one part."""

    def __init__(self) -> None:
        super().__init__()
        self.centred = lambda x: x - x.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.centred(part) for part in x.split(64)])
