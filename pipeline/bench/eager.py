"""Eager PyTorch: what a model costs before anything is done about it."""

import statistics
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.artifacts import ServingImage
from pipeline.engine import Engine, Mount
from pipeline.errors import EngineError
from pipeline.workbench import Workbench

_RUNS = 40


class Eager:
    """The trained model and its archive in Python's torch, in turns, with the threads that the server has."""

    def __init__(self, image: ServingImage, *, engine: Engine, out: Path) -> None:
        """Raises EngineError when the image that trained the model is gone."""
        spec, trained = image.archive.trained.spec, image.archive.trained
        trainer = engine.find(trained.trainer)
        if trainer is None:
            raise EngineError(
                f"{trained.trainer}: the image that trained {spec.name} is gone. Make it with `inv images`."
            )
        limits = replace(spec.training.limits, cpus=spec.serving.cpus)
        self._workbench = Workbench(
            spec=replace(spec, training=replace(spec.training, limits=limits)),
            trainer=trainer,
            engine=engine,
            out=out,
            error=EngineError,
            ops=trained.ops,
        )
        files = (trained.weights, image.archive.file, image.archive.samples)
        self._mounts = tuple(Mount(source=file.path, target=f"/torchyard/files/{file.path.name}") for file in files)
        self._order = {
            "contract": {kind: [asdict(t) for t in getattr(spec, kind)] for kind in ("inputs", "outputs")},
            "params": spec.params,
            "runs": _RUNS,
            "threads": self._workbench.threads,
        }

    def run(self) -> dict[str, float]:
        """Medians of sample 0 in milliseconds: `eager` fp32, and its `archive`, optimised after loading."""
        # Threads wait at barriers as they do in the server, which is what counts most on a machine that is not idle.
        found = self._workbench.run("eager", self._order, mounts=self._mounts, env={"GOMP_SPINCOUNT": "1000"})
        return {name: statistics.median(seconds) * 1e3 for name, seconds in found.items()}
