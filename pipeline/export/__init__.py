"""Turns a trained model into a TorchScript archive that carries its contract, and proves that it computes the same."""

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import records
from pipeline.artifacts import (
    UNDECIDED,
    Archive,
    Batching,
    Candidate,
    Decided,
    Deviation,
    Evidence,
    File,
    PrecisionChoice,
    ShapeProfile,
    TrainedModel,
)
from pipeline.engine import Engine, Image, Mount
from pipeline.errors import ExportError
from pipeline.export.choice import Tried, choose, name_of, settled
from pipeline.export.trial import Trial
from pipeline.progress import say
from pipeline.workbench import Workbench

SCHEMA = 1
FILES = ("model.pt", "samples.safetensors", "probes.safetensors", "contract.json")
_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def export(
    trained: TrainedModel,
    *,
    trainer: Image,
    runtime: Image,
    engine: Engine,
    out: Path,
    decided: Decided = UNDECIDED,
) -> Archive:
    """Writes model.pt, samples, probes and contract.json into `out`: all of them, or none when it fails.

    A model with operators of its own gets their library, ops.so, beside them.
    One process makes the candidates, another one loads them and replays samples and probes, and a third does so in the
    runtime image and measures them. Equal weights give equal bytes for a precision and memory format.

    Raises:
        ExportError: the weights changed since training; torch cannot script, trace or load the model; it does not
            give what model.yaml declares, or, as an archive, not what it gave when trained; or it loses more of a
            metric than model.yaml allows.
    """
    chosen, half = decided.chosen, out / ".half"
    spec = settled(trained.spec, chosen) if chosen else trained.spec
    if not trained.weights.is_intact():
        raise ExportError(f"{trained.weights.path}: is gone, or not what training wrote. Run `inv train --force`.")
    bench = Workbench(spec=spec, trainer=trainer, engine=engine, out=half, error=ExportError, ops=trained.ops)
    trial = Trial(spec=spec, runtime=runtime, engine=engine, folder=half, chosen=chosen)
    shutil.rmtree(half, ignore_errors=True)
    try:
        bf16 = spec.precision == "fp32" or trial.has_bf16()
        made = _made(bench, trained, accepted=decided.accepted, bf16=bf16)
        tried = _tried(bench, trial, made)
        precision: PrecisionChoice = spec.precision if bf16 else "fp32"
        candidates = choose(tried, spec=spec, precision=precision, before=trained.metrics)
        for candidate in candidates:
            say(f"  {_told(candidate)}")
        taken = next(candidate for candidate in candidates if candidate.taken)
        folder = half / name_of(taken.precision, taken.memory_format)
        profile = trial.profile(folder)
        batching = trial.together(folder)
        say(f"  batches of {batching.max_size}: {batching.because}")
        _plan_serving(folder / "contract.json", profile, batching)
        if not trained.ops:
            (out / "ops.so").unlink(missing_ok=True)
        # The contract names the digests of the others. As the last one in place, it never names what is not there.
        for name in (*(["ops.so"] if trained.ops else []), *FILES):
            (folder / name).replace(out / name)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    parity = next(each.parity for each in tried if name_of(each.precision, each.memory_format) == folder.name)
    found = Found(parity=parity, taken=taken, candidates=candidates, profile=profile, batching=batching)
    return _archive(trained, found, out=out)


def _made(bench: Workbench, trained: TrainedModel, *, accepted: str, bf16: bool) -> dict[str, Any]:
    """Has a folder written for each candidate; what became of each."""
    spec = bench.spec
    order = {
        "accepted": accepted,
        "bf16": bf16,
        "contract": _contract(trained),
        "export": spec.export,
        "memory_format": spec.memory_format,
        "params": spec.params,
        "precision": spec.precision,
        "seed": spec.training.seed,
        "torchyard": tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"],
    }
    weights = Mount(source=trained.weights.path, target="/torchyard/weights.safetensors")
    return bench.run("export", order, mounts=(weights,))


def _tried(bench: Workbench, trial: Trial, made: dict[str, Any]) -> tuple[Tried, ...]:
    """Each candidate with what the trainer and the runtime found out about it."""
    spec = bench.spec
    names = [name for name, each in made.items() if "refused" not in each]
    order = {"candidates": names, "params": spec.params, "seed": spec.training.seed}
    judged = bench.run("parity", order)
    names = [name for name in names if "refused" not in judged[name]]
    measured = trial.run(names)
    tried = []
    for name, each in made.items():
        steps = [each, judged.get(name, {}), measured.get(name, {})]
        parity = {stage: found for step in steps for stage, found in step.get("parity", {}).items()}
        tried.append(
            Tried(
                precision=each["precision"],
                memory_format=each["memory_format"],
                refused=next((step["refused"] for step in steps if "refused" in step), ""),
                parity=records.structured(parity, dict[str, dict[str, Deviation]]),
                metrics=steps[1].get("metrics", {}),
                p50=steps[2].get("p50"),
            )
        )
    return tuple(tried)


def _told(candidate: Candidate) -> str:
    figures = [] if candidate.p50 is None else [f"{candidate.p50:.3g} ms"]
    figures += [f"{name} {value:.4g}" for name, value in candidate.metrics.items()]
    shown = f"{candidate.precision} {candidate.memory_format}: {', '.join(figures) or 'not tried'}"
    return f"{shown}; {'taken' if candidate.taken else 'not taken'}: {candidate.because}"


def _plan_serving(path: Path, profile: tuple[ShapeProfile, ...], batching: Batching) -> None:
    """Tells the server in the contract beside the archive how often to run which sample before it is ready, and how
    many rows to answer together."""
    contract = json.loads(path.read_bytes())
    if batching.in_any_company:
        contract["batching"] = {"max_size": batching.max_size, "max_delay_ms": batching.max_delay_ms}
    contract["warm_up"] = [{"sample": shape.sample, "runs": shape.runs} for shape in profile]
    records.write_atomic(path, json.dumps(contract, sort_keys=True, separators=(",", ":")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the trials found out, as in `Archive`; `taken` is the candidate that became it."""

    parity: Mapping[str, Mapping[str, Deviation]]
    taken: Candidate
    candidates: tuple[Candidate, ...]
    profile: tuple[ShapeProfile, ...]
    batching: Batching


def _archive(trained: TrainedModel, found: Found, *, out: Path) -> Archive:
    contract = json.loads((out / "contract.json").read_bytes())
    return Archive(
        file=File.of(out / "model.pt"),
        samples=File.of(out / "samples.safetensors"),
        probes=File.of(out / "probes.safetensors"),
        contract=File.of(out / "contract.json"),
        evidence=records.structured(contract["evidence"], Evidence),
        operators=tuple(contract["operators"]),
        producer=contract["producer"],
        precision=found.taken.precision,
        memory_format=found.taken.memory_format,
        parity=found.parity,
        metrics=found.taken.metrics,
        candidates=found.candidates,
        profile=found.profile,
        batching=found.batching,
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
