"""Inputs at the edges of what a model may be asked, where programs part from it that agree on samples and probes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample
from pipeline.inside.verdict.trial import FAILURES, LONGEST, Case, limited, run

_REGIMES: dict[str, Callable[[Tensor], Tensor]] = {
    "negated": torch.neg,
    "zeros": torch.zeros_like,
    "ones": torch.ones_like,
    "minus ones": lambda x: -torch.ones_like(x),
    "positive": torch.abs,
    "negative": lambda x: -x.abs(),
    "times 10": lambda x: x * 10,
    "times 1000": lambda x: x * 1e3,
    "times -1000": lambda x: x * -1e3,
    "times a million": lambda x: x * 1e6,
    "times 1e25": lambda x: x * 1e25,
    "a thousandth": lambda x: x * 1e-3,
    "shifted up": lambda x: x + 5 * _spread(x),
    "shifted down": lambda x: x - 5 * _spread(x),
    "one large value": lambda x: _one(x, 1e6),
    "one negative value": lambda x: _one(x, -1e6),
    "one NaN": lambda x: _one(x, float("nan")),
}
_ROWS = (1, 2, 4, 7, 16)
# More numbers than this in a sample are not repeated into more rows.
_MOST_ROW = 200_000


def edges(model: nn.Module, samples: Sequence[Sample], outputs: Sequence[str]) -> tuple[Case, ...]:
    """Cases that the model answers, in whatever way, made from the samples: the same ones every time."""
    found = []
    for name, inputs in _inputs(samples):
        try:
            with limited(LONGEST):
                answers = run(model, inputs, outputs)
        except Refused:
            continue
        except FAILURES:
            continue
        sample = Sample(inputs=tuple(inputs), outputs=answers)
        found.append(Case(name=f"a sample changed to {name}", sample=sample, outputs=tuple(outputs)))
    return tuple(found)


def _inputs(samples: Sequence[Sample]) -> Iterator[tuple[str, list[Any]]]:
    first: Sequence[Any] = samples[0].inputs
    for name, change in _REGIMES.items():
        changed = [change(each) if isinstance(each, Tensor) and each.is_floating_point() else each for each in first]
        if any(one is not other for one, other in zip(changed, first, strict=True)):
            yield name, changed
    if any(map(_is_boolean, first)):
        yield "inverted booleans", [~each if _is_boolean(each) else each for each in first]
    largest: Sequence[Any] = samples[-1].inputs
    rows = [each.shape[:1] if isinstance(each, Tensor) and each.dim() else None for each in largest]
    batched = len(set(rows)) == 1 and rows[0] is not None and len({len(sample.inputs[0]) for sample in samples}) > 1
    if batched and sum(each[:1].numel() for each in largest) <= _MOST_ROW:
        for count in _ROWS:
            yield f"{count} rows", [each[torch.arange(count) % len(each)] for each in largest]


def _is_boolean(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _spread(x: Tensor) -> Tensor:
    return (x.max() - x.min()).clamp(min=1.0)


def _one(x: Tensor, value: float) -> Tensor:
    changed = x.clone()
    changed.view(-1)[:1] = value
    return changed
