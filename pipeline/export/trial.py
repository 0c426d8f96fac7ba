"""Candidates in the runtime image: whether they answer as the trained model did, and how long they take."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cattrs.errors import BaseValidationError

from pipeline import records
from pipeline.artifacts import Batching, Chosen, Limits, ModelSpec, ShapeProfile
from pipeline.engine import Engine, Image, Job, Mount
from pipeline.errors import ContainerFailed, ExportError

_PYTHON = "/usr/bin/python3.13"
# Memory for the runtime itself in MiB; beside it, four times each archive: as read, loaded, optimised, and its values.
_SPARE = 1024
_REBUILD = "Build the runtime again with `inv images`; if that does not help, this is a fault in Torchyard."


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Jobs in a runtime image over the candidates in `folder`, with the cores and threads of serving.

    What they are to come to is `chosen` where that is known, and measured where it is not.
    """

    spec: ModelSpec
    runtime: Image
    engine: Engine
    folder: Path
    chosen: Chosen | None = None

    def has_bf16(self) -> bool:
        """Whether the CPU that the runtime sees has instructions for bf16."""
        return bool(self._report("server.trial", ())["bf16"])

    def run(self, names: Sequence[str]) -> dict[str, Any]:
        """For each candidate its deviations in the runtime and its p50, all measured in turns, or why it is refused.

        Raises:
            ExportError: the job failed.
        """
        return dict(self._report("server.trial", [self.folder / name for name in names])["candidates"])

    def profile(self, candidate: Path) -> tuple[ShapeProfile, ...]:
        """How the first runs of each input shape of a candidate go.

        Raises:
            ExportError: the job failed.
        """
        report = self._report("server.profile", [candidate])
        try:
            profile = records.structured(report["shapes"], tuple[ShapeProfile, ...])
        except BaseValidationError as error:
            raise ExportError(f"{self.spec.name}: the profile cannot be read ({error!r:.200}). {_REBUILD}") from error
        runs = self.chosen.runs if self.chosen else {}
        return tuple(replace(shape, runs=runs.get(shape.sample, shape.runs)) for shape in profile)

    def together(self, candidate: Path) -> Batching:
        """How requests to a candidate are answered together, and why, by what model.yaml asks for, what is proven, and
        what is chosen already.

        Raises:
            ExportError: the job failed, or model.yaml asks for batches of a model that has to answer one by one.
        """
        wish = self.spec.batching
        if wish.max_size == 1:
            off = "model.yaml turns it off"
            return Batching(max_size=1, max_delay_ms=0.0, because=off, row_ms={}, in_any_company=False)
        report = self._report("server.together", [candidate], "--memory", str(self.spec.serving.memory))
        size, because = int(report["max_size"]), str(report["because"])
        if self.chosen and report["possible"]:
            size, because = self.chosen.batch_size, "chosen before, and not by what is measured now"
        if wish.max_size:
            if not report["possible"]:
                raise ExportError(
                    f"{self.spec.name}: model.yaml asks for batches of {wish.max_size}, and requests have to be "
                    f"answered one by one: {because}. Take `batching` out of model.yaml, or change forward()."
                )
            size, because = wish.max_size, f"model.yaml asks for it; {because}"
        return Batching(
            max_size=size,
            max_delay_ms=wish.max_delay_ms if size > 1 else 0.0,
            because=because,
            row_ms={int(rows): float(each) for rows, each in report["row_ms"].items()},
            in_any_company=bool(report["possible"]),
        )

    def _report(self, module: str, folders: Sequence[Path], *options: str) -> dict[str, Any]:
        """Runs a module of the server over candidates; the JSON object that it prints last."""
        lines: list[str] = []
        targets = [f"/candidates/{folder.name}" for folder in folders]
        job = Job(
            image=self.runtime.digest,
            command=(_PYTHON, "-m", module, *targets, *options),
            limits=self._limits(folders),
            mounts=tuple(
                Mount(source=folder.absolute(), target=target) for folder, target in zip(folders, targets, strict=True)
            ),
        )
        try:
            self.engine.run(job, on_line=lines.append)
        except ContainerFailed as error:
            raise ExportError(f"{self.spec.name}: in the runtime image, {error}") from error
        for line in reversed(lines):
            with suppress(ValueError):
                report = json.loads(line)
                if isinstance(report, dict):
                    return report
        quoted = "".join(f"\n  {line[:300]}" for line in lines[-20:])
        raise ExportError(f"{self.spec.name}: {module} in the runtime image reported nothing. {_REBUILD}{quoted}")

    def _limits(self, folders: Sequence[Path]) -> Limits:
        size = sum((folder / "model.pt").stat().st_size for folder in folders)
        cpus = min(self.spec.serving.cpus, self.engine.info().cpus)
        return replace(self.spec.serving, memory=_SPARE + 4 * size // 2**20, cpus=cpus)
