"""A line through points, scaled by an operator of its own: the smallest model that needs ops/."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset


class Scaled(nn.Module):
    """Twice a linear function of x [batch, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.acme.scale(self.linear(x), 2.0)


def build(params: dict[str, Any]) -> nn.Module:  # noqa: ARG001
    return Scaled()


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:  # noqa: ARG001
    x = torch.linspace(-1, 1, 40).reshape(20, 2)
    return TensorDataset(x, x[:, :1]), TensorDataset(x, x[:, :1])


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    x, y = batch
    return functional.mse_loss(model(x), y)


def evaluate(model: nn.Module, held_out: TensorDataset) -> dict[str, float]:
    x, y = held_out.tensors
    return {"fit": 1 / (1 + functional.mse_loss(model(x), y).item())}
