"""The same model in other precisions and memory formats; its inputs and outputs stay as model.yaml declares them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import torch
from torch import nn
from torch.jit import ScriptModule

from pipeline.inside.samples import Sample

# The names that model.yaml and the protocol use, and torch's.
_FLOATING = {"FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to export: `precision` fp32 or bf16, `memory_format` contiguous or channels_last."""

    precision: str
    memory_format: str

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.precision}-{self.memory_format}"


PLAIN = Variant(precision="fp32", memory_format="contiguous")


def wanted(precision: str, memory_format: str, *, bf16: bool) -> tuple[Variant, ...]:
    """What to try for a model.yaml. The plain variant comes first: the others are measured by it.

    Where the CPU has no bf16, a model that asks for it is served in fp32.
    """
    precisions = ("fp32", "bf16") if precision == "auto" or (precision == "bf16" and not bf16) else (precision,)
    formats = ("contiguous", "channels_last") if memory_format == "auto" else (memory_format,)
    pairs = (Variant(precision=each, memory_format=form) for each, form in product(precisions, formats))
    return tuple(dict.fromkeys((PLAIN, *pairs)))


def obstacle(variant: Variant, model: nn.Module, contract: dict[str, Any], *, bf16: bool) -> str | None:
    """Why a variant makes no sense for this model on this CPU, if so. `bf16` says whether the CPU can compute in it."""
    if variant.precision == "bf16" and not bf16:
        return "this CPU has no instructions for bf16 (avx512_bf16 or amx_bf16), so it would be slower, not faster"
    if variant.memory_format == "channels_last":
        if not any(len(tensor["shape"]) == 4 for tensor in contract["inputs"]):
            return "no input has four dimensions, as channels_last needs"
        if not any(parameter.dim() == 4 for parameter in model.parameters()):
            return "no weight has four dimensions, as channels_last needs"
    return None


def program(
    variant: Variant, model: nn.Module, *, method: str, taken: Sequence[Sample], contract: dict[str, Any]
) -> ScriptModule:
    """`model`, which is changed, as a program of that variant between casts to and from the declared datatypes.

    Raises:
        RuntimeError: torch cannot script or trace the changed model.
    """
    if variant.precision == "bf16":
        model = model.bfloat16()
    if variant.memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    casts = [_Cast.of(variant, tensor) for tensor in contract["inputs"]]
    if method == "script":
        inner = torch.jit.script(model)
    else:
        largest = max(taken, key=lambda sample: len(sample.inputs[0]))
        with torch.no_grad():
            example = tuple(cast.applied(value) for cast, value in zip(casts, largest.inputs, strict=True))
            # Samples and probes are compared with the trained model's answers afterwards, which says more.
            inner = torch.jit.trace(model, example, check_trace=False)
    return _between_casts(inner, casts, contract)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    """What is done to an input before the model sees it."""

    bf16: bool
    channels_last: bool

    @classmethod
    def of(cls, variant: Variant, tensor: dict[str, Any]) -> Self:
        return cls(
            bf16=variant.precision == "bf16" and tensor["datatype"] in _FLOATING,
            channels_last=variant.memory_format == "channels_last" and len(tensor["shape"]) == 4,
        )

    def applied(self, value: Any) -> Any:
        """The value, cast."""
        if self.bf16:
            value = value.to(torch.bfloat16)
        return value.contiguous(memory_format=torch.channels_last) if self.channels_last else value

    def source(self, name: str) -> str:
        """The same as TorchScript."""
        name += ".to(torch.bfloat16)" if self.bf16 else ""
        return name + (".contiguous(memory_format=torch.channels_last)" if self.channels_last else "")


def _between_casts(inner: ScriptModule, casts: Sequence[_Cast], contract: dict[str, Any]) -> ScriptModule:
    """A module around the program whose forward() casts; its source depends on the number of inputs and outputs."""
    schema = inner._c._get_method("forward").schema
    names = [tensor["name"] for tensor in contract["inputs"]]
    types = [argument.type.annotation_str for argument in schema.arguments[1:]]
    arguments = ", ".join(f"{name}: {kind}" for name, kind in zip(names, types, strict=False))
    passed = ", ".join(cast.source(name) for name, cast in zip(names, casts, strict=True))
    declared = [tensor["datatype"] for tensor in contract["outputs"]]
    backs = [f".to(torch.{_FLOATING[datatype]})" if datatype in _FLOATING else "" for datatype in declared]
    keys = [f'"{tensor["name"]}"' for tensor in contract["outputs"]]
    kind = schema.returns[0].type.annotation_str
    if kind == "Tensor":
        answer = f"answer_{backs[0]}"
    elif kind.startswith(("Tuple", "List[Tensor", "Dict")):
        places = keys if kind.startswith("Dict") else range(len(keys))
        answer = ", ".join(f"answer_[{place}]{back}" for place, back in zip(places, backs, strict=True)) + ","
    else:
        answer = "answer_"

    class Holder(nn.Module):  # type: ignore[misc]
        """A class of its own each time: torch keeps what was defined for a class and lets nothing define it again."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

    holder = torch.jit.script(Holder().eval())
    holder.define(f"def forward(self, {arguments}):\n  answer_ = self.inner({passed})\n  return {answer}\n")
    return holder.eval()
