"""What the toolchain's container is given for a model's own operators, and how a refusal reads."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import ModelSpec
from pipeline.compile import compile_operators, operator_sources
from pipeline.engine import Image, Job
from pipeline.errors import CompileError, ContainerFailed
from tests.unit import values
from tests.unit.fake_engine import FakeEngine


@pytest.fixture
def toolchain(engine: FakeEngine) -> Image:
    return engine.add("pytorch-cuda:v2.8-toolchain")


def _spec(folder: Path, *names: str) -> ModelSpec:
    """The perceptron with these files in its folder."""
    spec = values.model_spec(folder)
    return dataclasses.replace(
        spec, sources=(*spec.sources, *(values.file(spec.folder / name, name) for name in names))
    )


def _compiles(job: Job, on_line: Callable[[str], None]) -> None:
    (out,) = (mount.source for mount in job.mounts if mount.writable)
    (out / "ops.so").write_text("library")
    (out / "result.json").write_text("{}")
    on_line("g++ ops/scale.cpp")


def test_the_toolchain_sees_the_model_and_writes_the_library(
    engine: FakeEngine, toolchain: Image, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, "ops/scale.cpp", "ops/scale.h", "model.yaml")
    engine.on_run = _compiles

    library = compile_operators(spec, toolchain=toolchain, engine=engine, out=tmp_path / "out")

    (job,) = engine.jobs
    assert job.image == toolchain.digest
    assert job.command == ("python", "-m", "pipeline.inside.compile")
    assert json.loads(job.env["TORCHYARD_ORDER"]) == {"sources": ["ops/scale.cpp"]}
    assert {mount.target: (mount.source.name, mount.writable) for mount in job.mounts} == {
        "/torchyard/pipeline/inside": ("inside", False),
        "/torchyard/model": ("tiny", False),
        "/torchyard/out": ("out", True),
    }
    assert job.limits.memory > spec.training.limits.memory
    assert (library.path, library.is_intact()) == (tmp_path / "out/ops.so", True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ops.so"]


def test_only_what_lies_in_ops_is_a_source_of_operators(tmp_path: Path) -> None:
    spec = _spec(tmp_path, "ops/scale.cpp", "ops/deep/scale.h", "opsy.cpp", "data/ops/a.cpp")
    assert [file.path.name for file in operator_sources(spec)] == ["scale.cpp", "scale.h"]
    assert operator_sources(values.model_spec(tmp_path)) == ()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("ops/scale.h",), "holds scale.h, and only ops/*.cpp is compiled"),
        (("ops/deep/scale.cpp",), "holds deep/scale.cpp, and only ops/*.cpp"),
        (("ops/scale.cpp", "ops/scale.cu", "ops/more.cc"), "holds scale.cu, more.cc, and only ops/*.cpp"),
    ],
)
def test_sources_that_would_be_passed_over_are_refused(
    engine: FakeEngine, toolchain: Image, tmp_path: Path, names: tuple[str, ...], told: str
) -> None:
    with pytest.raises(CompileError) as refused:
        compile_operators(_spec(tmp_path, *names), toolchain=toolchain, engine=engine, out=tmp_path / "out")
    assert told in str(refused.value)
    assert engine.jobs == []


def test_what_the_compiler_says_is_the_message(engine: FakeEngine, toolchain: Image, tmp_path: Path) -> None:
    def refuse(job: Job, _: Callable[[str], None]) -> None:
        (out,) = (mount.source for mount in job.mounts if mount.writable)
        (out / "result.json").write_text(json.dumps({"refused": "ops/scale.cpp:7: expected ';'"}))
        raise ContainerFailed("exit code 1", code=1)

    engine.on_run = refuse
    with pytest.raises(CompileError, match=r"^tiny: ops/scale\.cpp:7: expected ';'$"):
        compile_operators(_spec(tmp_path, "ops/scale.cpp"), toolchain=toolchain, engine=engine, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
