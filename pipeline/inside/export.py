"""Turns trained weights into a TorchScript archive that carries its contract: equal weights, equal bytes.

Equal bytes need a process of its own with PYTHONHASHSEED=0: torch numbers the names of what was scripted before.
"""

import hashlib
import inspect
import json
import platform
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from pipeline.inside import operators, probes, samples, source, verdict
from pipeline.inside.order import MODEL, Refused, answer, write_atomic
from pipeline.inside.rewrite import rewrite
from pipeline.inside.train import seed

WEIGHTS = Path("/torchyard/weights.safetensors")


def main(order: dict[str, Any], out: Path) -> dict[str, Any]:
    """Writes model.pt, samples.safetensors and contract.json into `out`, and ops.so if the model has operators."""
    seed(order["seed"])
    torch.use_deterministic_algorithms(True)
    declared, params = order["contract"], order["params"]
    module = source.load(MODEL)
    model = source.trained(module, params, WEIGHTS)
    refuse_other_arguments(model, declared)
    _, held_out = source.data(module, params)
    taken = samples.take(model, held_out, declared, collate=source.collate(module))
    write_atomic(out / "samples.safetensors", save(samples.named(taken, declared)))

    probed = probes.make(model, taken, declared, seed=order["seed"])
    program, evidence = verdict.decide(
        model, samples=taken, probes=probed, choice=order["export"], accepted=order["accepted"]
    )
    print(f"{evidence['method']} and freeze")
    with verdict.refusing(evidence["method"]):
        frozen = torch.jit.freeze(program)
    contract = declared | {
        "evidence": evidence,
        "operators": operators.needed(frozen),
        "producer": {"torch": torch.__version__, "python": platform.python_version(), "torchyard": order["torchyard"]},
        "samples": _described(out / "samples.safetensors") | {"count": len(taken)},
    }
    if registered := source.load_operators():
        write_atomic(out / "ops.so", source.OPERATORS.read_bytes())
        contract["ops"] = {"file": "ops.so", "operators": registered} | _described(out / "ops.so")
    raw = BytesIO()
    with verdict.refusing(evidence["method"]):
        torch.jit.save(frozen, raw, _extra_files={"contract.json": _canonical(contract)})
    rewrite(raw, out / "model.pt")
    contract["archive"] = {"file": "model.pt"} | _described(out / "model.pt")
    contract["samples"]["file"] = "samples.safetensors"
    (out / "contract.json").write_bytes(_canonical(contract))
    return {}


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


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": path.stat().st_size}


def _canonical(contract: dict[str, Any]) -> bytes:
    return json.dumps(contract, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    answer(main)
