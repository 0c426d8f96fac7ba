"""What a person insists on: `export: script` or `trace` in model.yaml, and --accept-frozen-branch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


@case("refuse", choice="trace", names="x.sum() > 0")
class TraceOfBranch(nn.Module):
    """Tracing a live branch is refused, with an input that shows the wrong answer."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


@case("refuse", choice="trace", names="x.max() > 1e6", rare=lambda: [(torch.full((1, 3), 2e6),)])
class TraceOfRareBranch(nn.Module):
    """No sample goes the other way, and that is no proof that none will."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            return torch.zeros_like(x)
        return x * 2


@case("refuse", choice="trace", names="range(x.shape[0])")
class TraceOfBatchLoop(nn.Module):
    """A loop over the batch, which torch does not warn of."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1, 3)
        for row in range(x.shape[0]):
            total = total * 0.5 + x[row]
        return total


@case("refuse", choice="trace", names="range(x.size(1))", shapes=((-1, -1),))
class TraceOfTimeLoop(nn.Module):
    """A loop over a length that is the same in every sample."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.size(0))
        for step in range(x.size(1)):
            total = total * 0.5 + x[:, step]
        return total


@case("refuse", choice="trace", names="assert", values=(torch.rand,))
class TraceOfAssertion(nn.Module):
    """The guard would be gone."""

    def forward(self, x: Tensor) -> Tensor:
        assert bool((x >= 0).all()), "negative counts"
        return x.sqrt()


@case("trace", choice="trace", names="x.sum() > 0", accepted="the sensor never reads below zero", values=(torch.rand,))
class AcceptedBranch(nn.Module):
    """A person takes the frozen branch upon themselves; the finding stays."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


@case("refuse", choice="trace", names="dropout", accepted="the sensor never reads below zero")
class AcceptedDropout(nn.Module):
    """A reason for a frozen branch is none for an answer by chance."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x)


@case("script", names="x.sum() > 0", accepted="the sensor never reads below zero")
class AcceptedNeedlessly(nn.Module):
    """What can be scripted is scripted, whatever is accepted."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


@case("script", choice="script", names="x.sum() > 0")
class ScriptOfBranch(nn.Module):
    """Scripting a branch, as asked."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


@case("refuse", choice="script", names="def shifted")
class ScriptOfClosure(nn.Module):
    """What cannot be scripted is refused with the line, and not traced behind the person's back."""

    def forward(self, x: Tensor) -> Tensor:
        def shifted(by: float) -> Tensor:
            return x + by

        return shifted(1.0)


@case("refuse", choice="script")
class ScriptOfBigConstant(nn.Module):
    """The script compiles and computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.prime = 1 << 40, 2654435761

    def forward(self, x: Tensor) -> Tensor:
        return x + self.seed * self.prime % 1009


@case("trace", choice="trace")
class TraceOfStack(nn.Module):
    """Tracing a stack, as asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@case("trace", choice="trace")
class TraceOfSetting(nn.Module):
    """Tracing a branch on a setting, as asked."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = True

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + x if self.residual else x.relu()
