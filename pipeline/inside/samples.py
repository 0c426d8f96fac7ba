"""The evidence that everything after training replays: held-out inputs and what the trained model answered to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.inside.order import Refused
from pipeline.inside.source import Collate, refuse_non_finite
from pipeline.inside.strings import serialized, strings

# A BYTES tensor is List[str] in the model.
Value: TypeAlias = Tensor | list[str]

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
    """Inputs in forward()'s order, complete with the batch dimension, and the outputs in the declared order.

    `rounding` is, for each output of a probe, what its answers may be off by beyond the tolerance (rounding.py).
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    rounding: tuple[float, ...] = ()

    def allowed(self, tolerance: dict[str, float], output: int) -> dict[str, float]:
        """The tolerance of a contract for one of the outputs, by its number."""
        return tolerance | {"absolute": tolerance["absolute"] + (self.rounding[output] if self.rounding else 0.0)}


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
            answers = outputs_of(model(*inputs), [tensor["name"] for tensor in contract["outputs"]])
        outputs = _declared(answers, contract["outputs"], "output", "the trained model")
        for tensor, output in zip(contract["outputs"], outputs, strict=True):
            if isinstance(output, Tensor):
                what = f"answer to sample {number}"
                refuse_non_finite({tensor["name"]: output}, what, "Look for a division by zero.")
        samples.append(Sample(inputs=inputs, outputs=outputs))
    return tuple(samples)


def named(samples: Sequence[Sample], contract: dict[str, Any]) -> dict[str, Tensor]:
    """The samples as samples.safetensors holds them: `{i}/input/{name}` and `{i}/output/{name}`.

    Raises:
        Refused: a string cannot be written as UTF-8.
    """
    return {
        (key := f"{number}/{kind}/{tensor['name']}"): value.clone()
        if isinstance(value, Tensor)
        else serialized(value, what=key)
        for number, sample in enumerate(samples)
        for kind, values in (("input", sample.inputs), ("output", sample.outputs))
        for tensor, value in zip(contract[f"{kind}s"], values, strict=True)
    }


def stored(
    path: Path, contract: dict[str, Any], *, rounding: Sequence[Sequence[float]] | None = None
) -> tuple[Sample, ...]:
    """The samples or probes of a file that holds them as `named` gives them; `rounding` is what their contract says."""
    tensors = load_file(path)
    declared = len(contract["inputs"]) + len(contract["outputs"])
    found = tuple(read(tensors, contract, number) for number in range(len(tensors) // declared))
    if rounding is None:
        return found
    return tuple(replace(each, rounding=tuple(most)) for each, most in zip(found, rounding, strict=True))


def read(tensors: Mapping[str, Tensor], contract: dict[str, Any], number: int) -> Sample:
    """One sample of those that `named` wrote."""

    def values(kind: str) -> tuple[Value, ...]:
        found = [(tensor["datatype"], tensors[f"{number}/{kind}/{tensor['name']}"]) for tensor in contract[f"{kind}s"]]
        return tuple(strings(value) if datatype == "BYTES" else value for datatype, value in found)

    return Sample(inputs=values("input"), outputs=values("output"))


def outputs_of(result: object, names: Sequence[str]) -> tuple[Value, ...]:
    """What forward() returned as a tuple in the order of `names`, the outputs of model.yaml.

    A tuple or list is in their order already and a dict has them as keys; a list of strings is one output, and a
    string alone is a list of one.

    Raises:
        Refused: it returned something else.
    """
    if isinstance(result, dict):
        if set(result) != set(names):
            raise Refused(
                f"forward() returned a dict of {', '.join(f'`{key}`' for key in result) or 'nothing'}; model.yaml "
                f"declares the outputs {', '.join(f'`{name}`' for name in names)}. Give both the same names."
            )
        return tuple(_output(result[name]) for name in names)
    if isinstance(result, tuple) or (isinstance(result, list) and not _are_strings(result)):
        return tuple(map(_output, result))
    return (_output(result),)


def _output(value: object) -> Value:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and _are_strings(value):
        return value
    raise Refused(
        f"forward() returned a {type(value).__name__}. Return tensors and lists of strings: one, a tuple in the order "
        "of `outputs` in model.yaml, or a dict with their names."
    )


def _are_strings(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _declared(values: Sequence[Any], declared: list[dict[str, Any]], kind: str, source: str) -> tuple[Value, ...]:
    """The values, once they are seen to be what model.yaml declares; a tuple of strings becomes a list."""
    if len(values) != len(declared):
        names = ", ".join(f"`{tensor['name']}`" for tensor in declared)
        raise Refused(
            f"{source.capitalize()} gives {_count(len(values), kind)}; model.yaml declares {len(declared)}: {names}. "
            f"Make `{kind}s` in model.yaml list them all, in order."
        )
    for value, tensor in zip(values, declared, strict=True):
        datatype, shape = _described(value)
        if datatype != tensor["datatype"] or not _fits(shape, tensor["shape"]):
            got = datatype if shape is None else f"{datatype} {shape}"
            raise Refused(
                f"{source.capitalize()} gives the {kind} `{tensor['name']}` as {got}; model.yaml declares "
                f"{tensor['datatype']} {tensor['shape']}. Correct the one that is wrong (-1 is a free dimension)."
            )
    return tuple(value if isinstance(value, Tensor) else list(value) for value in values)


def _described(value: object) -> tuple[str, list[int] | None]:
    """The datatype and the shape of a value, or what else it is."""
    if isinstance(value, Tensor):
        return str(DATATYPES.get(value.dtype, value.dtype)), list(value.shape)
    if isinstance(value, list | tuple) and _are_strings(value):
        return "BYTES", [len(value)]
    return type(value).__name__, None


def _fits(shape: list[int] | None, declared: list[int]) -> bool:
    return (
        shape is not None
        and len(shape) == len(declared)
        and all(wanted in (-1, size) for wanted, size in zip(declared, shape, strict=True))
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
