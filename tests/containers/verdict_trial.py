"""Runs in the training image: what the verdict says of the models in here, and which probes they get, as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.inside import probes
from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample, outputs_of
from pipeline.inside.verdict.decision import decide

OUTPUTS = ("y",)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


class Rare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x == 12345.0).any()):
            return x * 0
        return x * 2


class Gated(nn.Module):
    """Its gate can be scripted, and it cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x).pow(*[2])


class Trying(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return torch.linalg.inv(x[:, :3].T @ x[:, :3])
        except RuntimeError:
            return x


class Keywords(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x, by=x.shape[0])

    def scaled(self, x: Tensor, **options: int) -> Tensor:
        return x * len(range(options["by"]))


class KeywordsAgain(Keywords):
    """torch remembers a class that it could not script."""


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


class Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode: bool = True) -> nn.Module:  # noqa: ARG002 (the trap)
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([x, x + 1]))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


class Elsewhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to("cuda") if x.shape[0] > 10_000 else x


class Words(nn.Module):
    def forward(self, x: list[str]) -> Tensor:
        counts: list[int] = []
        for text in x:
            counts.append(len(text.split()))  # noqa: PERF401 (a loop that only scripting keeps)
        return torch.tensor(counts)


class Shouting(nn.Module):
    def forward(self, x: list[str]) -> list[str]:
        return [text + "!" for text in x]


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.table(x) * mask.unsqueeze(-1)


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any()):
            raise ValueError("negative counts")
        return x.log()


def numbers(*sizes: int) -> list[tuple[Any, ...]]:
    torch.manual_seed(1)
    return [(torch.randn(size, 3),) for size in sizes]


def words(*sizes: int) -> list[tuple[Any, ...]]:
    return [(["the quick brown fox", "jumps", "over it"][:size],) for size in sizes]


def tokens(*sizes: int) -> list[tuple[Any, ...]]:
    torch.manual_seed(1)
    return [(torch.randint(10, 40, (size, 7)), torch.ones(size, 7, dtype=torch.bool)) for size in sizes]


def declared(inputs: tuple[Any, ...], names: tuple[str, ...]) -> dict[str, Any]:
    shapes = [[-1] if isinstance(each, list) else [-1, *each.shape[1:]] for each in inputs]
    if isinstance(inputs[0], Tensor) and not inputs[0].is_floating_point():
        shapes = [[-1, -1]] * len(inputs)
    return {
        "inputs": [{"name": name, "shape": shape} for name, shape in zip(names, shapes, strict=True)],
        "outputs": [{"name": name} for name in OUTPUTS],
    }


def taken(model: nn.Module, given: list[tuple[Any, ...]]) -> tuple[Sample, ...]:
    with torch.no_grad():
        return tuple(Sample(inputs=inputs, outputs=outputs_of(model(*inputs), OUTPUTS)) for inputs in given)


def made(model: nn.Module, given: list[tuple[Any, ...]], seed: int = 0) -> tuple[Sample, ...]:
    names = ("x", "mask")[: len(given[0])]
    return probes.make(model, taken(model, given), declared(given[0], names), seed=seed)


def decided(kind: type[nn.Module], given: list[tuple[Any, ...]], choice: str = "auto", accepted: str = "") -> Any:
    torch.manual_seed(0)
    model = kind().eval()
    try:
        probed = made(model, given)
        samples = taken(model, given)
        _, evidence = decide(model, samples=samples, probes=probed, outputs=OUTPUTS, choice=choice, accepted=accepted)
    except Refused as refusal:
        return {"refused": str(refusal)}
    return evidence


def shapes(kind: type[nn.Module], given: list[tuple[Any, ...]], seed: int = 0) -> Any:
    """What the probes look like: each input's shape or texts, with its smallest and largest value."""
    found = made(kind().eval(), given, seed)
    return [
        [
            [list(each.shape), float(each.min()), float(each.max())] if isinstance(each, Tensor) else each
            for each in probe.inputs
        ]
        for probe in found
    ]


def main(out: Path) -> None:
    usual = numbers(1, 1, 1, 2, 3)
    report = {
        "stack": decided(Stack, usual),
        "stack again": decided(Stack, usual),
        "gate": decided(Gate, usual),
        "gate traced": decided(Gate, usual, "trace"),
        "gate accepted": decided(Gate, [(each.abs(),) for (each,) in usual], "trace", "never below zero"),
        "gate accepted though wrong": decided(Gate, usual, "trace", "never below zero"),
        "random accepted": decided(Dropping, usual, "trace", "do not mind"),
        "rare": decided(Rare, usual),
        "rare traced": decided(Rare, usual, "trace"),
        "gated": decided(Gated, usual),
        "trying": decided(Trying, usual),
        "keywords": decided(Keywords, usual),
        "keywords scripted": decided(KeywordsAgain, usual, "script"),
        "dropping": decided(Dropping, usual),
        "training": decided(Training, usual),
        "counting": decided(Counting, usual),
        "elsewhere": decided(Elsewhere, usual),
        "words": decided(Words, words(1, 2, 3)),
        "words traced": decided(Words, words(1, 2, 3), "trace"),
        "shouting": decided(Shouting, words(1, 2, 3)),
        "embedding": decided(Embedding, tokens(1, 2, 3)),
        "probes of numbers": shapes(Stack, usual),
        "probes of numbers again": shapes(Stack, usual),
        "probes of another seed": shapes(Stack, usual, seed=1),
        "probes of tokens": shapes(Embedding, tokens(1, 2, 3)),
        "probes of words": shapes(Shouting, words(1, 2, 3)),
        "probes of positives": shapes(Positive, [(each.abs(),) for (each,) in usual]),
    }
    out.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
