"""What is kept between calls: a server has workers and retries, so that no answer may depend on an earlier one."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tests.corpus.case import case


@case("refuse", names="self.mean")
class RunningMean(nn.Module):
    """A buffer that every call moves, and that the answer depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.mean(0) * 0.1)
        return x - self.mean


@case("script", "trace")
class CountedCalls(nn.Module):
    """A buffer that every call moves, but no answer depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x * 2


@case("refuse", names="self.seen")
class GrowingList(nn.Module):
    """A Python list that grows with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.mean())
        return x - torch.stack(self.seen).mean()


_calls = 0


@case("refuse", names="_calls")
class GlobalCounter(nn.Module):
    """A counter in the module's globals."""

    def forward(self, x: Tensor) -> Tensor:
        global _calls  # noqa: PLW0603 (the trap)
        _calls += 1
        return x * _calls


@case("refuse", names="self.hidden")
class KeptHidden(nn.Module):
    """A recurrent network goes on from where the last call left it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 3)
        self.hidden: Tensor
        self.register_buffer("hidden", torch.zeros(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.cell(x.mean(0, keepdim=True), self.hidden)
        return x + self.hidden


@case("refuse", names="self.first")
class CachedFirstCall(nn.Module):
    """The first call ever is the reference of all others."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.first is None:
            self.first = x.mean(0)
        return x - self.first


@case("refuse", names="self.flipped")
class Toggle(nn.Module):
    """Every second call is answered otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.flipped = False

    def forward(self, x: Tensor) -> Tensor:
        self.flipped = not self.flipped
        return -x if self.flipped else x


@case("refuse", names="seen")
class MutableDefault(nn.Module):
    """A default argument that is one and the same list in every call."""

    def forward(self, x: Tensor) -> Tensor:
        return self.averaged(x)

    def averaged(self, x: Tensor, seen: list[Tensor] = []) -> Tensor:  # noqa: B006 (the trap)
        seen.append(x.mean())
        return x - torch.stack(seen).mean()


@case("refuse", names="self.weight")
class DecayingWeight(nn.Module):
    """A parameter that shrinks with every call, by way of `.data`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.mul_(0.9)
        return x * self.weight


@case("script", "trace", shapes=((-1, -1),))
class TablesByLength(nn.Module):
    """Tables are made once for each length and kept in a dict, where a trace never finds its size."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = {}  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        length = x.size(1)
        if length not in self.tables:
            self.tables[length] = torch.linspace(0, 1, length)
        return x + self.tables[length]


@functools.cache
def _positions(length: int) -> Tensor:
    return torch.linspace(0, 1, length)


@case("trace")
class CachedTable(nn.Module):
    """functools.cache cannot be saved in a script; a table of fixed size is rightly a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x + _positions(3)


@case("refuse", names="_positions(int(x.size(1)))", shapes=((-1, -1),))
class CachedByLength(nn.Module):
    """functools.cache hands the trace a finished table of the example's length."""

    def forward(self, x: Tensor) -> Tensor:
        return x + _positions(int(x.size(1)))


@case("script", names="self.table.size(0) < x.size(1)", shapes=((-1, -1),), lengths=(4, 2, 20, 7))
class GrowingTable(nn.Module):
    """A table of positions is made anew for a longer series than it was made for."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.table.size(0) < x.size(1):
            self.table = torch.arange(float(x.size(1)))
        return x + self.table[: x.size(1)]


@case("script", "trace")
class LazyLinear(nn.Module):
    """A layer that gets its weights in the first call; after training they are there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(2)
        self.layer(torch.zeros(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@case("script", "trace")
class TiedWeights(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.back.weight = self.there.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.there(x).relu())


@case("script", "trace", shapes=((-1, 2, -1),))
class BatchStatistics(nn.Module):
    """A batch norm without running statistics looks like training, and is a function of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class _Loads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.layer(x)


@case("script", "trace")
class CountedInPython(nn.Module):
    """A Python number counts the calls of a submodule, and nothing reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Loads()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).relu()


_limit = [10.0]


def _set_limit(limit: float) -> None:
    _limit[0] = limit


def _with_other_limits() -> Iterator[tuple[Tensor, ...]]:
    for limit in (1.0, 10.0):
        _set_limit(limit)
        yield (torch.full((1, 3), 5.0),)


@case("refuse", names="_limit", rare=_with_other_limits)
class GlobalSetting(nn.Module):
    """A limit in the module's globals that other code may change while the model is served."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=_limit[0])


@case("script", "trace", shapes=((-1, 4),), values=(lambda shape: torch.randint(0, 10, shape),))
class NormLimited(nn.Module):
    """An embedding with max_norm shrinks its weights when it is asked, and answers as if it had before."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4, max_norm=1.0)

    def forward(self, words: Tensor) -> Tensor:
        return self.words(words).mean(1)
