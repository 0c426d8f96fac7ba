"""Numbers: Python's are not TorchScript's, datatypes settle some branches, and devices are written into traces."""

import torch
from torch import Tensor, nn

from tests.corpus.case import case

WORDS = ((-1, 3),)


def _words(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 1000, shape)


@case("trace")
class BigConstant(nn.Module):
    """A hash of settings needs more than 64 bits on its way; TorchScript's numbers wrap around."""

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.prime = 1 << 40, 2654435761

    def forward(self, x: Tensor) -> Tensor:
        return x + self.seed * self.prime % 1009


@case(
    "refuse",
    names="* 2654435761",
    shapes=WORDS,
    values=(_words,),
    rare=lambda: [(torch.tensor([[2**40, 5, 9]]),)],
)
class BigProduct(nn.Module):
    """The same with a value: small words agree in a script, large ones do not."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 + int(x[0, 0]) * 2654435761 % 1009


@case("script", names="int(x.sum())", shapes=WORDS, values=(_words,))
class NegativeDivision(nn.Module):
    """`//` and `%` of negative numbers follow Python in a script."""

    def forward(self, x: Tensor) -> Tensor:
        total = -int(x.sum())
        return x + total // 7 + total % 7


@case("script", "trace", shapes=WORDS, values=(lambda shape: torch.randint(-9, 9, shape),))
class TensorDivision(nn.Module):
    """`//` and `%` of tensors, negative ones too."""

    def forward(self, x: Tensor) -> Tensor:
        return x // 4 + x % 4


@case("script", "trace")
class BranchOnDatatype(nn.Module):
    """A branch on the datatype is none: the declaration settles it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return x * 2
        return x.float()


@case("script", "trace")
class HalfInside(nn.Module):
    """Half precision on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.half() * 2).float()


@case("script", "trace")
class AutocastInside(nn.Module):
    """autocast with a setting in forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x).float()


@case("script", "trace", names='device="cpu"')
class DeviceLiteral(nn.Module):
    """A device is written out: right here, and wrong on another device, which has to be said."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(3, device="cpu")


@case("script", "trace")
class DeviceOfInput(nn.Module):
    """The device is the input's; a trace writes the one of its example down."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(3, device=x.device)


@case("trace", names="torch.cuda.is_available()")
class DeviceAsFound(nn.Module):
    """The device is chosen in forward()."""

    def forward(self, x: Tensor) -> Tensor:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return x + torch.ones(3).to(device)


@case("script", "trace")
class GradEnabled(nn.Module):
    """A way for training, by asking torch whether gradients are on: only a trace without them is right."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return x * 0
        return x * 2


@case("script", "trace", values=(lambda shape: torch.randn(shape) * 3,))
class ScaledByFloat(nn.Module):
    """Python floats as settings, in divisions and powers."""

    def __init__(self) -> None:
        super().__init__()
        self.power, self.scale = 3, 0.1

    def forward(self, x: Tensor) -> Tensor:
        return x**self.power * self.scale + self.power / 2
