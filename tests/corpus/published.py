"""Published models in small: what detectors, transformers, decoders and vision backbones do in forward()."""

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.corpus.case import case

PICTURE = ((-1, 2, -1, -1),)


@case("script", names="math.ceil(", shapes=PICTURE, lengths=(8, 7, 5, 12))
class SamePadding(nn.Module):
    """TensorFlow's padding is computed from the picture's size with math.ceil()."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        high = max((math.ceil(x.shape[2] / 2) - 1) * 2 + 3 - x.shape[2], 0)
        wide = max((math.ceil(x.shape[3] / 2) - 1) * 2 + 3 - x.shape[3], 0)
        return self.convolution(functional.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2]))


@case("script", names="int(windows.shape[0] /", shapes=PICTURE, lengths=(8, 4, 12))
class Windows(nn.Module):
    """A windowed transformer finds the batch again by a division of sizes."""

    def forward(self, x: Tensor) -> Tensor:
        _, channels, high, wide = x.shape
        windows = functional.unfold(x, 4, stride=4).transpose(1, 2).reshape(-1, channels, 4, 4)
        windows = windows - windows.mean((2, 3), keepdim=True)
        batch = int(windows.shape[0] / (high * wide / 4 / 4))
        return windows.reshape(batch, -1, channels * 16).mean(1)


@case("script", "trace", shapes=PICTURE, lengths=(8, 4, 12))
class WindowsByDivision(nn.Module):
    """The same with `//`, which stays a size."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, high, wide = x.shape
        x = x.view(batch, channels, high // 4, 4, wide // 4, 4)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 16).mean(1)


@case("script", names="mask.any()", shapes=((-1, 4),))
class MixtureOfExperts(nn.Module):
    """Each expert sees the rows that were sent to it, if there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(1)
        answer = torch.zeros(x.size(0), 2)
        for number, expert in enumerate(self.experts):
            mask = chosen == number
            if mask.any():
                answer[mask] = expert(x[mask])
        return answer


@case("script", names="(token == 0).all()", shapes=((-1, 5),))
class GreedyDecoder(nn.Module):
    """A decoder goes on until every row has ended, and answers as many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, tokens = x, [torch.zeros(x.size(0), dtype=torch.long)]
        for _ in range(6):
            state = self.cell(x, state)
            token = (self.head(state) * 10).argmax(1)
            tokens.append(token)
            if bool((token == 0).all()):
                break
        return torch.stack(tokens, dim=1)


@case("script", names="self.grid.size(0) != x.size(2)", shapes=PICTURE, lengths=(8, 4, 12))
class DetectorGrid(nn.Module):
    """A detector makes its grid anew when the picture's size changes."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor
        self.register_buffer("grid", torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.grid.size(0) != x.size(2):
            self.grid = torch.arange(float(x.size(2)))
        return x + self.grid.unsqueeze(1)


@case("script", "trace", shapes=((-1, -1, 8),))
class RotaryPositions(nn.Module):
    """Rotary positions computed from the length."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", 1.0 / 10.0 ** (torch.arange(4) / 4))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1], device=x.device).float(), self.frequencies)
        first, second = x.chunk(2, dim=-1)
        turned = (first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos())
        return torch.cat(turned, dim=-1)


@case("script", "trace", shapes=((-1, -1, 8),))
class CausalAttention(nn.Module):
    """A causal mask cut out of a larger buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(16, 16).tril().bool())
        self.project = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        length = x.size(1)
        query, key, value = self.project(x).split(8, dim=2)
        scores = query @ key.transpose(1, 2) / math.sqrt(key.size(-1))
        return scores.masked_fill(~self.mask[:length, :length], float("-inf")).softmax(-1) @ value


@case("script", "trace", shapes=((-1, 4),))
class Reparametrised(nn.Module):
    """A variational model draws in training and takes the mean in use."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.encoder(x).chunk(2, dim=1)
        if self.training:
            return mean + torch.randn_like(mean) * deviation.exp()
        return mean


@case("trace", shapes=((-1, 4, 3),))
class TeacherForcing(nn.Module):
    """A share of zero keeps chance out, though Python's generator is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.share = nn.GRUCell(3, 3), 0.0

    def forward(self, x: Tensor) -> Tensor:
        state = x[:, 0]
        for step in range(1, 4):
            state = self.cell(x[:, step] if random.random() < self.share else state, state)
        return state


@case(
    "script",
    "trace",
    shapes=((-1, 6, 3), (-1,)),
    values=(torch.randn, lambda shape: torch.randint(1, 6, shape)),
)
class PackedSeries(nn.Module):
    """Series of different lengths go packed through a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        answer, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return answer.sum(1)


@case("script", names="while remaining.numel() > 0", shapes=((-1, 4),), values=(torch.rand,))
class Suppression(nn.Module):
    """Non-maximum suppression in Python: a loop until no box remains."""

    def forward(self, boxes: Tensor) -> Tensor:
        remaining = boxes[:, 0].argsort(descending=True)
        kept = torch.zeros(boxes.size(0), dtype=torch.bool)
        while remaining.numel() > 0:
            best = remaining[0]
            kept[best] = True
            remaining = remaining[(boxes[remaining] - boxes[best]).abs().amax(1) > 0.5]
        return kept


@case(
    "script", "trace", shapes=((-1, 3, 4, 4),), values=(lambda shape: torch.randint(0, 256, shape, dtype=torch.uint8),)
)
class Normalised(nn.Module):
    """Pictures come as bytes and are normalised inside."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            x = x.float() / 255
        return x - self.mean


@case("script", "trace", shapes=((-1, 3, 4, 4),))
class DropPath(nn.Module):
    """Stochastic depth as a function with `training` handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.probability = nn.Conv2d(3, 3, 1), 0.2

    def forward(self, x: Tensor) -> Tensor:
        return x + _drop_path(self.block(x), self.probability, self.training)


def _drop_path(x: Tensor, probability: float, training: bool) -> Tensor:
    if probability == 0.0 or not training:
        return x
    kept = torch.rand(x.size(0), 1, 1, 1) > probability
    return x * kept / (1 - probability)
