"""Makes others/: archives as other versions of torch write them, each file named after the one that wrote it.

Run it once for each version, where that one is installed; it needs nothing of this project:

    python3.8 -m pip install torch==1.5.1 && python3.8 tests/golden/make_others.py
    python3.10 -m pip install torch==1.12.1 && python3.10 tests/golden/make_others.py
    python3.11 -m pip install torch==2.13.0 && python3.11 tests/golden/make_others.py
"""

# torch is not on the host, so to mypy its Module is of any type.
# mypy: disallow-subclassing-any=False
from pathlib import Path

import torch
from torch import Tensor, nn

OTHERS = Path(__file__).parent / "others"
VERSION = torch.__version__.partition("+")[0]


class Small(nn.Module):
    """What every torch loads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.25)
        self.last = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.conv(image)))).flatten(1))


class Changed(nn.Module):
    """The operators whose meaning changed after torch 1.5; the quotient of ints was rounded then."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        line = torch.linspace(0.0, 1.0, 4) + torch.logspace(0.0, 1.0, 4) + torch.full([4], 2.0)
        return torch.nn.functional.gelu(line) + torch.div(x, y)


class Whole(nn.Module):
    """Divides numbers and no tensors: no operator in it ever changed."""

    def forward(self, x: Tensor, n: int) -> Tensor:
        return x * (float(n) / 2.0)


class Newer(nn.Module):
    """An operator that torch has since 2.9."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.hash_tensor(x)


class Argument(nn.Module):
    """An argument that torch's operator takes since 2.9."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rand_like(x, generator=None)


def main() -> None:
    """Writes the archives that this torch can write."""
    torch.manual_seed(0)
    OTHERS.mkdir(exist_ok=True)
    small = Small().eval()
    _save(torch.jit.script(small), "scripted")
    _save(torch.jit.trace(small, torch.rand(2, 1, 4, 4)), "traced")
    _save(torch.jit.script(Changed().eval()), "changed")
    _save(torch.jit.script(Whole().eval()), "whole")
    if hasattr(torch, "hash_tensor"):
        _save(torch.jit.script(Newer().eval()), "newer")
        _save(torch.jit.script(Argument().eval()), "argument")


def _save(module: "torch.jit.ScriptModule", name: str) -> None:
    torch.jit.save(module, str(OTHERS / f"torch-{VERSION}-{name}.pt"))


if __name__ == "__main__":
    main()
