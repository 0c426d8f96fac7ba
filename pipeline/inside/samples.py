"""The evidence that everything after training replays: held-out inputs and what the trained model answered to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.inside.order import Refused
from pipeline.inside.source import Collate, refuse_non_finite

DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
# Batches of different sizes show a batch size that export baked in.
BATCHES = (1, 1, 1, 1, 1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Inputs in forward()'s order, complete with the batch dimension, and the outputs in the declared order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def take(model: nn.Module, held_out: Dataset[Any], contract: dict[str, Any], *, collate: Collate) -> tuple[Sample, ...]:
    """Samples from items spread over the held-out split, which may be sorted, answered by `model`.

    Raises:
        Refused: items or answers are not what model.yaml declares, or an answer is not finite.
    """
    fixed = max(tensor["shape"][0] for tensor in contract["inputs"])
    sizes = BATCHES if fixed == -1 else (fixed,) * 5
    spread = iter([at * len(held_out) // sum(sizes) for at in range(sum(sizes))])
    samples = []
    for number, size in enumerate(sizes):
        batch = collate([held_out[next(spread)] for _ in range(size)])
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise Refused(
                "The items of the held-out split are not (*inputs, target). Make `data` in model.py give those."
            )
        inputs = _declared(tuple(batch[:-1]), contract["inputs"], "input", "the held-out split")
        with torch.inference_mode():
            answers = outputs_of(model(*inputs))
        outputs = _declared(answers, contract["outputs"], "output", "the trained model")
        for tensor, output in zip(contract["outputs"], outputs, strict=True):
            refuse_non_finite({tensor["name"]: output}, f"answer to sample {number}", "Look for a division by zero.")
        samples.append(Sample(inputs=inputs, outputs=outputs))
    return tuple(samples)


def named(samples: Sequence[Sample], contract: dict[str, Any]) -> dict[str, Tensor]:
    """The samples as samples.safetensors holds them: `{i}/input/{name}` and `{i}/output/{name}`."""
    return {
        f"{number}/{kind}/{tensor['name']}": value.clone()
        for number, sample in enumerate(samples)
        for kind, values in (("input", sample.inputs), ("output", sample.outputs))
        for tensor, value in zip(contract[f"{kind}s"], values, strict=True)
    }


def stored(path: Path, contract: dict[str, Any]) -> tuple[Sample, ...]:
    """The samples or probes of a file that holds them as `named` gives them."""
    tensors = load_file(path)
    declared = len(contract["inputs"]) + len(contract["outputs"])
    inputs, outputs = ([tensor["name"] for tensor in contract[kind]] for kind in ("inputs", "outputs"))
    return tuple(
        Sample(
            inputs=tuple(tensors[f"{number}/input/{name}"] for name in inputs),
            outputs=tuple(tensors[f"{number}/output/{name}"] for name in outputs),
        )
        for number in range(len(tensors) // declared)
    )


def outputs_of(result: object) -> tuple[Tensor, ...]:
    """What forward() returned as a tuple of tensors.

    Raises:
        Refused: it returned something else.
    """
    results = tuple(result) if isinstance(result, tuple | list) else (result,)
    for each in results:
        if not isinstance(each, Tensor):
            raise Refused(
                f"forward() returned a {type(each).__name__}. "
                "Return a tensor, or a tuple of tensors in the order of `outputs` in model.yaml."
            )
    return results


def _declared(values: Sequence[Any], declared: list[dict[str, Any]], kind: str, source: str) -> tuple[Tensor, ...]:
    """The values, once they are seen to be what model.yaml declares."""
    if len(values) != len(declared):
        names = ", ".join(f"`{tensor['name']}`" for tensor in declared)
        raise Refused(
            f"{source.capitalize()} gives {_count(len(values), kind)}; model.yaml declares {len(declared)}: {names}. "
            f"Make `{kind}s` in model.yaml list them all, in order."
        )
    for value, tensor in zip(values, declared, strict=True):
        wanted = f"{tensor['datatype']} {tensor['shape']}"
        got = f"{DATATYPES.get(value.dtype, value.dtype)} {list(value.shape)}" if isinstance(value, Tensor) else None
        if got is None or not _fits(value, tensor):
            raise Refused(
                f"{source.capitalize()} gives the {kind} `{tensor['name']}` as {got or type(value).__name__}; "
                f"model.yaml declares {wanted}. Correct the one that is wrong (-1 is a free dimension)."
            )
    return tuple(values)


def _fits(value: Tensor, tensor: dict[str, Any]) -> bool:
    shape = tensor["shape"]
    return (
        DATATYPES.get(value.dtype) == tensor["datatype"]
        and value.dim() == len(shape)
        and all(wanted in (-1, size) for wanted, size in zip(shape, value.shape, strict=True))
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
