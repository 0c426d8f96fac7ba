"""Trains a model in pytorch-cuda: seeded, without network, going on from its last epoch when interrupted."""

from collections.abc import Mapping
from pathlib import Path

from pipeline import records
from pipeline.artifacts import File, ModelSpec, Split, TrainedModel
from pipeline.engine import Engine, Image
from pipeline.errors import TrainError
from pipeline.progress import say
from pipeline.workbench import Workbench, code_of


def train(spec: ModelSpec, *, trainer: Image, engine: Engine, out: Path, ops: File | None = None) -> TrainedModel:
    """Writes weights.safetensors into `out`, and checkpoint.pt there for as long as training is not done.

    `ops` is the library of the model's own operators, where it has some.
    The same inputs give the same weights on the same machine, also when a run was interrupted between.

    Raises:
        TrainError: the container failed, model.py is not what model_src/README.md asks for, the training diverged,
            or a metric is below its floor.
    """
    gpus = engine.info().gpus
    bench = Workbench(spec=spec, trainer=trainer, engine=engine, out=out, error=TrainError, ops=ops)
    training = spec.training
    order = {
        "key": _key(spec, trainer=trainer, ops=ops, threads=bench.threads, gpus=gpus),
        "seed": training.seed,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "params": spec.params,
    }
    answer = bench.run("train", order, gpus=gpus)
    metrics: dict[str, float] = answer["metrics"]
    _refuse_below_floor(spec, metrics)
    (out / "checkpoint.pt").unlink(missing_ok=True)
    return TrainedModel(
        weights=File.of(out / "weights.safetensors"),
        trainer=trainer.digest,
        metrics=metrics,
        data={name: Split(items=found["items"], sha256=found["sha256"]) for name, found in answer["data"].items()},
        spec=spec,
        ops=ops,
    )


def _key(spec: ModelSpec, *, trainer: Image, ops: File | None, threads: int, gpus: bool) -> str:
    """The digest of everything that decides what the weights become: a checkpoint with another one is not used."""
    code = {
        file.path.relative_to(spec.folder).as_posix(): file.sha256
        for file in spec.sources
        if file.path.name != "model.yaml"
    }
    training = spec.training
    return records.digest_of(
        code,
        code_of("train"),
        [training.seed, training.epochs, training.batch_size, spec.params],
        [trainer.digest, threads, gpus],
        ops,
    )


def _refuse_below_floor(spec: ModelSpec, metrics: Mapping[str, float]) -> None:
    measured = ", ".join(f"{metric} {value:.4f}" for metric, value in sorted(metrics.items())) or "nothing"
    for metric, floor in spec.training.floors.items():
        if metric not in metrics:
            raise TrainError(
                f"{spec.name}: model.yaml sets a floor for `{metric}`, but `evaluate` in model.py measured {measured}. "
                "Use the same name in both."
            )
        if not metrics[metric] >= floor:
            raise TrainError(
                f"{spec.name}: {metric} on the held-out split is {metrics[metric]:.4f}, below the floor of {floor:g}. "
                "The model is not good enough to be served: train longer, improve model.py, "
                "or lower training.floors in model.yaml if this is what you want."
            )
    say(f"  on the held-out split: {measured}")
