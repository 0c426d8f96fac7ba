"""Control flow that depends on values: a trace keeps the way that its example took, and answers wrongly elsewhere."""

import torch
from torch import Tensor, nn

from tests.corpus.case import case


@case("script", names="x.sum() > 0")
class BranchOnSum(nn.Module):
    """The classic: an `if` on a value of the input."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


@case("script", names="x.max().item() > 1.0")
class BranchOnItem(nn.Module):
    """`.item()` makes a Python number of a value, and the number decides."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max().item() > 1.0:
            x = x / x.max()
        return x


@case("script", names="x.mean() > 0")
class Ternary(nn.Module):
    """A conditional expression is a branch that does not look like a statement."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp() if bool(x.mean() > 0) else x


@case("script", names="x.abs().max() < 1e-3", values=(torch.ones,))
class EarlyReturn(nn.Module):
    """Silence is answered early, and no sample is silent."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() < 1e-3:
            return torch.full_like(x, -1.0)
        return x / x.norm()


@case("script", names="(x > 1e6).any()", rare=lambda: [(torch.tensor([[0.0, 2e6, 1.0]]),)])
class RareBranch(nn.Module):
    """An overflow guard that only a value of millions reaches: no sample, and hardly any random probe."""

    def forward(self, x: Tensor) -> Tensor:
        if (x > 1e6).any():
            return x.clamp(max=1.0)
        return x


@case(
    "script",
    names="x[0, 0] == 42.0",
    rare=lambda: [(torch.tensor([[42.0, 1.0, 2.0]]),), (torch.tensor([[41.0, 1.0, 2.0]]),)],
)
class MagicValue(nn.Module):
    """One exact value is a marker with a meaning of its own; no random input hits it."""

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0] == 42.0:
            return torch.zeros_like(x)
        return x


@case("script", names="torch.isnan(x).any()", rare=lambda: [(torch.tensor([[0.0, float("nan"), 1.0]]),)])
class BranchOnNan(nn.Module):
    """Missing values come as NaN, and only then they are filled."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.isnan(x).any():
            x = torch.nan_to_num(x, nan=5.0)
        return x * 3


@case("script", names="(x >= 0).all()", values=(torch.rand,))
class AssertOnValues(nn.Module):
    """An assertion that guards the answer is dropped by a trace, which then answers where the model refuses."""

    def forward(self, x: Tensor) -> Tensor:
        assert bool((x >= 0).all()), "negative counts"
        return x.sqrt()


@case("script", names="x.min() < 0", values=(torch.rand,))
class RaiseOnValues(nn.Module):
    """A `raise` under a condition is dropped by a trace like an assertion."""

    def forward(self, x: Tensor) -> Tensor:
        if x.min() < 0:
            raise ValueError("negative counts")
        return x.sqrt()


@case("script", names="while bool(x.norm() > 1)")
class WhileLoop(nn.Module):
    """How often the loop runs depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        while bool(x.norm() > 1):
            x = x / 2
        return x


@case("script", names="x.abs().max() < 0.5")
class EarlyBreak(nn.Module):
    """A loop of fixed length that ends early when it has converged."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(8):
            if x.abs().max() < 0.5:
                break
            x = x * 0.5
        return x


class _Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x
        return torch.zeros_like(x)


@case("script", names="x.mean() > 0")
class NestedBranch(nn.Module):
    """The branch is two modules down, in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Sequential(_Gate(), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _signed_root(x: Tensor) -> Tensor:
    if x.min() < 0:
        return -x.abs().sqrt()
    return x.sqrt()


@case("script", names="x.min() < 0")
class BranchInFunction(nn.Module):
    """forward() itself is straight; the function that it calls branches."""

    def forward(self, x: Tensor) -> Tensor:
        return _signed_root(x + 1)


def _some_masked() -> list[tuple[Tensor, ...]]:
    return [(torch.ones(2, 3), torch.tensor([[True, False, False], [False, False, True]]))]


@case(
    "script",
    names="mask.any()",
    shapes=((-1, 3), (-1, 3)),
    values=(torch.randn, lambda shape: torch.zeros(shape, dtype=torch.bool)),
    rare=_some_masked,
)
class BranchOnMask(nn.Module):
    """The mask of every sample is empty, so the masked way is never taken."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if mask.any():
            x = x.masked_fill(mask, -1.0)
        return x


@case("script", names="x.numel() > 0 and")
class ShortCircuit(nn.Module):
    """`and` between Python booleans is a branch of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return -x if x.numel() > 0 and bool(x.max() > 0.5) else x


@case("script", names="x.sum() > 0", shapes=((-1, 3),))
class BranchOnBothSides(nn.Module):
    """Both sides of the branch assign the same variable, and there is but one return."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # noqa: SIM108 (the trap)
            rounded = x.long()
        else:
            rounded = x.long() - 1
        return rounded.float()
