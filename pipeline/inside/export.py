"""Turns trained weights into TorchScript archives that carry their contract, one for each variant that is to be tried.

Equal weights give equal bytes. That needs a process of its own with PYTHONHASHSEED=0: torch numbers the names of what
was scripted before.
"""

import hashlib
import inspect
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.jit import ScriptModule

from pipeline.inside import operators, probes, rounding, samples, source, variants
from pipeline.inside.freezing import freeze
from pipeline.inside.order import MODEL, Refused, answer, write_atomic
from pipeline.inside.parity import compare
from pipeline.inside.rewrite import rewrite
from pipeline.inside.samples import Sample
from pipeline.inside.train import seed
from pipeline.inside.variants import PLAIN, Variant
from pipeline.inside.verdict.decision import decide, refusing
from pipeline.inside.verdict.trial import agreeing

WEIGHTS = Path("/torchyard/weights.safetensors")
# Neighbouring bf16 numbers, which have eight significant bits, differ by at most this much of their size.
SPACING = 2**-7


def main(order: dict[str, Any], out: Path) -> dict[str, Any]:
    """Writes a folder for each variant into `out`. Returns, for each, its deviations or why there is none.

    Raises:
        Refused: there is no plain variant, because of the model or of what its program answers.
    """
    seed(order["seed"])
    torch.use_deterministic_algorithms(True)
    declared, params = order["contract"], order["params"]
    module = source.load(MODEL)
    model = source.trained(module, params, WEIGHTS)
    refuse_other_arguments(model, declared)
    _, held_out = source.data(module, params)
    taken = samples.take(model, held_out, declared, collate=source.collate(module))
    probed = rounding.measured(model, probes.make(model, taken, declared, seed=order["seed"]), declared)
    outputs = [tensor["name"] for tensor in declared["outputs"]]
    program, evidence = decide(
        model,
        samples=taken,
        probes=probed,
        outputs=outputs,
        choice=order["export"],
        accepted=order["accepted"],
    )
    if evidence["accepted"]:
        # What a person accepted is that these are answered wrongly.
        probed = agreeing(program, probed, outputs)
    if order["precision"] == "bf16" and not order["bf16"]:
        evidence["findings"].append(_NO_BF16)
    contract = declared | {
        "evidence": evidence,
        "producer": {"torch": torch.__version__, "python": platform.python_version(), "torchyard": order["torchyard"]},
        "samples": _kept(taken, out / "samples.safetensors", declared),
        "probes": _kept(probed, out / "probes.safetensors", declared)
        | {"rounding": [probe.rounding for probe in probed]},
    }
    if registered := source.load_operators():
        write_atomic(out / "ops.so", source.OPERATORS.read_bytes())
        contract["ops"] = {"file": "ops.so", "operators": registered} | _described(out / "ops.so")
    found: dict[str, Any] = {}
    for variant in variants.wanted(order["precision"], order["memory_format"], bf16=order["bf16"]):
        try:
            if variant != PLAIN:
                if told := variants.obstacle(variant, model, declared, bf16=order["bf16"]):
                    raise Refused(told)
                with refusing(evidence["method"]):
                    program = variants.program(
                        variant,
                        source.trained(module, params, WEIGHTS),
                        method=evidence["method"],
                        taken=taken,
                        contract=declared,
                    )
            deviations = _write(variant, program, contract, out, taken=taken, probed=probed)
        except Refused as refusal:
            if variant == PLAIN:
                raise
            found[variant.name] = asdict(variant) | {"refused": str(refusal)}
        else:
            found[variant.name] = asdict(variant) | {"parity": {"program": deviations}}
    return found


def _write(
    variant: Variant,
    program: ScriptModule,
    contract: dict[str, Any],
    out: Path,
    *,
    taken: Sequence[Sample],
    probed: Sequence[Sample],
) -> dict[str, Any]:
    """Writes the variant's folder, whole or not at all; returns the deviations of its program."""
    method = contract["evidence"]["method"]
    print(f"{method} and freeze, {variant.precision} {variant.memory_format}")
    with refusing(method):
        frozen = freeze(program)
    exact = variant.precision == "fp32"
    contract = contract | asdict(variant) | {"probes": contract["probes"] | {"judged": exact}}
    if not exact:
        contract["tolerance"] = _measured(frozen, contract, taken)
    deviations = compare("program", program, contract, taken=taken, probed=probed)
    contract["operators"] = operators.needed(frozen)
    raw = BytesIO()
    with refusing(method):
        torch.jit.save(frozen, raw, _extra_files={"contract.json": _canonical(contract)})
    folder = out / variant.name
    folder.mkdir()
    rewrite(raw, folder / "model.pt")
    contract["archive"] = {"file": "model.pt"} | _described(folder / "model.pt")
    contract["samples"] = contract["samples"] | {"file": "samples.safetensors"}
    for name in ("samples.safetensors", "probes.safetensors", *(["ops.so"] if "ops" in contract else [])):
        (folder / name).hardlink_to(out / name)
    (folder / "contract.json").write_bytes(_canonical(contract))
    return deviations


def _measured(frozen: ScriptModule, contract: dict[str, Any], taken: Sequence[Sample]) -> dict[str, Any]:
    """The tolerance of a variant that cannot meet that of model.yaml, because its numbers have fewer digits.

    Whether it is good enough is for the metrics and their budget to say. From then on, this holds its answers to what
    they are now. It is measured on samples, which are what will be served: probes are far larger and far smaller.
    """
    raw = BytesIO()
    torch.jit.save(frozen, raw)
    raw.seek(0)
    optimised = torch.jit.optimize_for_inference(torch.jit.load(raw))
    deviations = compare("optimised", optimised, contract, taken=taken, probed=(), judged=False)
    worst = max(deviation["absolute"] for deviation in deviations.values())
    declared = contract["tolerance"]
    return {
        "absolute": declared["absolute"] + 2 * worst,
        "relative": max(declared["relative"], SPACING),
        "because": "measured for bf16: twice the largest deviation on the samples, and how far its numbers lie apart",
    }


_NO_BF16 = {
    "rule": "no-bf16",
    "level": "warning",
    "where": "model.yaml",
    "message": "`precision: bf16` is asked for, and this CPU has no instructions for it: the archive stays at fp32",
    "fix": "Export where the CPU has avx512_bf16 or amx_bf16, or set `precision: fp32`.",
}


def refuse_other_arguments(model: nn.Module, contract: dict[str, Any]) -> None:
    """Raises Refused unless the inputs are named as forward()'s arguments are: nothing else keeps their order."""
    arguments = inspect.signature(model.forward).parameters.values()
    names = [argument.name for argument in arguments]
    wanted = [argument.name for argument in arguments if argument.default is argument.empty]
    inputs = [tensor["name"] for tensor in contract["inputs"]]
    if inputs != names[: len(inputs)] or len(inputs) < len(wanted):
        raise Refused(
            f"forward() takes ({', '.join(names)}); model.yaml declares the inputs ({', '.join(inputs)}). "
            "Name the inputs as the arguments are named, in the same order."
        )


def _kept(evidence: Sequence[Sample], path: Path, contract: dict[str, Any]) -> dict[str, Any]:
    """Writes samples or probes; what the contract says of them."""
    write_atomic(path, save(samples.named(evidence, contract)))
    return _described(path) | {"count": len(evidence)}


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": path.stat().st_size}


def _canonical(contract: dict[str, Any]) -> bytes:
    return json.dumps(contract, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    answer(main)
