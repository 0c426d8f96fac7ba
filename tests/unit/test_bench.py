"""What the served archive is compared with: who runs, in which turns, and what is printed of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import ServingImage
from pipeline.bench import bench_eager
from pipeline.engine import Job
from pipeline.errors import EngineError
from tests.unit import values
from tests.unit.fake_engine import FakeEngine


def _image(folder: Path, engine: FakeEngine, *, trainer: str, operators: bool = False) -> ServingImage:
    archive = values.archive(folder, operators=operators)
    archive = replace(archive, trained=replace(archive.trained, trainer=trainer, ops=archive.ops))
    served = engine.add("tiny:1.0.0-cpu")
    return ServingImage(
        tag="tiny:1.0.0-cpu", digest=served.digest, diff_ids=(), device="cpu", runtime="sha256:2", archive=archive
    )


def _running(job: Job, on_line: Callable[[str], None]) -> None:
    """Eager takes 3 ms, the archive 2 and 2.5 ms."""
    if job.command[0] == "python":
        (out,) = (mount.source for mount in job.mounts if mount.writable)
        (out / "result.json").write_text(json.dumps({"eager": [0.003] * 3, "archive": [0.002] * 3}))
    else:
        on_line(json.dumps({"candidates": {"model": {"p50": 2.5}}}))


def test_eager_and_served_take_turns_with_the_same_threads(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.on_run = _running
    trainer = engine.add("pytorch-cuda:v2.8")
    image = _image(tmp_path, engine, trainer=trainer.digest)
    bench_eager(image, engine=engine, build=tmp_path / "build")
    assert [job.image for job in engine.jobs] == [trainer.digest, image.digest] * 5
    assert {job.limits.cpus for job in engine.jobs} == {image.archive.trained.spec.serving.cpus}
    assert json.loads(engine.jobs[0].env["TORCHYARD_ORDER"])["threads"] == 1
    assert engine.jobs[0].env["GOMP_SPINCOUNT"] == "1000"
    assert engine.jobs[1].command[-3:] == ("--runs", "40", "/model")
    printed = capsys.readouterr().out
    assert printed.splitlines()[-4:] == [
        "1 threads each, fp32 contiguous",
        "eager      3.000 ms",
        "archive    2.000 ms  1.50 times as fast, in turns in one process",
        "served     2.500 ms  1.20 times as fast, in turns of containers",
    ]
    kept = json.loads((tmp_path / "build/bench-eager.json").read_text())
    assert kept["p50_ms"] == {"eager": 3.0, "archive": 2.0, "served": 2.5}


def test_a_models_own_operators_are_there_for_eager_too(engine: FakeEngine, tmp_path: Path) -> None:
    engine.on_run = _running
    image = _image(tmp_path, engine, trainer=engine.add("pytorch-cuda:v2.8").digest, operators=True)
    bench_eager(image, engine=engine, build=tmp_path / "build")
    assert "/torchyard/ops.so" in {mount.target for mount in engine.jobs[0].mounts}


def test_without_the_image_that_trained_there_is_nothing_to_compare_with(engine: FakeEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the image that trained tiny is gone"):
        bench_eager(_image(tmp_path, engine, trainer="sha256:gone"), engine=engine, build=tmp_path)
