"""Loads an archive as a stranger would and compares its answers with those that the trained model gave."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.inside.order import Refused, answer
from pipeline.inside.samples import outputs_of
from pipeline.inside.source import load_operators

# The executor profiles the first runs of a shape and from then on runs other, specialised code.
RUNS = 3


def main(_: dict[str, Any], out: Path) -> dict[str, Any]:
    """Returns the largest absolute difference of each output, over every sample and run.

    Raises:
        Refused: the archive does not load, cannot be run, or answers something else.
    """
    load_operators()
    contract = json.loads((out / "contract.json").read_bytes())
    samples = load_file(out / "samples.safetensors")
    archive = _loaded(out / "model.pt")
    worst = {tensor["name"]: 0.0 for tensor in contract["outputs"]}
    for number in [n for n in range(contract["samples"]["count"]) for _ in range(RUNS)]:
        inputs = [samples[f"{number}/input/{tensor['name']}"] for tensor in contract["inputs"]]
        for name, actual in zip(worst, _run(archive, inputs, number), strict=True):
            wanted = samples[f"{number}/output/{name}"]
            apart = compare(actual, wanted, contract["tolerance"], what=f"For sample {number} the output `{name}`")
            worst[name] = max(worst[name], apart)
    return {"parity": worst}


def compare(actual: Tensor, wanted: Tensor, tolerance: dict[str, float], *, what: str) -> float:
    """The largest absolute difference. Whole numbers and booleans have to be equal.

    Raises:
        Refused: datatype or shape differ, or an element is off by more than the tolerance.
    """
    if actual.dtype != wanted.dtype or actual.shape != wanted.shape:
        raise Refused(
            f"{what} is {actual.dtype} {list(actual.shape)} from the archive and {wanted.dtype} {list(wanted.shape)} "
            "from the trained model. Export baked a shape in: set `export: script` in model.yaml."
        )
    if not actual.numel():
        return 0.0
    apart = (actual.double() - wanted.double()).abs()
    allowed = tolerance["absolute"] + tolerance["relative"] * wanted.double().abs()
    within = apart <= allowed if wanted.is_floating_point() else actual == wanted
    if not within.all():
        at = int((~within).flatten().nonzero()[0])
        got, expected, off, bound = (each.flatten()[at].item() for each in (actual, wanted, apart, allowed))
        raise Refused(
            f"{what} is {got:.6g} from the archive and {expected:.6g} from the trained model, "
            f"off by {off:.2g} where {bound:.2g} is allowed. The archive does not compute what the model does: tracing "
            "froze a branch, or forward() is random. Set `export: script`; raise `tolerance` only if it is intended."
        )
    return float(apart.max())


def _loaded(path: Path) -> Any:
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        raise Refused(f"The archive was saved but does not load. Change what torch names here:\n{error}") from error


def _run(archive: Any, inputs: list[Tensor], number: int) -> tuple[Tensor, ...]:
    try:
        with torch.inference_mode():
            return outputs_of(archive(*inputs))
    except RuntimeError as error:
        raise Refused(f"The archive fails on sample {number}, which the trained model answers:\n{error}") from error


if __name__ == "__main__":
    answer(main)
