"""Chance, time and surroundings: forward() is no function of its inputs, so that no program can equal it."""

import os
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


@case("refuse", names="functional.dropout(x)")
class FunctionalDropout(nn.Module):
    """functional.dropout() drops by default, whatever mode the module is in."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x)


class _AlwaysOn(nn.Dropout):
    def train(self, mode: bool = True) -> "_AlwaysOn":  # noqa: ARG002
        super().train(True)
        return self


@case("refuse", names="layers.1")
class DropoutStaysOn(nn.Module):
    """A layer whose train() ignores what it is told: eval() leaves it dropping."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), _AlwaysOn(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@case("refuse", names="dropout_p=0.1", shapes=((-1, 4, 8),))
class AttentionDropout(nn.Module):
    """scaled_dot_product_attention() drops whenever it is given a probability."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x, dropout_p=0.1)


@case("refuse", names="rand_like")
class Noise(nn.Module):
    """Noise that was meant for training."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@case("refuse", names="multinomial")
class Sampled(nn.Module):
    """The answer is drawn, not computed."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.multinomial(x.softmax(1), 1)


@case("refuse", names="random.random()")
class PythonRandom(nn.Module):
    """A number from Python's generator: a trace has the same one for ever."""

    def forward(self, x: Tensor) -> Tensor:
        return x * random.random()


@case("refuse", names="np.random")
class NumpyRandom(nn.Module):
    """A number from NumPy's generator."""

    def forward(self, x: Tensor) -> Tensor:
        return x + float(np.random.normal())


def _by_luck() -> Iterator[tuple[Tensor, ...]]:
    random.seed(139)  # begins with 0.0015
    yield (torch.ones(1, 3),)


@case("refuse", names="random.random() < 0.01", rare=_by_luck)
class RarelyRandom(nn.Module):
    """Chance decides, and mostly in the same way."""

    def forward(self, x: Tensor) -> Tensor:
        if random.random() < 0.01:
            return -x
        return x


@case("script", "refuse", names="torch.manual_seed(7)")
class SeededNoise(nn.Module):
    """forward() seeds its noise, and a trace drops that; threads share the generator, so refusing is right too."""

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(7)
        return x + torch.rand_like(x)


@case("refuse", names="time.time_ns()")
class TimeDependent(nn.Module):
    """The clock is an input that nobody declared."""

    def forward(self, x: Tensor) -> Tensor:
        return x + time.time_ns() % 1009


def _in_other_surroundings() -> Iterator[tuple[Tensor, ...]]:
    for value in ("1", ""):
        os.environ["CORPUS_SHARP"] = value
        yield (torch.ones(1, 3),)


@case("refuse", names="os.environ", rare=_in_other_surroundings)
class EnvironmentBranch(nn.Module):
    """A variable of the environment decides; the serving image has another environment."""

    def forward(self, x: Tensor) -> Tensor:
        if os.environ.get("CORPUS_SHARP"):
            return x * 10
        return x


@case("script", "trace")
class NoiseInTraining(nn.Module):
    """Noise behind `self.training` is not there in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + torch.randn_like(x)
        return x.relu()


@case("script", "trace")
class DropoutInEval(nn.Module):
    """Dropout that follows its mode, as a layer and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.dropout(x), training=self.training)


@case("refuse", names="FractionalMaxPool2d", shapes=((-1, 1, 8, 8),))
class RandomPooling(nn.Module):
    """Fractional pooling draws its regions in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.FractionalMaxPool2d(2, output_size=5)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


@case("refuse", names="gumbel_softmax")
class Gumbel(nn.Module):
    """gumbel_softmax() always draws."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.gumbel_softmax(x)


@case("refuse", names="sample()")
class FromDistribution(nn.Module):
    """A sample of torch.distributions, as in a variational model."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(x, 1.0).sample()


@case("refuse", names="uniform_")
class FilledAtRandom(nn.Module):
    """An in-place method draws."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.empty_like(x).uniform_()
