"""What a case of the corpus is: a small module with one trap in it, and the verdict that is right written beside it."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

Verdict: TypeAlias = Literal["script", "trace", "refuse"]
Choice: TypeAlias = Literal["auto", "script", "trace"]
Shape: TypeAlias = tuple[int, ...]
Inputs: TypeAlias = tuple[Tensor, ...]
Values: TypeAlias = Callable[[Shape], Tensor]
Class = TypeVar("Class", bound=type[nn.Module])

_CASES: list["Case"] = []
# As Torchyard samples a held-out split: single items, and two batches.
_SAMPLED = (1, 1, 1, 1, 1, 2, 3)
_HELD_BACK = (1, 5)
_REGIMES = (1.0, -1.0, 100.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A module's class and what is true of it; `case` says what the fields mean."""

    module: type[nn.Module]
    right: tuple[Verdict, ...]
    names: str
    shapes: tuple[Shape, ...]
    values: tuple[Values, ...]
    lengths: tuple[int, ...]
    rare: Callable[[], Iterable[Inputs]]
    choice: Choice
    accepted: str

    @property
    def name(self) -> str:
        return str(self.module.__name__)

    def build(self) -> nn.Module:
        """The module in eval mode, with the same weights every time."""
        torch.manual_seed(0)
        return self.module().eval()

    def samples(self) -> list[Inputs]:
        """What the export sees: batches like those of Torchyard, every other free dimension at `lengths[0]`."""
        torch.manual_seed(1)
        sizes = _SAMPLED if self.shapes[0][0] == -1 else (self.shapes[0][0],) * 5
        return [self._filled(size, self.lengths[0]) for size in sizes]

    def held_back(self) -> Iterator[Inputs]:
        """Other legal inputs, which the export does not see: more sizes and value regimes, and the rare inputs."""
        torch.manual_seed(2)
        yield from self.rare()
        free = [-1 in shape[1:] for shape in self.shapes]
        for size in _HELD_BACK:
            for length in self.lengths if any(free) else self.lengths[:1]:
                inputs = self._filled(size, length)
                for factor in _REGIMES if length == self.lengths[0] else _REGIMES[:1]:
                    yield tuple(each * factor if each.is_floating_point() else each for each in inputs)

    def _filled(self, size: int, length: int) -> Inputs:
        shapes = (
            tuple((size if at == 0 else length) if free == -1 else free for at, free in enumerate(shape))
            for shape in self.shapes
        )
        return tuple(values(shape) for values, shape in zip(self.values, shapes, strict=True))


def case(
    *right: Verdict,
    names: str = "",
    shapes: tuple[Shape, ...] = ((-1, 3),),
    values: tuple[Values, ...] | None = None,
    lengths: tuple[int, ...] = (4, 2, 7, 5),
    rare: Callable[[], Iterable[Inputs]] = tuple,
    choice: Choice = "auto",
    accepted: str = "",
) -> Callable[[Class], Class]:
    """Puts the decorated class into the corpus.

    Args:
        right: every verdict that is right; one that is missing is wrong.
        names: the guilty code, or a word, that the refusal or the evidence has to name (the code's line will do).
        shapes: the declared shape of each input; -1 is free.
        values: makes each input from a shape; normally distributed numbers unless said otherwise.
        lengths: legal sizes of the free dimensions other than the batch; the samples have the first one only.
        rare: legal inputs that no sample is like, made one after the other; it may change the world between them.
        choice: `export` of model.yaml.
        accepted: the reason given with --accept-frozen-branch.
    """

    def put(module: Class) -> Class:
        _CASES.append(
            Case(
                module=module,
                right=right,
                names=names,
                shapes=shapes,
                values=values or (torch.randn,) * len(shapes),
                lengths=lengths,
                rare=rare,
                choice=choice,
                accepted=accepted,
            )
        )
        return module

    return put


def corpus() -> list[Case]:
    """Every case of every file beside this one, by name."""
    folder = Path(__file__).parent
    for path in sorted(folder.glob("*.py")):
        importlib.import_module(f"{__package__}.{path.stem}")
    return sorted(_CASES, key=lambda each: each.name)
