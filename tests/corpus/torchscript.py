"""Torch's own means to steer scripting and tracing, and what they do behind one's back."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.corpus.case import case


@case("trace")
class Ignored(nn.Module):
    """@torch.jit.ignore: scripting goes through, and the program cannot be saved."""

    @torch.jit.ignore
    def doubled(self, x: Tensor) -> Tensor:
        return x * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.doubled(x) + 1


@case("refuse", names="x.sum() > 0")
class IgnoredBranch(nn.Module):
    """@torch.jit.ignore around what had to be scripted."""

    @torch.jit.ignore
    def signed(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    def forward(self, x: Tensor) -> Tensor:
        return self.signed(x) + 1


@case("refuse", names="rescaled", rare=lambda: [(torch.full((1, 3), 2e6),)])
class Unused(nn.Module):
    """@torch.jit.unused promises a method to be never called; the script raises when a rare value calls it."""

    @torch.jit.unused
    def rescaled(self, x: Tensor) -> Tensor:
        return x / x.abs().max()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return self.rescaled(x)
        return x


@case("trace")
class IsScripting(nn.Module):
    """A way of its own for scripting, which computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return x
        return x * 2


@case("script")
class IsTracing(nn.Module):
    """A way of its own for tracing, which computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return x
        return x * 2


@torch.jit.script
def _scripted_gate(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


@case("trace")
class ScriptedFunction(nn.Module):
    """The mix: a lambda cannot be scripted, and the function that branches is scripted already."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.tanh() * 2

    def forward(self, x: Tensor) -> Tensor:
        return _scripted_gate(self.activation(x))


class _Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x
        return torch.zeros_like(x)


@case("trace")
class ScriptedSubmodule(nn.Module):
    """The mix with a submodule that is scripted already."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.tanh() * 2
        self.gate = torch.jit.script(_Gate())

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.activation(x))


@case("refuse", names="torch.jit.script(")
class MixWanted(nn.Module):
    """Scripting the submodule that branches would make the trace right: the refusal has to propose it."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.tanh() * 2
        self.gate = _Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.activation(x))


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


@case("refuse", names="_Straight")
class CustomFunction(nn.Module):
    """A custom autograd.Function is traced, and then cannot be saved."""

    def forward(self, x: Tensor) -> Tensor:
        return _Straight.apply(x) * 0.5


@case("script", "trace")
class NoGradDecorator(nn.Module):
    """forward() is wrapped by @torch.no_grad()."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


@case("refuse", names="checkpoint")
class Checkpointed(nn.Module):
    """torch.utils.checkpoint saves memory in training, and its autograd.Function cannot be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layer, x, use_reentrant=False)
