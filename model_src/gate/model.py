"""Two networks behind a gate that reads scikit-learn's breast-cancer cases: most take the quick one, some the other."""

from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset


class Gate(nn.Module):
    """Two logits from [batch, 30] measurements of cell nuclei, and whether the careful network gave them.

    In training both networks answer and the gate weighs them, which has a gradient. In evaluation each case goes to
    one of them alone: the branch is the point, since the other network is not run.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(30)
        self.gate = nn.Linear(30, 1)
        self.quick = nn.Linear(30, 2)
        self.careful = nn.Sequential(
            nn.Linear(30, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)
        )

    def forward(self, measures: Tensor) -> tuple[Tensor, Tensor]:
        scaled = self.scale(measures)
        if self.training:
            share = torch.sigmoid(self.gate(scaled))
            return share * self.careful(scaled) + (1 - share) * self.quick(scaled), share.squeeze(1) > 0.5
        logits = [scaled.new_zeros(0, 2)]
        careful = torch.zeros(scaled.size(0), dtype=torch.bool)
        for index, case in enumerate(scaled.split(1)):
            if self.gate(case).sum() > 0:
                logits.append(self.careful(case))
                careful[index] = True
            else:
                logits.append(self.quick(case))
        return torch.cat(logits), careful


def build(params: dict[str, Any]) -> nn.Module:
    return Gate(params["hidden"])


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:  # noqa: ARG001
    """Four fifths to train on and one fifth held out, with as many benign cases in a hundred in both."""
    cases = load_breast_cancer()
    measures, benign = torch.tensor(cases.data, dtype=torch.float32), torch.tensor(cases.target)
    training, held_out = train_test_split(range(len(benign)), test_size=0.2, stratify=benign, random_state=0)
    return TensorDataset(measures[training], benign[training]), TensorDataset(measures[held_out], benign[held_out])


def optimizer(model: nn.Module, params: dict[str, Any]) -> torch.optim.Optimizer:  # noqa: ARG001
    return torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    measures, benign = batch
    return functional.cross_entropy(model(measures)[0], benign)


def evaluate(model: nn.Module, held_out: TensorDataset) -> dict[str, float]:
    measures, benign = held_out.tensors
    logits, careful = model(measures)
    right = logits.argmax(dim=1) == benign
    return {"accuracy": right.float().mean().item(), "quick_share": (~careful).float().mean().item()}
