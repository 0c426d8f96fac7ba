"""Loads each candidate as a stranger would, holds its answers against the trained model's, and evaluates it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import Dataset

from pipeline.inside import samples, source
from pipeline.inside.deviation import Deviation
from pipeline.inside.order import MODEL, Refused, answer
from pipeline.inside.samples import Sample, Value, outputs_of
from pipeline.inside.train import seed

# The executor profiles the first run of a shape and from then on runs other, specialised code.
RUNS = 2


def main(order: dict[str, Any], out: Path) -> dict[str, Any]:
    """For each candidate folder in `out` the deviations of its stages and its metrics, or why it is refused.

    Raises:
        Refused: the first candidate is, the plain one.
    """
    seed(order["seed"])
    module = source.load(MODEL)
    _, held_out = source.data(module, order["params"])
    found: dict[str, Any] = {}
    for name in order["candidates"]:
        try:
            found[name] = _judged(out / name, module, held_out)
        except Refused as refusal:
            if not found:
                raise
            found[name] = {"refused": str(refusal)}
    return found


def compare(
    stage: str,
    model: Callable[..., Any],
    contract: dict[str, Any],
    *,
    taken: Sequence[Sample],
    probed: Sequence[Sample],
    judged: bool = True,
) -> dict[str, dict[str, Any]]:
    """The deviation of each output over samples and probes, each run several times; `stage` is what `model` is.

    `contract` has the outputs and the tolerance. Probes are held to it, and what rounding may add to it, only where the
    contract says so, and with `judged` unset nothing is: the deviations are then what a tolerance is made from.

    Raises:
        Refused: the model cannot be run, or an answer has another form or is beyond the tolerance.
    """
    found = {tensor["name"]: Deviation() for tensor in contract["outputs"]}
    for kind, evidence, bound in (
        ("sample", taken, contract["tolerance"] if judged else None),
        ("probe", probed, contract["tolerance"] if judged and contract["probes"]["judged"] else None),
    ):
        for number, sample in enumerate(evidence):
            for _ in range(RUNS):
                answers = _run(model, sample, list(found), what=f"{stage}, {kind} {number}")
                for output, (name, deviation) in enumerate(found.items()):
                    what = f"{stage}, {kind} {number}: the output `{name}`"
                    tolerance = bound and sample.allowed(bound, output)
                    deviation.add(answers[output], sample.outputs[output], tolerance, what=what)
    return {name: deviation.found() for name, deviation in found.items()}


def _judged(folder: Path, module: ModuleType, held_out: Dataset[Any]) -> dict[str, Any]:
    contract = json.loads((folder / "contract.json").read_bytes())
    taken = samples.stored(folder / "samples.safetensors", contract)
    probed = samples.stored(folder / "probes.safetensors", contract, rounding=contract["probes"]["rounding"])
    frozen = _loaded(folder / "model.pt")
    stages = {"frozen": compare("frozen", frozen, contract, taken=taken, probed=probed)}
    del frozen
    optimised = _optimised(folder / "model.pt")
    stages["optimised"] = compare("optimised", optimised, contract, taken=taken, probed=probed)
    return {"parity": stages, "metrics": _metrics(module, optimised, held_out)}


def _loaded(path: Path) -> Any:
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise Refused(f"The archive was saved but does not load. Change what torch names here:\n{error}") from error


def _optimised(path: Path) -> Any:
    loaded = _loaded(path)
    try:
        return torch.jit.optimize_for_inference(loaded)
    except RuntimeError as error:
        raise Refused(f"The archive loads but cannot be optimised. Change what torch names here:\n{error}") from error


def _run(model: Callable[..., Any], sample: Sample, names: Sequence[str], *, what: str) -> tuple[Value, ...]:
    try:
        with torch.inference_mode():
            answers = outputs_of(model(*sample.inputs), names)
    except UnicodeDecodeError as error:
        raise Refused(
            f"{what}: the archive answers with a string that is not UTF-8 ({error}). TorchScript's strings are bytes: "
            "cut them between ASCII characters only."
        ) from error
    except RuntimeError as error:
        raise Refused(f"{what}: the archive fails where the trained model answers:\n{error}") from error
    if len(answers) != len(sample.outputs):
        raise Refused(f"{what}: the archive gives {len(answers)} outputs, the trained model {len(sample.outputs)}.")
    return answers


def _metrics(module: ModuleType, archive: Any, held_out: Dataset[Any]) -> dict[str, float]:
    try:
        with torch.no_grad():
            return {name: float(value) for name, value in module.evaluate(archive, held_out).items()}
    except (AttributeError, RuntimeError, TypeError) as error:
        raise Refused(
            f"`evaluate` in model.py works with the trained model and fails with the archive ({error!s:.500}). "
            "Only forward() is left in an archive: let `evaluate` call `model(...)` and use nothing else of it."
        ) from error


if __name__ == "__main__":
    answer(main)
