"""torchvision's resnet18 on noise, hardly trained, for benchmarks of servers with pictures of 224 x 224 pixels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset
from torchvision.models import resnet18


class Pictures(nn.Module):
    """A thousand logits from pictures [batch, 3, 224, 224]."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = resnet18()

    def forward(self, image: Tensor) -> Tensor:
        return self.resnet(image)


def build(params: dict[str, Any]) -> nn.Module:  # noqa: ARG001
    return Pictures()


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:  # noqa: ARG001
    """Two pictures to train on and sixteen to ask about."""
    images, labels = torch.randn(18, 3, 224, 224), torch.arange(18)
    return TensorDataset(images[:2], labels[:2]), TensorDataset(images[2:], labels[2:])


def optimizer(model: nn.Module, params: dict[str, Any]) -> torch.optim.Optimizer:  # noqa: ARG001
    return torch.optim.SGD(model.parameters(), lr=1e-5)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return functional.cross_entropy(model(images), labels)


def evaluate(model: nn.Module, held_out: TensorDataset) -> dict[str, float]:
    images, _ = held_out.tensors
    return {"finite": model(images).isfinite().float().mean().item()}
