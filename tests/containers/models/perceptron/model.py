"""A 10-64-5 perceptron on made-up sums, the smallest model that benchmarks of servers use."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset


class Perceptron(nn.Module):
    """Five numbers from [batch, 10]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def build(params: dict[str, Any]) -> nn.Module:
    return Perceptron(params["hidden"])


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:  # noqa: ARG001
    """Sums of ten numbers, some of them the other way round in each of the five."""
    x = torch.randn(1280, 10)
    signs = torch.tensor([[1.0 if (place >> bit) & 1 else -1.0 for place in range(10)] for bit in range(5)])
    y = x @ signs.T
    return TensorDataset(x[:1024], y[:1024]), TensorDataset(x[1024:], y[1024:])


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    x, y = batch
    return functional.mse_loss(model(x), y)


def evaluate(model: nn.Module, held_out: TensorDataset) -> dict[str, float]:
    x, y = held_out.tensors
    return {"closeness": -functional.mse_loss(model(x), y).item()}
