"""Turns a trained model into a TorchScript archive that carries its contract, and proves that it computes the same."""

import json
import shutil
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import records
from pipeline.artifacts import Archive, Evidence, File, TrainedModel
from pipeline.engine import Engine, Image, Mount
from pipeline.errors import ExportError
from pipeline.progress import say
from pipeline.workbench import Workbench

SCHEMA = 1
_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def export(trained: TrainedModel, *, trainer: Image, engine: Engine, out: Path, accepted: str = "") -> Archive:
    """Writes model.pt, samples.safetensors and contract.json into `out`: all of them, or none when it fails.

    A model with operators of its own gets their library, ops.so, beside them.
    One process makes the archive, and another one loads it and replays the samples. Equal weights give equal bytes.
    `accepted` is a person's reason for letting a frozen branch through.

    Raises:
        ExportError: the weights changed since training; torch cannot script, trace or load the model; or it does not
            give what model.yaml declares, or, as an archive, not what it gave when trained.
    """
    spec, half = trained.spec, out / ".half"
    if not trained.weights.is_intact():
        raise ExportError(f"{trained.weights.path}: is gone, or not what training wrote. Run `inv train --force`.")
    order = {
        "accepted": accepted,
        "contract": _contract(trained),
        "export": spec.export,
        "params": spec.params,
        "seed": spec.training.seed,
        "torchyard": tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"],
    }
    weights = Mount(source=trained.weights.path, target="/torchyard/weights.safetensors")
    bench = Workbench(spec=spec, trainer=trainer, engine=engine, out=half, error=ExportError, ops=trained.ops)
    shutil.rmtree(half, ignore_errors=True)
    try:
        bench.run("export", order, mounts=(weights,))
        parity: dict[str, float] = bench.run("parity", {})["parity"]
        # The contract names the digests of the others. As the last one in place, it never names what is not there.
        if not trained.ops:
            (out / "ops.so").unlink(missing_ok=True)
        for name in (*(("ops.so",) if trained.ops else ()), "model.pt", "samples.safetensors", "contract.json"):
            (half / name).replace(out / name)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    for name, apart in parity.items():
        say(f"  {name}: {apart:.2g} away from the trained model at most")
    return _archive(trained, parity, out)


def _archive(trained: TrainedModel, parity: dict[str, float], out: Path) -> Archive:
    contract = json.loads((out / "contract.json").read_bytes())
    return Archive(
        file=File.of(out / "model.pt"),
        samples=File.of(out / "samples.safetensors"),
        contract=File.of(out / "contract.json"),
        evidence=records.structured(contract["evidence"], Evidence),
        operators=tuple(contract["operators"]),
        producer=contract["producer"],
        parity=parity,
        trained=trained,
        ops=File.of(out / "ops.so") if trained.ops else None,
    )


def _contract(trained: TrainedModel) -> dict[str, Any]:
    """What is known of the contract before the archive is made."""
    spec = trained.spec
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "license": spec.license,
        "inputs": [asdict(tensor) for tensor in spec.inputs],
        "outputs": [asdict(tensor) for tensor in spec.outputs],
        "tolerance": asdict(spec.tolerance),
        "metrics": dict(trained.metrics),
    }
