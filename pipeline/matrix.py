"""Every archive in build/ against every runtime image that the engine has, as a table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import File, Finding
from pipeline.check import examine, facts_of
from pipeline.engine import LABEL, Engine
from pipeline.errors import CheckError, RecordError

# A runtime says for which device it is; a serving image made from one says so, too, and which archive it holds.
_RUNTIME = f"{LABEL}.device"
_SERVING = f"{LABEL}.archive.digest"
_OPERATOR = re.compile(r"\b\w+::\w+(?:\.\w+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What was found: `cells` has a row for each of `models` and in it a cell for each of `runtimes`.

    A cell is `ok`, or the rule of the first error with the operator that it is about.
    """

    models: tuple[str, ...]
    runtimes: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def lines(self) -> tuple[str, ...]:
        """The table as text, its columns aligned."""
        rows = [("model", *self.runtimes)]
        rows += [(model, *cells) for model, cells in zip(self.models, self.cells, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = (zip(row, widths, strict=True) for row in rows)
        return tuple("  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in padded)


def matrix(build: Path, *, engine: Engine, load: bool = False) -> Matrix:
    """Compares the archives under `build` with the runtime images; with `load` they are loaded and replayed, too.

    Raises:
        RecordError: there is no archive, or no runtime image.
    """
    archives = sorted(build.glob("*/export/model.pt"))
    if not archives:
        raise RecordError(f"{build} holds no archive (NAME/export/model.pt). Run `inv export --model NAME` first.")
    runtimes = _runtimes(engine)
    if not runtimes:
        raise RecordError("The engine has no torchscript-runtime image. Build it with `inv images`.")
    columns = [_column(archives, runtime, engine=engine, load=load) for runtime in runtimes]
    return Matrix(
        models=tuple(path.parts[-3] for path in archives),
        runtimes=runtimes,
        cells=tuple(zip(*columns, strict=True)),
    )


def _runtimes(engine: Engine) -> tuple[str, ...]:
    """The tags of the runtime images, without the serving images made from them."""
    serving = set(engine.tags(_SERVING))
    return tuple(tag for tag in engine.tags(_RUNTIME) if tag not in serving)


def _column(archives: Sequence[Path], runtime: str, *, engine: Engine, load: bool) -> tuple[str, ...]:
    try:
        image, facts = facts_of(runtime, engine=engine)
    except CheckError:
        return ("no-facts",) * len(archives)
    found = (examine(File.of(path), image, facts, engine=engine, load=load)[0] for path in archives)
    return tuple(map(_cell, found))


def _cell(findings: Sequence[Finding]) -> str:
    error = next((finding for finding in findings if finding.level == "error"), None)
    if error is None:
        return "ok"
    operator = _OPERATOR.search(error.message)
    return f"{error.rule} {operator.group()}" if operator else error.rule
