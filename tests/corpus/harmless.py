"""What only looks like a trap: refusing one of these is a needless refusal."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.case import case


@case("script", "trace", shapes=((-1, 3, 8, 8),))
class Stack(nn.Module):
    """Layers one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


@case("script", "trace")
class LoopOverLayers(nn.Module):
    """A loop over a ModuleList is as long as the model is deep."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return x / len(self.layers)


@case("script", "trace")
class TrainingFlag(nn.Module):
    """A second head for training."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.auxiliary = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(x)
        if self.training:
            logits = logits + self.auxiliary(x)
        return logits


@case("script", "trace")
class Setting(nn.Module):
    """A branch on a setting that never changes."""

    def __init__(self, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.layer(x)
        if self.residual:
            answer = answer + x
        return answer


@case("script", "trace")
class WhereOnly(nn.Module):
    """torch.where() computes both sides: it only looks like a branch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x.exp() - 1) + torch.where(x.sum() > 0, 1.0, -1.0)


@case("script", "trace")
class Selected(nn.Module):
    """The number of answers depends on values, and the tensor carries it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_select(x > 0)


@case("script", "trace")
class IndexedByMask(nn.Module):
    """Assignment under a mask."""

    def forward(self, x: Tensor) -> Tensor:
        answer = x.clone()
        answer[x < 0] = 0.0
        return answer


@case("script", "trace", shapes=((-1, -1, 3),))
class Einsum(nn.Module):
    """A string in forward() that means an operator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bij,bkj->bik", x, x)


@case("script", "trace", shapes=((-1, -1, 3),))
class Recurrent(nn.Module):
    """nn.LSTM takes any length."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer, _ = self.recurrent(x)
        return answer[:, -1]


@case("script", "trace", shapes=((-1, -1, 8),))
class SelfAttention(nn.Module):
    """nn.MultiheadAttention over any length."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer, _ = self.attention(x, x, x, need_weights=False)
        return answer


@case("script", "trace", shapes=((-1, -1, 8),))
class Transformer(nn.Module):
    """A transformer's layer has a fast way for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@case(
    "script",
    "trace",
    shapes=((-1, -1), (-1,)),
    values=(lambda shape: torch.randint(0, 20, shape), lambda shape: torch.randint(1, 3, shape)),
)
class MaskedMean(nn.Module):
    """Words up to each item's own length, by a mask instead of a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(words.size(1)).unsqueeze(0) < lengths.unsqueeze(1)
        return (self.words(words) * mask.unsqueeze(2)).sum(1) / lengths.unsqueeze(1)


@case("script", "trace")
class FixedLoop(nn.Module):
    """A loop over a range that nothing changes."""

    def forward(self, x: Tensor) -> Tensor:
        for power in range(1, 4):
            x = x + x**power / power
        return x


@case("script", "trace")
class Detached(nn.Module):
    """detach() and no_grad() change nothing of the answer."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.detach().abs().amax(1, keepdim=True)
        return x / (scale + 1)


@case("script", "trace", shapes=((-1, -1), (-1, -1)), lengths=(4, 2, 7))
class TwoInputsOneLength(nn.Module):
    """Two inputs have to agree in their free sizes: a probe that does not is no counter-example."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(1)


@case("script", "trace", shapes=((-1, 1, -1),), lengths=(8, 6, 12))
class LeastLength(nn.Module):
    """Convolution and pooling need a least length: a shorter probe fails in the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool1d(self.convolution(x), 2).mean(2)


@case("script", "trace")
class Sorted(nn.Module):
    """Ranking inside a tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, order = x.topk(2, dim=1)
        return values.sort(1).values, order.argsort(1)


@case("script", "trace", shapes=((-1, 4),), values=(lambda shape: torch.randint(0, 10, shape),))
class EmbeddedWords(nn.Module):
    """Whole numbers with a limit that no declaration names: a probe beyond it fails in the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.words(words).mean(1)


@case("script", "trace")
class SmallSum(nn.Module):
    """A sensitive but smooth function: rounding is no counter-example."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) / (1 + x.pow(2).sum(1, keepdim=True))
