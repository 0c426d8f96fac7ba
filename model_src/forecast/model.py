"""A recurrent network that reads a series of any length value by value and goes on with it.

Its series are scan lines of the photographs that come with scikit-learn: real measurements, and each line its own.
"""

from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

_SHORTEST, _LONGEST = 16, 48
# Lines side by side look alike: whole bands of them are held out, and the line between two bands is in neither.
_BAND = 20


class Forecast(nn.Module):
    """The next `horizon` values after each of [batch, time] series; time is at least 2."""

    def __init__(self, hidden: int, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.cell = nn.GRUCell(1, hidden)
        self.step = nn.Linear(hidden, 1)

    def forward(self, series: Tensor) -> Tensor:
        """Answers in the series' own unit: the network sees each one relative to its last value and its spread."""
        last, spread = series[:, -1:], series.std(dim=1, keepdim=True) + 1.0
        state = torch.zeros(series.size(0), self.cell.hidden_size, dtype=series.dtype, device=series.device)
        for value in ((series - last) / spread).unbind(dim=1):
            state = self.cell(value.unsqueeze(1), state)
        value = torch.zeros_like(last)
        following: list[Tensor] = []
        for _ in range(self.horizon):
            value = value + self.step(state)
            following.append(value)
            state = self.cell(value, state)
        return torch.cat(following, dim=1) * spread + last


class Lines(Dataset):
    """Pieces of scan lines, 16 to 48 values long, each with the `horizon` values that follow it."""

    def __init__(self, lines: Tensor, horizon: int) -> None:
        self._pieces = lines.unfold(1, _LONGEST + horizon, _LONGEST // 2).reshape(-1, _LONGEST + horizon)
        self._horizon = horizon

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        piece = self._pieces[index]
        length = _SHORTEST + index * 7 % (_LONGEST - _SHORTEST + 1)
        return piece[_LONGEST - length : _LONGEST], piece[_LONGEST:]


def build(params: dict[str, Any]) -> nn.Module:
    return Forecast(params["hidden"], params["horizon"])


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:
    """Every fifth band of lines is held out."""
    grey = torch.cat([torch.tensor(image, dtype=torch.float32).mean(dim=2) for image in load_sample_images().images])
    row = torch.arange(len(grey))
    inner, held_out = row % _BAND != 0, row // _BAND % 5 == 0
    return Lines(grey[inner & ~held_out], params["horizon"]), Lines(grey[inner & held_out], params["horizon"])


def collate(items: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Series of a batch as long as the shortest of them; what is nearest to the future stays."""
    shortest = min(len(series) for series, _ in items)
    return [torch.stack([series[-shortest:] for series, _ in items]), torch.stack([target for _, target in items])]


def optimizer(model: nn.Module, params: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=params["learning_rate"])


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    series, target = batch
    spread = series.std(dim=1, keepdim=True) + 1.0
    return functional.smooth_l1_loss(model(series) / spread, target / spread)


def evaluate(model: nn.Module, held_out: Lines) -> dict[str, float]:
    """How much less the squared error is than that of saying that nothing changes: 1 is perfect, 0 no better."""
    errors = unchanged = 0.0
    by_length: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for item in (held_out[index] for index in range(len(held_out))):
        by_length.setdefault(len(item[0]), []).append(item)
    for items in by_length.values():
        series, target = collate(items)
        errors += (model(series) - target).square().sum().item()
        unchanged += (series[:, -1:] - target).square().sum().item()
    return {"skill": 1 - errors / unchanged}
