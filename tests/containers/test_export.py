"""Export in the real trainer image: equal bytes for equal weights, and no archive that computes something else."""

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline import spec
from pipeline.artifacts import Archive, Decided, File, Limits, Tensor, Tolerance, TrainedModel
from pipeline.check import check
from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import ExportError
from pipeline.export import FILES, export

MODEL = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x):
        {forward}

def build(params):
    return Model()

def data(params):
    x = torch.linspace(-1, 1, 40).reshape(20, 2)
    return TensorDataset(x, x[:, :1]), TensorDataset(x, x[:, :1])

def loss(model, batch): ...

def evaluate(model, held_out):
    {evaluate}
"""
YAML = """
name: planted
version: 1.0.0
description: Something is wrong with it
license: Apache-2.0
inputs: {{x: "FP32 [-1, 2]"}}
outputs: {{y: "FP32 [-1, 1]"}}
export: {method}
{more}
training:
  limits: {{memory: 1GiB, cpus: 1}}
"""


def _planted(forward: str, method: str, folder: Path, *, evaluate: str = "return {}", more: str = "") -> TrainedModel:
    """A linear model with the given body of forward(), as if it had been trained; `more` is added to its model.yaml."""
    model = folder / "planted"
    model.mkdir()
    (model / "model.py").write_text(MODEL.format(forward=forward.replace("\n", "\n        "), evaluate=evaluate))
    (model / "model.yaml").write_text(YAML.format(method=method, more=more))
    weights = {"linear.weight": np.array([[2, 3]], np.float32), "linear.bias": np.array([1], np.float32)}
    save_file(weights, folder / "weights.safetensors")
    return TrainedModel(
        weights=File.of(folder / "weights.safetensors"), trainer="sha256:0", metrics={}, data={}, spec=spec.load(model)
    )


def test_two_exports_of_the_same_weights_are_the_same_bytes(
    engine: DockerEngine, trainer: Image, runtime: Image, tiny_archive: Archive, tmp_path: Path
) -> None:
    again = export(tiny_archive.trained, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path)
    assert again.file.sha256 == tiny_archive.file.sha256
    assert again.samples.sha256 == tiny_archive.samples.sha256
    assert again.contract.sha256 == tiny_archive.contract.sha256
    assert again.probes.sha256 == tiny_archive.probes.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_the_archive_can_be_mapped_and_carries_the_contract(tiny_archive: Archive) -> None:
    outside = json.loads(tiny_archive.contract.path.read_bytes())
    with zipfile.ZipFile(tiny_archive.file.path) as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
        inside = json.loads(archive.read("model/extra/contract.json"))
    content = tiny_archive.file.path.read_bytes()
    for entry in entries:
        assert entry.compress_type == zipfile.ZIP_STORED
        name, extra = (int.from_bytes(content[entry.header_offset + at :][:2], "little") for at in (26, 28))
        assert (entry.header_offset + 30 + name + extra) % 64 == 0, entry.filename
    assert not [entry for entry in entries if "debug" in entry.filename or "serialization_id" in entry.filename]

    archive_part, file, plan = outside.pop("archive"), outside["samples"].pop("file"), outside.pop("warm_up")
    assert outside.pop("batching")["max_size"] > 1
    assert "got the same answers together as alone" in tiny_archive.batching.because
    assert inside == outside
    assert [step["sample"] for step in plan] == [0, 5, 6]
    assert all(step["runs"] >= 3 for step in plan)
    assert archive_part == {
        "file": "model.pt",
        "sha256": tiny_archive.file.sha256,
        "size": tiny_archive.file.size,
    }
    assert (file, inside["samples"]["sha256"]) == ("samples.safetensors", tiny_archive.samples.sha256)
    assert inside["evidence"]["method"] == "trace"
    assert "aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor" in inside["operators"]
    assert not [operator for operator in inside["operators"] if "dropout" in operator]


def test_samples_come_in_several_batch_sizes(tiny_archive: Archive) -> None:
    samples = load_file(tiny_archive.samples.path)
    assert [samples[f"{number}/input/lengths"].shape for number in range(7)] == [(1, 4)] * 5 + [(2, 4), (3, 4)]
    assert [samples[f"{number}/output/species"].shape for number in range(7)] == [(1,)] * 5 + [(2,), (3,)]
    assert len(samples) == 7 * 3


@pytest.mark.parametrize(
    ("method", "forward", "message"),
    [
        (
            "trace",
            "return self.linear(x) if x.sum() > 0 else -self.linear(x)",
            r"A trace keeps one way(.|\n)*model\.py:12: .*input's values(.|\n)*the traced program answers",
        ),
        (
            "trace",
            "y = self.linear(x)\nfor i in range(x.shape[0]):\n    y = y + i\nreturn y",
            r"A trace keeps one way(.|\n)*model\.py:13: .*gets its number of rounds from the input's shape",
        ),
        ("trace", "return self.linear(x).reshape(-1).tolist()", r"forward\(\) returned a list|a float"),
        (
            "script",
            "return self.linear(x) + torch.rand(1)",
            r"forward\(\) is random(.|\n)*model\.py:12: .*torch\.rand\(1\)",
        ),
        (
            "script",
            "def inner(*a, **k): return self.linear(*a)\nreturn inner(x)",
            r"model\.py:12: .*: a function inside a function cannot be scripted(.|\n)*definitions aren't supported",
        ),
        ("script", "yield self.linear(x)", r"forward\(\) returned a generator"),
        (
            "script",
            "return self.linear(x).double()",
            r"gives the output `y` as FP64 \[1, 1\].* declares FP32 \[-1, 1\]",
        ),
        (
            "script",
            "return self.linear(x).reshape(-1)",
            r"gives the output `y` as FP32 \[1\].* declares FP32 \[-1, 1\]",
        ),
        ("script", "return self.linear(x), x", r"The trained model gives 2 outputs; model\.yaml declares 1: `y`"),
        ("script", "return self.linear(x) / 0", r"`y` has 1 of 1 values that are not finite"),
        ("script", "return {'z': self.linear(x)}", r"a dict of `z`; model\.yaml declares the outputs `y`\. Give both"),
    ],
)
def test_a_model_that_would_be_served_wrongly_is_refused(
    engine: DockerEngine,
    trainer: Image,
    runtime: Image,
    tmp_path: Path,
    method: str,
    forward: str,
    message: str,
) -> None:
    with pytest.raises(ExportError, match=message):
        export(
            _planted(forward, method, tmp_path), trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out"
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_every_stage_is_held_against_eager_and_said_to_be_equal_where_it_is(tiny_archive: Archive) -> None:
    assert list(tiny_archive.parity) == ["program", "frozen", "optimised", "runtime"]
    for stage, outputs in tiny_archive.parity.items():
        assert outputs["species"].equal, stage
        assert outputs["species"].agreement is None
        assert outputs["logits"].agreement == 1
    assert tiny_archive.parity["program"]["logits"].equal
    assert tiny_archive.metrics == pytest.approx(tiny_archive.trained.metrics)
    assert [shape.shapes for shape in tiny_archive.profile] == [((1, 4),), ((2, 4),), ((3, 4),)]
    assert all(shape.steady > 0 for shape in tiny_archive.profile)


def test_a_stage_beyond_tolerance_is_refused_by_name(
    engine: DockerEngine, trainer: Image, runtime: Image, tiny_archive: Archive, tmp_path: Path
) -> None:
    """Optimising folds the batch norm into what follows, which the last bits show."""
    assert not tiny_archive.parity["optimised"]["logits"].equal
    exact = _declaring(tiny_archive, tolerance=Tolerance(absolute=0, relative=0))
    with pytest.raises(ExportError, match=r"^tiny: optimised, sample \d: the output `logits` is .* and allowed is 0\."):
        export(exact, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


class _Bf16(DockerEngine):
    """An engine whose runtime reports a CPU with or without bf16."""

    def __init__(self, engine: DockerEngine, *, has_bf16: bool) -> None:
        self.__dict__.update(engine.__dict__)
        self._reports = ('"bf16": false', '"bf16": true') if has_bf16 else ('"bf16": true', '"bf16": false')

    def run(self, job: Job, *, on_line: Callable[[str], None]) -> None:
        super().run(job, on_line=lambda line: on_line(line.replace(*self._reports)))


def test_bf16_casts_inside_and_is_measured_like_everything_else(
    engine: DockerEngine, trainer: Image, runtime: Image, tiny_archive: Archive, tmp_path: Path
) -> None:
    asked = _declaring(tiny_archive, precision="bf16", budget={"accuracy": 0.2})
    archive = export(asked, trainer=trainer, runtime=runtime, engine=_Bf16(engine, has_bf16=True), out=tmp_path)
    assert archive.precision == "bf16"
    assert [(each.precision, each.taken) for each in archive.candidates] == [("fp32", False), ("bf16", True)]
    logits = archive.parity["runtime"]["logits"]
    assert logits.absolute > 1e-4
    assert logits.agreement == 1.0
    contract = json.loads(archive.contract.path.read_bytes())
    # It is measured on the samples; probes are of any size, and so is what they are off by.
    assert 1e-4 < contract["tolerance"]["absolute"] < 1
    assert "twice the largest deviation on the samples" in contract["tolerance"]["because"]
    assert contract["probes"]["judged"] is False
    assert load_file(archive.samples.path).keys() == load_file(tiny_archive.samples.path).keys()
    assert archive.samples.sha256 == tiny_archive.samples.sha256
    assert [output["datatype"] for output in contract["outputs"]] == ["FP32", "INT64"]
    verdict = check(archive.file.path, runtime=runtime.digest, engine=engine)
    assert verdict.measured["logits.max_abs"] > 1e-4


def test_bf16_on_a_cpu_without_it_stays_at_fp32_and_says_so(
    engine: DockerEngine,
    trainer: Image,
    runtime: Image,
    tiny_archive: Archive,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = _declaring(tiny_archive, precision="bf16")
    archive = export(asked, trainer=trainer, runtime=runtime, engine=_Bf16(engine, has_bf16=False), out=tmp_path)
    assert archive.precision == "fp32"
    assert [finding.rule for finding in archive.evidence.findings if finding.level == "warning"] == ["no-bf16"]
    assert "bf16 contiguous: not tried; not taken: this CPU has no instructions for bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("evaluate", "more", "message"),
    [
        (
            "return {'weight': model.linear.weight.sum()}",
            "",
            r"`evaluate` in model\.py works with the trained model and fails with the archive",
        ),
        (
            "return {}",
            "memory_format: channels_last",
            r"(?s)nothing is left of .* `memory_format: channels_last`.*no input has four dimensions",
        ),
    ],
)
def test_what_cannot_be_measured_or_had_is_refused(
    engine: DockerEngine,
    trainer: Image,
    runtime: Image,
    tmp_path: Path,
    evaluate: str,
    more: str,
    message: str,
) -> None:
    planted = _planted("return self.linear(x)", "script", tmp_path, evaluate=evaluate, more=more)
    with pytest.raises(ExportError, match=message):
        export(planted, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_variants_and_deviations(engine: DockerEngine, trainer: Image) -> None:
    """Casts of any number of inputs and outputs, and what counts as a deviation, in one container."""
    _held("inside_variants.py", engine, trainer)


def test_what_is_called_rounding(engine: DockerEngine, trainer: Image) -> None:
    """Answers beside those in double precision, in one container."""
    _held("inside_rounding.py", engine, trainer)


def test_what_a_model_may_take_and_return(engine: DockerEngine, trainer: Image) -> None:
    """Strings, lists and dicts, and every refusal of others, in one container."""
    _held("inside_strings.py", engine, trainer)


def test_what_a_split_holds_is_told_apart(engine: DockerEngine, trainer: Image) -> None:
    """Items of every kind, each with its own digest, in one container."""
    _held("inside_dataset.py", engine, trainer)


def _held(script: str, engine: DockerEngine, trainer: Image) -> None:
    """Runs a script of assertions in the trainer."""
    here = Path(__file__)
    mounts = (
        Mount(source=here.with_name(script), target=f"/{script}"),
        Mount(source=here.parents[2] / "pipeline" / "inside", target="/torchyard/pipeline/inside"),
    )
    lines: list[str] = []
    job = Job(
        image=trainer.digest,
        command=("/opt/venv/bin/python", f"/{script}"),
        limits=Limits(memory=1024, cpus=1, pids=64),
        mounts=mounts,
        env={"PYTHONPATH": "/torchyard"},
    )
    engine.run(job, on_line=lines.append)
    assert lines[-1] == "held"


def test_a_frozen_branch_is_refused_with_its_counter_example_and_follows_the_archive_once_accepted(
    engine: DockerEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    planted = _planted("y = self.linear(x)\nif y.sum() > 100:\n    y = -y\nreturn y", "trace", tmp_path)
    told = r"(?s)model\.py:13: `if y\.sum\(\) > 100:`.*For .* the traced program answers .*, and the model .*ACCEPT"
    with pytest.raises(ExportError, match=told.replace("ACCEPT", "--accept-frozen-branch REASON")):
        export(planted, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")

    reason = "no sensor gives more than 1"
    archive = export(
        planted, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out", decided=Decided(accepted=reason)
    )

    assert (archive.evidence.method, archive.evidence.accepted) == ("trace", reason)
    assert "frozen-branch" in [finding.rule for finding in archive.evidence.findings]
    findings = check(archive.file.path, runtime=runtime.digest, engine=engine).findings
    (finding,) = [finding for finding in findings if finding.rule == "frozen-branch"]
    assert (finding.level, reason in finding.message) == ("warning", True)


def test_weights_that_are_not_finite_are_refused(
    engine: DockerEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    planted = _planted("return self.linear(x)", "script", tmp_path)
    save_file(
        {"linear.weight": np.array([[2, np.nan]], np.float32), "linear.bias": np.ones(1, np.float32)},
        planted.weights.path,
    )
    broken = dataclasses.replace(planted, weights=File.of(planted.weights.path))
    with pytest.raises(ExportError, match=r"The weight `linear\.weight` has 1 of 2 values that are not finite"):
        export(broken, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")


def _declaring(archive: Archive, **changes: object) -> TrainedModel:
    return dataclasses.replace(archive.trained, spec=dataclasses.replace(archive.trained.spec, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((Tensor(name="length", datatype="FP32", shape=(-1, 4)),), r"forward\(\) takes \(lengths\).*inputs \(length\)"),
        (
            (Tensor(name="lengths", datatype="FP32", shape=(-1, 5)),),
            r"The held-out split gives the input `lengths` as FP32 \[1, 4\]; model\.yaml declares FP32 \[-1, 5\]",
        ),
    ],
)
def test_inputs_that_are_not_what_is_declared_are_refused(
    engine: DockerEngine,
    trainer: Image,
    runtime: Image,
    tiny_archive: Archive,
    tmp_path: Path,
    inputs: tuple[Tensor, ...],
    message: str,
) -> None:
    with pytest.raises(ExportError, match=message):
        export(_declaring(tiny_archive, inputs=inputs), trainer=trainer, runtime=runtime, engine=engine, out=tmp_path)


def test_a_fixed_batch_is_sampled_as_declared(
    engine: DockerEngine, trainer: Image, runtime: Image, tiny_archive: Archive, tmp_path: Path
) -> None:
    fixed = _declaring(
        tiny_archive,
        inputs=(Tensor(name="lengths", datatype="FP32", shape=(2, 4)),),
        outputs=(
            Tensor(name="logits", datatype="FP32", shape=(2, 3)),
            Tensor(name="species", datatype="INT64", shape=(2,)),
        ),
    )
    archive = export(fixed, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path)
    samples = load_file(archive.samples.path)
    assert {value.shape for name, value in samples.items() if "lengths" in name} == {(2, 4)}


def test_an_interrupted_export_leaves_the_last_one_whole(
    engine: DockerEngine, trainer: Image, runtime: Image, tiny_archive: Archive, tmp_path: Path
) -> None:
    class Stopped(DockerEngine):
        def __init__(self) -> None:
            self.__dict__.update(engine.__dict__)

        def run(self, job: Job, *, on_line: Callable[[str], None]) -> None:
            super().run(job, on_line=on_line)
            raise KeyboardInterrupt

    export(tiny_archive.trained, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path)
    before = {path.name: File.of(path) for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        export(
            _declaring(tiny_archive, tolerance=Tolerance(absolute=1, relative=1)),
            trainer=trainer,
            runtime=runtime,
            engine=Stopped(),
            out=tmp_path,
        )
    assert {path.name: File.of(path) for path in tmp_path.iterdir()} == before
