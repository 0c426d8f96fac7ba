"""A serving image with one sample, and the load generator's image, in an engine that is none."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from pipeline.alone import alone
from pipeline.artifacts import File, ServingImage
from pipeline.engine import Image
from pipeline.errors import SpecError
from tests.unit import values
from tests.unit.fake_engine import FakeEngine


def image(folder: Path, engine: FakeEngine, *, trainer: str = "", operators: bool = False) -> ServingImage:
    """`values.archive` in an image; its sample is four zeros, for which y is [[1, 2]] within 0.01."""
    archive = values.archive(folder, operators=operators)
    x, y = np.zeros((1, 4), np.float32), np.array([[1, 2]], np.float32)
    archive.samples.path.write_bytes(save({"0/input/x": x, "0/output/y": y}))
    contract = json.loads(archive.contract.path.read_text()) | {"tolerance": {"absolute": 0.01, "relative": 0.0}}
    archive.contract.path.write_text(json.dumps(contract))
    trained = replace(archive.trained, trainer=trainer or engine.add("trainer").digest, ops=archive.ops)
    archive = replace(archive, trained=trained, samples=File.of(archive.samples.path))
    made = engine.add("tiny:1.0.0-cpu", config={"Cmd": ["new"]})
    return ServingImage(
        tag="tiny:1.0.0-cpu", digest=made.digest, diff_ids=(), device="cpu", runtime="sha256:2", archive=archive
    )


def load(engine: FakeEngine) -> Image:
    """The load generator."""
    return engine.add("torchyard-load:v1", config={"Cmd": ["load"]})


def is_held(folder: Path) -> bool:
    """Whether a command has a folder to itself."""
    try:
        with alone(folder, busy=SpecError("busy")):
            return False
    except SpecError:
        return True
