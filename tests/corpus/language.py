"""Python that scripting does not know: right to trace where it only arranges modules, a trap where it decides."""

import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.corpus.case import case


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


@case("refuse", names="self.rescaled(x)", rare=lambda: [(torch.full((1, 3), 2e6),)])
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


@case("refuse", names=".numpy()")
class ThroughNumpy(nn.Module):
    """The values leave torch and come back: a trace has the example's values there, as a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.detach().cpu().numpy())) * 2


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


@case("script", "trace")
class NoGradDecorator(nn.Module):
    """forward() is wrapped by @torch.no_grad()."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


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


@case("refuse", names="dict")
class DictOutput(nn.Module):
    """The answer is a dict, which has no order on the wire."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x * 2, "best": x.argmax(1)}


@case("script", "trace")
class DictInside(nn.Module):
    """A dict between layers does no harm."""

    def forward(self, x: Tensor) -> Tensor:
        parts = {"even": x[:, ::2], "odd": x[:, 1::2]}
        return parts["even"].sum(1) - parts["odd"].sum(1)


@case("script", "refuse", names="x.sum() > 0", values=(torch.ones,))
class OptionalOutput(nn.Module):
    """The answer is None for some inputs; the samples are not among them."""

    def forward(self, x: Tensor) -> Optional[Tensor]:  # noqa: UP045 (as people write it)
        if x.sum() > 0:
            return x * 2
        return None


class _Boxes(NamedTuple):
    corners: Tensor
    scores: Tensor


@case("script", "trace")
class NamedOutput(nn.Module):
    """The answer is a named tuple."""

    def forward(self, x: Tensor) -> _Boxes:
        return _Boxes(corners=x * 2, scores=x.sum(1))


@case("script", "trace")
class OptionalArgument(nn.Module):
    """An optional argument that is not declared is None in every call."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        return x + 1


@case("script", "trace")
class IsInstance(nn.Module):
    """A question about a type that the declaration has answered."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            x = x * 2
        return x


@case("script", names="isinstance")
class ListOfInputs(nn.Module):
    """A Python list of tensors as long as the batch, and a question about it."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[at] * at for at in range(x.size(0))]
        return torch.stack(parts) if isinstance(parts, list) else x


@case("refuse", names="checkpoint")
class Checkpointed(nn.Module):
    """torch.utils.checkpoint saves memory in training, and its autograd.Function cannot be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layer, x, use_reentrant=False)
