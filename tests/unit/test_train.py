"""What the training container is given, and what becomes of what it leaves; training itself is a container test."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import ModelSpec, Tolerance, sha256_of
from pipeline.engine import Image, Info, Job
from pipeline.errors import ContainerFailed, TrainError
from pipeline.train import train
from tests.unit.fake_engine import FakeEngine
from tests.unit.values import file, model_spec

OnLine = Callable[[str], None]
DATA = {"training": {"items": 8, "sha256": "a" * 64}, "held-out": {"items": 2, "sha256": "b" * 64}}


@pytest.fixture
def trainer(engine: FakeEngine) -> Image:
    return engine.add("pytorch-cuda:v2.8")


def _leaves(result: dict[str, Any], *, fails: bool = False) -> Callable[[Job, OnLine], None]:
    """A container that writes weights, a checkpoint and a result."""

    def run(job: Job, on_line: OnLine) -> None:
        (out,) = (mount.source for mount in job.mounts if mount.writable)
        (out / "weights.safetensors").write_text("weights")
        (out / "checkpoint.pt").write_text("checkpoint")
        (out / "result.json").write_text(json.dumps(result))
        on_line("epoch 1/2")
        if fails:
            raise ContainerFailed("`python` ended with exit code 1:\n  last line", code=1)

    return run


def _order(engine: FakeEngine) -> dict[str, Any]:
    order: dict[str, Any] = json.loads(engine.jobs[-1].env["TORCHYARD_ORDER"])
    return order


def test_the_container_sees_the_model_and_writes_to_one_folder(
    engine: FakeEngine, trainer: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = model_spec(tmp_path)
    engine.on_run = _leaves({"metrics": {"accuracy": 0.75}, "data": DATA})

    trained = train(spec, trainer=trainer, engine=engine, out=tmp_path / "out")

    (job,) = engine.jobs
    assert job.image == trainer.digest
    assert job.command == ("python", "-m", "pipeline.inside.train")
    assert {mount.target: (mount.source.name, mount.writable) for mount in job.mounts} == {
        "/torchyard/pipeline/inside": ("inside", False),
        "/torchyard/model": ("tiny", False),
        "/torchyard/out": ("out", True),
    }
    assert job.limits == spec.training.limits
    assert (job.env["PYTHONPATH"], job.env["PYTHONHASHSEED"], job.env["OMP_NUM_THREADS"]) == ("/torchyard", "0", "1")
    assert not job.gpus
    order = _order(engine)
    assert order.pop("key").startswith("sha256:")
    assert order == {"seed": 0, "epochs": 2, "batch_size": 8, "params": {"hidden": 8, "names": ["a", "b"]}}
    assert trained.metrics == {"accuracy": 0.75}
    assert trained.trainer == trainer.digest
    assert trained.weights.sha256 == sha256_of(tmp_path / "out" / "weights.safetensors")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["weights.safetensors"]
    assert "  epoch 1/2\n" in capsys.readouterr().out


def test_operators_of_the_model_are_at_hand_and_decide_the_weights(
    engine: FakeEngine, trainer: Image, tmp_path: Path
) -> None:
    spec, ops = model_spec(tmp_path), file(tmp_path / "compile/ops.so", "library")
    engine.on_run = _leaves({"metrics": {"accuracy": 1.0}, "data": DATA})
    plain = train(spec, trainer=trainer, engine=engine, out=tmp_path / "out")
    key = _order(engine)["key"]
    trained = train(spec, trainer=trainer, engine=engine, out=tmp_path / "out", ops=ops)

    mounts = {mount.target: (mount.source, mount.writable) for mount in engine.jobs[-1].mounts}
    assert mounts["/torchyard/ops.so"] == (ops.path, False)
    assert _order(engine)["key"] != key
    assert (plain.ops, trained.ops) == (None, ops)


def test_a_library_that_changed_since_it_was_compiled_is_not_loaded(
    engine: FakeEngine, trainer: Image, tmp_path: Path
) -> None:
    ops = file(tmp_path / "compile/ops.so", "library")
    ops.path.write_text("swapped")
    with pytest.raises(TrainError, match=r"ops\.so: is gone, or not what was compiled"):
        train(model_spec(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out", ops=ops)
    assert engine.jobs == []


def test_no_more_cores_are_asked_for_than_there_are(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    spec = model_spec(tmp_path)
    limits = dataclasses.replace(spec.training.limits, cpus=64)
    engine.on_run = _leaves({"metrics": {"accuracy": 1.0}, "data": DATA})
    greedy = dataclasses.replace(spec, training=dataclasses.replace(spec.training, limits=limits))
    train(greedy, trainer=trainer, engine=engine, out=tmp_path / "out")
    assert engine.jobs[0].limits.cpus == 2
    assert engine.jobs[0].env["OMP_NUM_THREADS"] == "2"


def test_gpus_are_used_where_the_engine_has_them(tmp_path: Path) -> None:
    class WithGpus(FakeEngine):
        def info(self) -> Info:
            return dataclasses.replace(super().info(), gpus=True)

    engine = WithGpus()
    engine.on_run = _leaves({"metrics": {"accuracy": 1.0}, "data": DATA})
    train(model_spec(tmp_path), trainer=engine.add("pytorch-cuda:v2.8"), engine=engine, out=tmp_path / "out")
    assert engine.jobs[0].gpus


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"accuracy": 0.4999},
            "tiny: accuracy on the held-out split is 0.4999, below the floor of 0.5. .* "
            "train longer, improve model.py, or lower training.floors in model.yaml",
        ),
        ({"accuracy": float("nan")}, "accuracy on the held-out split is nan, below the floor of 0.5"),
        ({"acuracy": 0.9}, "sets a floor for `accuracy`, but `evaluate` in model.py measured acuracy 0.9000"),
        ({}, "measured nothing"),
    ],
)
def test_a_model_below_its_floor_is_refused(
    engine: FakeEngine, trainer: Image, tmp_path: Path, metrics: dict[str, float], message: str
) -> None:
    engine.on_run = _leaves({"metrics": metrics})
    with pytest.raises(TrainError, match=message):
        train(model_spec(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")
    assert (tmp_path / "out" / "checkpoint.pt").exists()


def test_a_floor_that_is_just_reached_is_enough(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    engine.on_run = _leaves({"metrics": {"accuracy": 0.5}, "data": DATA})
    train(model_spec(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")


def test_what_the_script_refused_is_the_message(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    engine.on_run = _leaves({"refused": "model.py has no function `build`."}, fails=True)
    with pytest.raises(TrainError, match=r"^tiny: model.py has no function `build`\.$"):
        train(model_spec(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")


def test_a_model_that_ends_the_process_itself_is_refused(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    engine.on_run = lambda *_: None
    with pytest.raises(TrainError, match=r"^tiny: the process ended well, but before its work was done.*sys\.exit"):
        train(model_spec(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")


def test_the_last_lines_of_a_failed_container_are_in_the_message(
    engine: FakeEngine, trainer: Image, tmp_path: Path
) -> None:
    def crash(_: Job, on_line: OnLine) -> None:
        on_line("about to fail")
        raise ContainerFailed("`python` ended with exit code 139:\n  about to fail", code=139)

    stale = tmp_path / "out" / "result.json"
    stale.parent.mkdir()
    stale.write_text('{"refused": "of an earlier run"}')
    engine.on_run = crash
    with pytest.raises(TrainError, match=r"(?s)tiny: `python` ended with exit code 139:.*about to fail"):
        train(model_spec(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")


def _key(engine: FakeEngine, trainer: Image, spec: ModelSpec, out: Path) -> str:
    engine.on_run = _leaves({"metrics": {"accuracy": 1.0}, "data": DATA})
    train(spec, trainer=trainer, engine=engine, out=out)
    return str(_order(engine)["key"])


def _with_training(spec: ModelSpec, **changes: Any) -> ModelSpec:
    return dataclasses.replace(spec, training=dataclasses.replace(spec.training, **changes))


def _with_code(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(spec, sources=(dataclasses.replace(spec.sources[0], sha256="0" * 64),))


@pytest.mark.parametrize(
    "change",
    [
        _with_code,
        lambda spec: dataclasses.replace(spec, params={"hidden": 9}),
        lambda spec: _with_training(spec, seed=1),
        lambda spec: _with_training(spec, epochs=3),
        lambda spec: _with_training(spec, batch_size=9),
        lambda spec: _with_training(spec, limits=dataclasses.replace(spec.training.limits, cpus=2)),
    ],
    ids=["code", "params", "seed", "epochs", "batch size", "threads"],
)
def test_a_checkpoint_is_of_what_decides_the_weights(
    engine: FakeEngine, trainer: Image, tmp_path: Path, change: Callable[[ModelSpec], ModelSpec]
) -> None:
    spec = model_spec(tmp_path)
    key = _key(engine, trainer, spec, tmp_path / "out")
    assert _key(engine, trainer, spec, tmp_path / "elsewhere") == key
    assert _key(engine, trainer, change(spec), tmp_path / "out") != key


def test_a_checkpoint_of_another_trainer_is_another_one(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    other = engine.add("pytorch-cuda:other", labels={"other": "yes"})
    spec = model_spec(tmp_path)
    assert _key(engine, trainer, spec, tmp_path / "out") != _key(engine, other, spec, tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: dataclasses.replace(spec, description="Other words"),
        lambda spec: dataclasses.replace(spec, tolerance=Tolerance(absolute=1, relative=1)),
        lambda spec: _with_training(spec, floors={}),
        lambda spec: _with_training(spec, limits=dataclasses.replace(spec.training.limits, memory=9999)),
    ],
    ids=["description", "tolerance", "floors", "memory"],
)
def test_a_checkpoint_survives_what_does_not_touch_the_weights(
    engine: FakeEngine, trainer: Image, tmp_path: Path, change: Callable[[ModelSpec], ModelSpec]
) -> None:
    spec = model_spec(tmp_path)
    assert _key(engine, trainer, change(spec), tmp_path / "out") == _key(engine, trainer, spec, tmp_path / "out")
