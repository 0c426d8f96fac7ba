"""torchvision's resnet18 reading scikit-learn's handwritten digits, enlarged from 8 x 8 to pictures."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset
from torchvision.models import resnet18


class Digits(nn.Module):
    """Ten logits from pictures [batch, 3, size, size] of pixel values 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = resnet18(num_classes=10)

    def forward(self, image: Tensor) -> Tensor:
        return self.resnet(image / 127.5 - 1.0)


def build(params: dict[str, Any]) -> nn.Module:  # noqa: ARG001
    return Digits()


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:
    """Four fifths to train on and one fifth held out, every digit equally often in both."""
    digits = load_digits()
    grey = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) * (255 / 16)
    size = (params["size"], params["size"])
    images = functional.interpolate(grey, size, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    labels = torch.tensor(digits.target)
    training, held_out = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return TensorDataset(images[training], labels[training]), TensorDataset(images[held_out], labels[held_out])


def optimizer(model: nn.Module, params: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=params["learning_rate"])


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return functional.cross_entropy(model(images), labels)


def evaluate(model: nn.Module, held_out: TensorDataset) -> dict[str, float]:
    images, labels = held_out.tensors
    right = model(images).argmax(dim=1) == labels
    return {"accuracy": right.float().mean().item()}
