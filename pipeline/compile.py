"""Compiles a model's own operators (ops/*.cpp in its folder) in the toolchain: a library to train and serve with."""

from pathlib import Path

from pipeline.artifacts import File, Limits, ModelSpec
from pipeline.engine import Engine, Image
from pipeline.errors import CompileError
from pipeline.workbench import Workbench

# What g++ needs for torch's headers; a model's own limits are for its training.
_LIMITS = Limits(memory=3072, cpus=1, pids=64)
_OTHER_SOURCES = {".c", ".cc", ".cu", ".cxx"}


def operator_sources(spec: ModelSpec) -> tuple[File, ...]:
    """Every file in the model's folder ops/; most models have none."""
    return tuple(file for file in spec.sources if file.path.is_relative_to(spec.folder / "ops"))


def compile_operators(spec: ModelSpec, *, toolchain: Image, engine: Engine, out: Path) -> File:
    """Writes ops.so into `out`: for the CPU, linked against torch_cpu and c10 alone. Equal sources give equal bytes.

    Raises:
        CompileError: there is nothing to compile or the compiler refuses; the message names file and line.
    """
    names = [file.path.relative_to(spec.folder / "ops").as_posix() for file in operator_sources(spec)]
    others = [name for name in names if Path(name).suffix in _OTHER_SOURCES]
    sources = [f"ops/{name}" for name in names if "/" not in name and name.endswith(".cpp")]
    if others or not sources:
        raise CompileError(
            f"{spec.folder / 'ops'}: holds {', '.join(others or names)}, and only ops/*.cpp is compiled (for the CPU). "
            "Rename or move what defines operators, or remove the folder."
        )
    bench = Workbench(spec=spec, trainer=toolchain, engine=engine, out=out, error=CompileError, granted=_LIMITS)
    bench.run("compile", {"sources": sources})
    return File.of(out / "ops.so")
