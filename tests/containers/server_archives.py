"""Runs in the training image: writes the archives that the engine's contract names, and a model folder to serve.

/library has the operator acme::scale.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class Double(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Pair(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x * 2


class Dictionary(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"double": x * 2, "same": x}


class Rows(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor(x.size(0))


class Fails(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > -1:
            raise RuntimeError("out of cheese")
        return x


class Number(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> int:
        return int(x.size(0))


class Scaled(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.acme.scale(x, 2.0)


class Slow(nn.Module):  # type: ignore[misc]
    """2 * x after some tenths of a second on one core; raises when x is 13, and answers NaN when x is 14."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x == 13).any()):
            raise RuntimeError("unlucky number")
        work = torch.ones(384, 384)
        for _ in range(40):
            work = (work @ work).clamp(max=1.0)
        return torch.where(x == 14, float("nan"), x * 2) + 0 * work.sum()


def _described(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def main(out: Path) -> None:
    torch.ops.load_library("/library")
    for module in (Double, Pair, Dictionary, Rows, Fails, Number, Scaled):
        torch.jit.script(module()).save(str(out / module.__name__.lower()))
    (out / "broken").write_bytes((out / "double").read_bytes()[:-100])

    folder = out / "slow"
    folder.mkdir()
    torch.jit.script(Slow().eval()).save(str(folder / "model.pt"))
    inputs = [torch.tensor([[1.0, -2.5, 3.0]]), torch.ones(2, 3)]
    samples = {f"{i}/input/x": x for i, x in enumerate(inputs)} | {f"{i}/output/y": x * 2 for i, x in enumerate(inputs)}
    save_file(samples, str(folder / "samples.safetensors"))
    contract = {
        "schema": 1,
        "name": "slow",
        "version": "1.0.0",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        "tolerance": {"absolute": 1e-5, "relative": 1e-5},
        "archive": _described(folder / "model.pt"),
        "samples": _described(folder / "samples.safetensors") | {"count": 2},
    }
    (folder / "contract.json").write_text(json.dumps(contract))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
