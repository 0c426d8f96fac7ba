"""Hooks change what a module answers without a line in its forward()."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.corpus.case import case


@case("trace")
class HookChangesOutput(nn.Module):
    """A forward hook, a lambda, doubles what a layer answers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.layer.register_forward_hook(lambda module, inputs, output: output * 2)  # noqa: ARG005

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@case("trace")
class HookChangesInput(nn.Module):
    """A forward pre-hook, a lambda, shifts what a layer is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))  # noqa: ARG005

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _clipped(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:  # noqa: ARG001
    return output.clamp(-1.0, 1.0)


@case("script", "trace")
class TypedHook(nn.Module):
    """A hook with types can be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ReLU()
        self.layer.register_forward_hook(_clipped)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _normalised(module: Any, inputs: Any, output: Tensor) -> Any:  # noqa: ARG001
    return output / output.norm() if output.norm() > 1 else output


@case("refuse", names="output.norm() > 1")
class HookThatDecides(nn.Module):
    """A hook decides, and has no types that scripting could use."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.layer.register_forward_hook(_normalised)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@case("trace")
class HookOnTop(nn.Module):
    """The hook is on the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda module, inputs, output: output + 1)  # noqa: ARG005

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@case("trace")
class NormedWeight(nn.Module):
    """A parametrised weight is a Python property, which scripting refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = weight_norm(nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@case("trace")
class SpectralWeight(nn.Module):
    """Spectral norm moves its vectors in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = spectral_norm(nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@case("trace")
class PatchedForward(nn.Module):
    """forward() of a layer is replaced on the instance, as libraries for adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        original = self.layer.forward
        self.layer.forward = lambda x: original(x) + x

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)
