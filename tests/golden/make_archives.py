"""Makes the archives in this folder, and runtime.json, the facts of a runtime that has what the good ones need.

Run it where torch and torchvision are, from the root of the repository:

    docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/src" -w /src \
        -e PYTHONPATH=/src -e PYTHONHASHSEED=0 --entrypoint /opt/venv/bin/python \
        pytorch-cuda:v2.8 tests/golden/make_archives.py
"""

# torch is not on the host, so to mypy its Module is of any type.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False
import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import torch
import torchvision  # noqa: F401 (registers torchvision::nms)
from torch import Tensor, nn

from pipeline.inside.operators import needed
from pipeline.inside.rewrite import rewrite

HERE = Path(__file__).parent
# Declared and nowhere implemented: what an archive asks for whose library was left behind.
ACME = torch.library.Library("acme", "DEF")
ACME.define("scale(Tensor x, float by) -> Tensor")


class Small(nn.Module):
    """Layers that behave differently in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.25)
        self.last = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.conv(image)))).flatten(1))


class Language(nn.Module):
    """Loops, dicts, strings and an attribute that Python's grammar knows as a keyword and TorchScript's does not."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"lambda": nn.Linear(2, 2)})

    def forward(self, x: Tensor, words: list[str]) -> tuple[dict[str, int], Tensor]:
        counts: dict[str, int] = {}
        for word in words:
            counts[word.lower()] = counts.get(word, 0) + 1
        if float(x.sum()) > 0 and len(words) > 1:
            raise ValueError(f"torch.nothing(ops.none.such()) of {len(words)}")
        for part in self.parts.values():
            x = part(x)
        return counts, x[:, 0:1].to(torch.float32)


class Operators(nn.Module):
    """Operators that other libraries register."""

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        kept = torch.ops.torchvision.nms(boxes, scores, 0.5)
        return torch.ops.acme.scale(boxes[kept], 2.0)


class Boxes(nn.Module):
    """One operator that a runtime without torchvision lacks."""

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return torch.ops.torchvision.nms(boxes, scores, 0.5)


class Placed(nn.Module):
    """A device that is written into the code."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros([1], device="cuda:0").to("cpu")


class Driven(nn.Module):
    """Dropout whose flag is left at its default, True, and attention that drops at all times."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, 0.5)
        return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.25)


class Moved(nn.Module):
    """A device that is written into the code as a method's name."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cuda().relu()


class Endless(nn.Module):
    """What is run on loading does not end."""

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        n, training = state
        while n > 0:
            n = n * 3 % 7
        self.training = training

    def forward(self, x: Tensor) -> Tensor:
        return x


def twice(x: Tensor) -> Tensor:
    """A function, which has no training mode and yet an attribute of this name when saved."""
    return x * 2


def main() -> None:
    """Writes every archive anew."""
    torch.manual_seed(0)
    image = torch.rand(2, 1, 4, 4)
    traced = torch.jit.freeze(torch.jit.trace(Small().eval(), image))
    _save(traced, "traced", contract=_contract(traced))
    torch.jit.save(torch.jit.script(Language().eval()), str(HERE / "scripted.pt"))
    _save(torch.jit.script(twice), "function")
    _save(torch.jit.script(Small().train()), "training")
    _save(torch.jit.trace(Small().train(), image, check_trace=False), "baked-in")
    _save(torch.jit.script(Operators().eval()), "operators")
    _save(torch.jit.script(Boxes().eval()), "boxes")
    _save(torch.jit.script(Placed().eval()), "placed")
    _save(torch.jit.script(Driven().eval()), "driven")
    _save(torch.jit.script(Moved().eval()), "moved")
    _save(torch.jit.script(Endless().eval()), "endless")
    _save(torch.jit.optimize_for_inference(torch.jit.script(Small().eval())), "optimized")
    torch.save(Small().eval(), HERE / "pickled.pt")
    (HERE / "runtime.json").write_text(json.dumps(_facts(), indent=1) + "\n", encoding="utf-8")


def _contract(module: torch.jit.ScriptModule) -> str:
    contract = {
        "schema": 1,
        "name": "small",
        "version": "1",
        "description": "",
        "license": "Apache-2.0",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 4, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
        "tolerance": {"absolute": 1e-5, "relative": 1e-5},
        "method": "trace",
        "operators": needed(module),
        "producer": {"torch": torch.__version__, "python": "3.13", "torchyard": "0.1.0"},
        "metrics": {},
        "samples": {"sha256": hashlib.sha256(b"").hexdigest(), "size": 0, "count": 1},
    }
    return json.dumps(contract, sort_keys=True, separators=(",", ":"))


def _save(module: torch.jit.ScriptModule | torch.jit.ScriptFunction, name: str, contract: str | None = None) -> None:
    extra = {"contract.json": contract} if contract else {}
    written = io.BytesIO()
    torch.jit.save(module, written, _extra_files=extra)
    rewrite(written, HERE / f"{name}.pt")


def _facts() -> dict[str, object]:
    """Every overload of the operators that the archives name, custom ones excepted, and all upgraders."""
    names: set[str] = set()
    for path in HERE.rglob("*.pt"):
        with zipfile.ZipFile(path) as archive:
            code = b"\n".join(archive.read(name) for name in archive.namelist() if name.endswith(".py")).decode()
        names |= {f"aten::{name}" for name in re.findall(r"\btorch\.(\w+)\(", code)}
        names |= {f"prim::{name}" for name in re.findall(r"\bops\.prim\.(\w+)\(", code)}
    schemas = {str(schema) for schema in torch._C._jit_get_all_schemas()}
    kept = sorted(schema for schema in schemas if re.split(r"[.(]", schema)[0] in names)
    changes = torch._C._get_operator_version_map()
    upgraders = sorted([entry.bumped_at_version, entry.old_schema] for name in changes for entry in changes[name])
    return {
        "torch": "2.8.0",
        "device": "cpu",
        "archive_versions": [1, 10],
        "operators": kept,
        "upgraders": upgraders,
        "classes": [],
    }


if __name__ == "__main__":
    main()
