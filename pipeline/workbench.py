"""How a step has a script of pipeline/inside do its work: in the trainer image, cut off from everything else."""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import File, Limits, ModelSpec, sha256_of
from pipeline.engine import Engine, Image, Job, Mount
from pipeline.errors import ContainerFailed, PipelineError
from pipeline.progress import say

INSIDE = Path(__file__).resolve().parent / "inside"


def code_of(*scripts: str) -> dict[str, str]:
    """The SHA-256 of scripts of pipeline/inside and of all that they import there, by path: what their results rest on.

    A change to how models are exported is no reason to train them again.
    """
    found: dict[str, str] = {}
    waiting = [INSIDE / f"{script}.py" for script in scripts]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(INSIDE).as_posix()
        if name not in found:
            found[name] = sha256_of(path)
            waiting += _imported(path)
    return found


def _imported(path: Path) -> Iterator[Path]:
    """The files of pipeline/inside that a file imports from, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline.inside"):
            module = INSIDE.joinpath(*str(node.module).split(".")[2:])
            for each in (module, *(module / alias.name for alias in node.names)):
                yield from (file for file in (each.with_suffix(".py"), each / "__init__.py") if file.is_file())


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """Where scripts work on one model. They see its folder and write to `out`; their failures are raised as `error`.

    `ops` is the library of the model's own operators, where it has some, and `granted` what scripts may use instead
    of what model.yaml grants to training.
    """

    spec: ModelSpec
    trainer: Image
    engine: Engine
    out: Path
    error: type[PipelineError]
    ops: File | None = None
    granted: Limits | None = None

    @property
    def limits(self) -> Limits:
        """What a script may use: what model.yaml grants to training, but no more cores than there are."""
        granted = self.granted or self.spec.training.limits
        return replace(granted, cpus=min(granted.cpus, self.engine.info().cpus))

    @property
    def threads(self) -> int:
        """How many threads torch computes with. The last bits of a result depend on it."""
        return max(1, int(self.limits.cpus))

    def run(
        self,
        script: str,
        order: Mapping[str, Any],
        *,
        mounts: tuple[Mount, ...] = (),
        env: Mapping[str, str] | None = None,
        gpus: bool = False,
    ) -> dict[str, Any]:
        """Runs pipeline/inside/`script`.py, with `env` on top of its environment; shows its lines, returns its result.

        Raises:
            PipelineError: an `error`, when the operators' library is not the one that was compiled, the script refused
                the model or its container failed.
        """
        if self.ops and not self.ops.is_intact():
            raise self.error(f"{self.ops.path}: is gone, or not what was compiled. Run `inv compile --force` for it.")
        self.out.mkdir(parents=True, exist_ok=True)
        result = self.out / "result.json"
        result.unlink(missing_ok=True)
        job = Job(
            image=self.trainer.digest,
            command=("python", "-m", f"pipeline.inside.{script}"),
            limits=self.limits,
            mounts=(
                Mount(source=INSIDE, target="/torchyard/pipeline/inside"),
                Mount(source=self.spec.folder, target="/torchyard/model"),
                Mount(source=self.out, target="/torchyard/out", writable=True),
                *((Mount(source=self.ops.path, target="/torchyard/ops.so"),) if self.ops else ()),
                *mounts,
            ),
            env={**self._environment(order), **(env or {})},
            gpus=gpus,
        )
        try:
            self.engine.run(job, on_line=lambda line: say(f"  {line}"))
            found: dict[str, Any] = json.loads(result.read_bytes())
        except FileNotFoundError:
            raise self.error(
                f"{self.spec.name}: the process ended well, but before its work was done. Does model.py end it itself, "
                "by sys.exit() or os._exit()?"
            ) from None
        except ContainerFailed as failure:
            raise self.error(f"{self.spec.name}: {_reason(result, failure)}") from failure
        finally:
            result.unlink(missing_ok=True)
        return found

    def _environment(self, order: Mapping[str, Any]) -> dict[str, str]:
        """The order, what makes equal inputs give equal bytes, and threads that do not burn their quota in waiting.

        Threads that spin at OpenMP's barriers make training several times slower as soon as other work wants the cores.
        cuBLAS repeats its results only with a fixed workspace: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        """
        return {
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "HOME": "/tmp",  # noqa: S108 (inside the container)
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "passive",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": "/torchyard",
            "TORCHYARD_ORDER": json.dumps(order, sort_keys=True),
        }


def _reason(result: Path, failure: ContainerFailed) -> str:
    """What the script refused, or else how its container failed."""
    try:
        return str(json.loads(result.read_bytes())["refused"])
    except FileNotFoundError:
        return str(failure)
