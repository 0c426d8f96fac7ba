"""A perceptron on scikit-learn's irises that trains in seconds: two outputs, and dropout, which tests resuming."""

from typing import Any

import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset


class Iris(nn.Module):
    """Three logits and the likeliest species from [batch, 4] lengths in cm."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(4), nn.Linear(4, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 3)
        )

    def forward(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.layers(lengths)
        return logits, logits.argmax(dim=1)


def build(params: dict[str, Any]) -> nn.Module:
    return Iris(params["hidden"])


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:  # noqa: ARG001
    irises = load_iris()
    lengths, species = torch.tensor(irises.data, dtype=torch.float32), torch.tensor(irises.target)
    held_out = torch.arange(len(species)) % 5 == 0
    return TensorDataset(lengths[~held_out], species[~held_out]), TensorDataset(lengths[held_out], species[held_out])


def optimizer(model: nn.Module, params: dict[str, Any]) -> torch.optim.Optimizer:  # noqa: ARG001
    return torch.optim.Adam(model.parameters(), lr=0.02)


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    lengths, species = batch
    return functional.cross_entropy(model(lengths)[0], species)


def evaluate(model: nn.Module, held_out: TensorDataset) -> dict[str, float]:
    lengths, species = held_out.tensors
    return {"accuracy": (model(lengths)[1] == species).float().mean().item()}
