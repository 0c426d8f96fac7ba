"""Small valid values to begin a test with; their files lie in the folder that is given."""

import json
from pathlib import Path

from pipeline.artifacts import (
    Archive,
    Batching,
    Candidate,
    Deviation,
    Evidence,
    File,
    Limits,
    ModelSpec,
    ShapeProfile,
    Split,
    Tensor,
    Tolerance,
    TrainedModel,
    Training,
)

EVIDENCE = Evidence(
    requested="auto",
    method="trace",
    because="nothing depends on the input's values",
    findings=(),
    unvisited=(),
    samples=7,
    probes=20,
    accepted="",
)
EQUAL = Deviation(absolute=0.0, relative=0.0, equal=True, agreement=1.0)
CLOSE = Deviation(absolute=2.5e-7, relative=1e-6, equal=False, agreement=1.0)
BATCHING = Batching(
    max_size=8,
    max_delay_ms=0.0,
    because="27 got the same answers",
    row_ms={1: 2.0, 8: 1.25},
    in_any_company=True,
)
DATA = {"training": Split(items=8, sha256="a" * 64), "held-out": Split(items=2, sha256="b" * 64)}
PROFILE = ShapeProfile(sample=0, shapes=((1, 4),), cold=9.0, second=5.0, steady=1.0, runs=3)
LIMITS = Limits(memory=512, cpus=1.0, pids=64)


def file(path: Path, text: str) -> File:
    """Writes a file and describes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return File.of(path)


def model_spec(folder: Path) -> ModelSpec:
    """A perceptron with one input and one output."""
    return ModelSpec(
        name="tiny",
        version="1.0.0",
        description="A small one",
        license="Apache-2.0",
        folder=folder / "tiny",
        sources=(file(folder / "tiny/model.py", "source"),),
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 2)),),
        params={"hidden": 8, "names": ["a", "b"]},
        training=Training(epochs=2, batch_size=8, seed=0, floors={"accuracy": 0.5}, limits=LIMITS),
        export="auto",
        precision="fp32",
        memory_format="contiguous",
        budget={},
        tolerance=Tolerance(absolute=1e-5, relative=1e-5),
        serving=LIMITS,
    )


def trained_model(folder: Path) -> TrainedModel:
    """The perceptron, trained."""
    weights = file(folder / "train/weights.safetensors", "weights")
    return TrainedModel(
        weights=weights, trainer="sha256:7", metrics={"accuracy": 0.9}, data=DATA, spec=model_spec(folder)
    )


def archive(folder: Path, *, operators: bool = False) -> Archive:
    """The perceptron, exported; its files hold text. With `operators` there is a library of its own among them."""
    model = file(folder / "export/model.pt", "model")
    samples = file(folder / "export/samples.safetensors", "samples")
    content: dict[str, dict[str, object]] = {
        "archive": {"file": "model.pt", "sha256": model.sha256, "size": model.size},
        "samples": {"file": "samples.safetensors", "sha256": samples.sha256, "size": samples.size, "count": 1},
    }
    ops = file(folder / "export/ops.so", "library") if operators else None
    if ops:
        content["ops"] = {"file": "ops.so", "sha256": ops.sha256, "size": ops.size, "operators": []}
    return Archive(
        file=model,
        samples=samples,
        probes=file(folder / "export/probes.safetensors", "probes"),
        contract=file(folder / "export/contract.json", json.dumps(content)),
        evidence=EVIDENCE,
        operators=("aten::relu(Tensor self) -> Tensor",),
        producer={"torch": "2.8.0"},
        precision="fp32",
        memory_format="contiguous",
        parity={"program": {"y": EQUAL}, "frozen": {"y": CLOSE}, "optimised": {"y": CLOSE}, "runtime": {"y": CLOSE}},
        metrics={"accuracy": 0.9},
        candidates=(
            Candidate(
                precision="fp32",
                memory_format="contiguous",
                p50=1.0,
                metrics={"accuracy": 0.9},
                taken=True,
                because="the only one that fits model.yaml",
            ),
        ),
        profile=(PROFILE,),
        batching=BATCHING,
        trained=trained_model(folder),
        ops=ops,
    )
