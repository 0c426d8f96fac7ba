"""Seeded random inputs beyond the samples, of other sizes and other values, with the trained model's answers."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample, Value
from pipeline.inside.verdict.trial import FAILURES, LONGEST, limited, run

MOST = 24
# Over all probes, so that a model of large pictures is not probed for minutes.
MOST_BYTES = 16 * 2**20
_LARGE_ROW = 100_000
_MANY = 16
_UNICODE = ("", "Ünïcödé ☃", "日本語のテキスト", "\u200b \n\t", "🙂" * 3)
# An input's dimension: (input, axis).
Dimension = tuple[int, int]


def make(model: nn.Module, samples: Sequence[Sample], contract: dict[str, Any], *, seed: int) -> tuple[Sample, ...]:
    """Probes with the model's answers: every free dimension at three values and more, and several kinds of values.

    Dimensions that are equally long in every sample, and have the same place in their shapes, vary together. What the
    model refuses, or answers with something that is not finite, is left out and counted. The same seed gives the same.
    """
    shapes = [tensor["shape"] for tensor in contract["inputs"]]
    names = [tensor["name"] for tensor in contract["outputs"]]
    probes: list[Sample] = []
    refused, broken, size = [], 0, 0
    for number, (kind, sizes) in enumerate(_plan(samples, shapes)):
        inputs = _inputs(kind, sizes, samples, seed * 1000 + number)
        bytes_ = sum(each.nbytes for each in inputs if isinstance(each, Tensor))
        if len(probes) == MOST or size + bytes_ > MOST_BYTES:
            continue
        try:
            with limited(LONGEST):
                outputs = run(model, inputs, names)
        except Refused:
            raise
        except FAILURES as failure:
            refused.append(f"{type(failure).__name__}: {failure}".splitlines()[0])
            continue
        if not all(_finite(each) for each in outputs):
            broken += 1
            continue
        size += bytes_
        probes.append(Sample(inputs=inputs, outputs=outputs))
    _tell(len(probes), refused, broken)
    return tuple(probes)


def _tell(count: int, refused: Sequence[str], broken: int) -> None:
    words = [f"{count} probes"]
    if refused:
        words.append(f"{len(refused)} more that the model refuses ({refused[0]:.120})")
    if broken:
        words.append(f"{broken} more with answers that are not finite")
    print(", ".join(words))


def _finite(output: Any) -> bool:
    return not isinstance(output, Tensor) or not output.is_floating_point() or bool(output.isfinite().all())


def _plan(samples: Sequence[Sample], shapes: Sequence[Sequence[int]]) -> Iterator[tuple[str, Mapping[Dimension, int]]]:
    """Which kind of values in which sizes: first each free dimension at each of its values, then each kind."""
    groups = _groups(samples, shapes)
    choices = [_choices(group, samples) for group in groups]
    usual = [options[1 % len(options)] for options in choices]

    def sized(chosen: Sequence[int]) -> dict[Dimension, int]:
        return {at: size for group, size in zip(groups, chosen, strict=True) for at in group}

    for number, options in enumerate(choices):
        for option in options:
            yield "uniform", sized([*usual[:number], option, *usual[number + 1 :]])
    for number, kind in enumerate(_KINDS):
        yield kind, sized([options[number % len(options)] for options in choices])
    if not groups:
        yield from ((kind, {}) for kind in ("uniform", "gaussian", "mixed"))


def _groups(samples: Sequence[Sample], shapes: Sequence[Sequence[int]]) -> list[list[Dimension]]:
    groups: dict[tuple[int, tuple[int, ...]], list[Dimension]] = {}
    for number, shape in enumerate(shapes):
        for axis, size in enumerate(shape):
            if size == -1:
                lengths = tuple(_length(sample.inputs[number], axis) for sample in samples)
                groups.setdefault((axis, lengths), []).append((number, axis))
    return list(groups.values())


def _length(value: Any, axis: int) -> int:
    return int(value.shape[axis]) if isinstance(value, Tensor) else len(value)


def _row(value: Value) -> int:
    """How many numbers belong to one item of a batch."""
    return value[:1].numel() if isinstance(value, Tensor) else 1


def _choices(group: Sequence[Dimension], samples: Sequence[Sample]) -> list[int]:
    """Sizes to try, never 0: small ones, the samples', and larger ones than they have."""
    number, axis = group[0]
    lengths = [_length(sample.inputs[number], axis) for sample in samples]
    row = max(_row(sample.inputs[number]) for sample in samples)
    usual, most = min(lengths), max(lengths)
    if axis == 0:
        found = [1, 2, 4 if row > _LARGE_ROW else max(5, most + 2)]
    elif usual > _MANY:
        found = [usual // 2, usual, usual + usual // 2 if row > _LARGE_ROW else 2 * most]
    else:
        found = [1, usual, 2, most + 3]
    return sorted(set(found)) if axis == 0 else list(dict.fromkeys(found))


def _inputs(kind: str, sizes: Mapping[Dimension, int], samples: Sequence[Sample], seed: int) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, example in enumerate(samples[0].inputs):
        taken = [sample.inputs[number] for sample in samples]
        if isinstance(example, Tensor):
            shape = [sizes.get((number, axis), size) for axis, size in enumerate(example.shape)]
            found.append(_tensor(kind, shape, taken, generator))
        else:
            found.append(_strings(kind, sizes.get((number, 0), len(example)), taken, random.Random(seed)))  # noqa: S311
    return tuple(found)


def _tensor(kind: str, shape: list[int], taken: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    values = torch.cat([each.flatten() for each in taken])
    picked = values[torch.randint(len(values), (max(1, _product(shape)),), generator=generator)][: _product(shape)]
    if values.dtype == torch.bool:
        fixed = {"zeros": False, "constant": True, "large": True}.get(kind)
        drawn = torch.randint(2, shape, generator=generator).bool()
        return drawn if fixed is None else torch.full(shape, fixed)
    if not values.is_floating_point():
        low, high = int(values.min()), int(values.max())
        fixed_at = {"constant": low, "large": high}.get(kind)
        if fixed_at is not None:
            return torch.full(shape, fixed_at, dtype=values.dtype)
        return torch.randint(low, high + 1, shape, generator=generator).to(values.dtype)
    exact, noise = values.double(), torch.randn(shape, generator=generator, dtype=torch.float64)
    drawn = _KINDS[kind](exact, picked.double().reshape(shape), noise, torch.rand(shape, generator=generator).double())
    return drawn.to(values.dtype)


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


# Of all the samples' values, some picked from them, and normally and evenly distributed numbers.
_KINDS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "uniform": lambda values, _, __, even: values.min() + (values.max() - values.min()) * even,
    "gaussian": lambda values, _, noise, __: values.mean() + values.std(correction=0).clamp(min=1e-6) * noise,
    "negated": lambda _, picked, __, ___: -picked,
    "zeros": lambda _, picked, __, ___: torch.zeros_like(picked),
    "large": lambda _, picked, noise, __: picked * 1000 + noise,
    "constant": lambda values, picked, _, __: torch.full_like(picked, float(values.mean())),
    "below": lambda values, picked, noise, _: -picked.abs() - values.std(correction=0) * noise.abs(),
    "above": lambda values, picked, noise, _: picked.abs() + values.std(correction=0) * noise.abs() + 0.1,
    "tiny": lambda _, picked, __, ___: picked * 1e-3,
    "mixed": lambda _, picked, noise, even: torch.where(even < 0.5, picked, noise),
}


def _strings(kind: str, count: int, taken: Sequence[Sequence[str]], dice: random.Random) -> list[str]:
    texts = [text for each in taken for text in each]
    words = sorted({word for text in texts for word in text.split()}) or ["a"]
    characters = sorted(set("".join(texts))) or ["a"]

    def one(number: int) -> str:
        text = {
            "zeros": "",
            "negated": _UNICODE[number % len(_UNICODE)],
            "constant": dice.choice(words),
            "large": " ".join(dice.choices(words, k=100)),
            "below": dice.choice(texts).lower(),
            "above": dice.choice(texts).upper(),
        }.get(kind)
        if text is None and kind in {"tiny", "mixed"}:
            return "".join(dice.choices(characters, k=dice.randint(1, 30)))
        return " ".join(dice.choices(words, k=dice.randint(1, 12))) if text is None else text

    return [one(number) for number in range(count)]
