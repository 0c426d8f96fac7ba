"""A model folder that the fake engine can serve."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tests.unit.server.fake_engine import NEEDED

X = np.array([[1.0, -2.5, 3.0]], dtype=np.float32)


def samples(y: NDArray[Any] | None = None) -> bytes:
    """Two samples of `double`, of one and of two rows; `y` replaces the first answer."""
    pairs = ((X, 2 * X if y is None else y), (np.vstack([X, X]), np.vstack([2 * X, 2 * X])))
    tensors = {
        f"{i}/{side}/{name}": value
        for i, (x, answer) in enumerate(pairs)
        for side, name, value in (("input", "x", x), ("output", "y", answer))
    }
    return save(tensors)


def write(
    folder: Path, *, behaviour: str = "double", content: bytes | None = None, library: str = "", **changes: Any
) -> Path:
    """Writes the files of a model into `folder`; `changes` replace what the contract says.

    `library` is the content of a library of operators, which the contract then says are those that `scaled` calls.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt").write_text(behaviour)
    (folder / "samples.safetensors").write_bytes(samples() if content is None else content)
    contract = {
        "schema": 1,
        "name": "tiny",
        "version": "1.0.0",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        "tolerance": {"absolute": 1e-5, "relative": 1e-5},
        "archive": _described(folder / "model.pt"),
        "samples": _described(folder / "samples.safetensors") | {"count": 2},
    }
    if library:
        (folder / "ops.so").write_text(library)
        contract["ops"] = _described(folder / "ops.so") | {"operators": [NEEDED["scaled"]]}
    (folder / "contract.json").write_text(json.dumps(contract | changes))
    return folder


def _described(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
