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


class Lengths(nn.Module):  # type: ignore[misc]
    def forward(self, text: list[str]) -> Tensor:
        return torch.tensor([len(each) for each in text], dtype=torch.int64)


class Echo(nn.Module):  # type: ignore[misc]
    def forward(self, text: list[str]) -> list[str]:
        return text


class Loud(nn.Module):  # type: ignore[misc]
    def forward(self, text: list[str]) -> tuple[list[str], Tensor, str]:
        return [each + "!" for each in text], torch.tensor([len(each) for each in text], dtype=torch.int64), "done"


class Halves(nn.Module):  # type: ignore[misc]
    """The first byte of each string, which is half a character of some."""

    def forward(self, text: list[str]) -> list[str]:
        return [each[:1] for each in text]


class Slow(nn.Module):  # type: ignore[misc]
    """2 * x after some tenths of a second on one core; raises when x is 13, answers NaN when x is 14, takes as good as
    for ever when x is 15, and needs more memory than there is when x is 16."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x == 13).any()):
            raise RuntimeError("unlucky number")
        work = torch.ones(384, 384)
        if bool((x == 16).any()):
            # Of a size that depends on x, since what does not is computed when the archive is loaded.
            return x * torch.ones(x.size(0), 1_000_000_000).sum()
        runs = 40_000_000 if bool((x == 15).any()) else 40
        for _ in range(runs):
            work = (work @ work).clamp(max=1.0)
        return torch.where(x == 14, float("nan"), x * 2) + 0 * work.sum()


class Centred(nn.Module):  # type: ignore[misc]
    """2 * x, less the mean of the rows that are there with it; a row alone has none."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 - (x - x.mean(0)) if x.size(0) > 1 else x * 2


class Convolved(nn.Module):  # type: ignore[misc]
    """Some milliseconds of convolutions, normalisations and sums, as pictures go through them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x) + x
        return x.mean([2, 3])


DATATYPES = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}


class Every(nn.Module):  # type: ignore[misc]
    """Tensors of every datatype as they came, in a dict in another order, and the sum of two numbers."""

    def forward(  # noqa: PLR0917
        self,
        one: Tensor,
        bools: Tensor,
        u8: Tensor,
        u16: Tensor,
        u32: Tensor,
        u64: Tensor,
        i8: Tensor,
        i16: Tensor,
        i32: Tensor,
        i64: Tensor,
        f16: Tensor,
        bf16: Tensor,
        f32: Tensor,
        f64: Tensor,
        other: Tensor,
    ) -> dict[str, Tensor]:
        return {
            "FP64": f64,
            "FP32": f32,
            "BF16": bf16,
            "FP16": f16,
            "sum": one + other,
            "INT64": i64,
            "INT32": i32,
            "INT16": i16,
            "INT8": i8,
            "UINT64": u64,
            "UINT32": u32,
            "UINT16": u16,
            "UINT8": u8,
            "BOOL": bools,
        }


class Patient(nn.Module):  # type: ignore[misc]
    """x after about as many milliseconds on one core."""

    def forward(self, x: Tensor) -> Tensor:
        work = torch.ones(384, 384)
        for _ in range(int(x.max())):
            work = (work @ work).clamp(max=1.0)
        return x + (0 * work.sum()).to(torch.int64)


class Words(nn.Module):  # type: ignore[misc]
    """Each text with an exclamation mark, and its length in bytes; of what begins with "cut:" the first five bytes."""

    def forward(self, text: list[str]) -> tuple[list[str], Tensor]:
        loud: list[str] = []
        lengths: list[int] = []
        for each in text:
            loud.append(each[:5] if each.startswith("cut:") else each + "!")
            lengths.append(len(each))
        return loud, torch.tensor(lengths, dtype=torch.int64)


def _bytes(*texts: str) -> Tensor:
    """As samples keep strings: each its length in 4 bytes, little-endian, and its UTF-8."""
    written = [text.encode() for text in texts]
    return torch.tensor([*b"".join(len(each).to_bytes(4, "little") + each for each in written)], dtype=torch.uint8)


def _described(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def main(out: Path) -> None:
    torch.ops.load_library("/library")
    for module in (Double, Pair, Dictionary, Rows, Fails, Number, Scaled, Lengths, Echo, Loud, Halves):
        torch.jit.script(module()).save(str(out / module.__name__.lower()))
    (out / "broken").write_bytes((out / "double").read_bytes()[:-100])

    rows = {"datatype": "FP32", "shape": [-1, 3]}
    inputs = [torch.tensor([[1.0, -2.5, 3.0]]), torch.ones(2, 3)]
    samples = {f"{i}/input/x": x for i, x in enumerate(inputs)} | {f"{i}/output/y": x * 2 for i, x in enumerate(inputs)}
    _write(out / "slow", Slow(), samples, inputs=[{"name": "x", **rows}], outputs=[{"name": "y", **rows}])

    inputs = [torch.tensor([[1.0, -2.5, 3.0]]), torch.ones(1, 3)]
    samples = {f"{i}/input/x": x for i, x in enumerate(inputs)} | {f"{i}/output/y": x * 2 for i, x in enumerate(inputs)}
    for name, module in (("centred", Centred()), ("doubled", Double())):
        _write(out / name, module, samples, inputs=[{"name": "x", **rows}], outputs=[{"name": "y", **rows}])
    times = {"datatype": "INT64", "shape": [1]}
    samples = {"0/input/x": torch.tensor([1]), "0/output/y": torch.tensor([1])}
    _write(out / "patient", Patient(), samples, inputs=[{"name": "x", **times}], outputs=[{"name": "y", **times}])

    _write_every(out / "every")
    torch.manual_seed(0)
    perceptron = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    inputs = [torch.randn(rows, 10) for rows in (1, 3)]
    samples = {f"{i}/input/x": x for i, x in enumerate(inputs)}
    samples |= {f"{i}/output/y": perceptron(x).detach() for i, x in enumerate(inputs)}
    _write(
        out / "perceptron",
        perceptron,
        samples,
        inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 10]}],
        outputs=[{"name": "y", "datatype": "FP32", "shape": [-1, 5]}],
        batching={"max_size": 64, "max_delay_ms": 0},
    )

    convolved = Convolved().eval()
    inputs = [torch.randn(rows, 3, 64, 64) for rows in (1, 1, 2)]
    samples = {f"{i}/input/x": x for i, x in enumerate(inputs)}
    samples |= {f"{i}/output/y": convolved(x).detach() for i, x in enumerate(inputs)}
    pictures = {"name": "x", "datatype": "FP32", "shape": [-1, 3, 64, 64]}
    means = {"name": "y", "datatype": "FP32", "shape": [-1, 64]}
    _write(out / "convolved", convolved, samples, inputs=[pictures], outputs=[means])

    samples = {
        "0/input/text": _bytes("good film", "日本"),
        "0/output/loud": _bytes("good film!", "日本!"),
        "0/output/length": torch.tensor([9, 6]),
    }
    texts = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("text", "loud")]
    lengths = {"name": "length", "datatype": "INT64", "shape": [-1]}
    _write(out / "words", Words(), samples, inputs=texts[:1], outputs=[texts[1], lengths])


def _write_every(folder: Path) -> None:
    scalar = {"datatype": "FP64", "shape": []}
    tensors = [{"name": name, "datatype": name, "shape": [-1, -1]} for name in DATATYPES]
    samples = {f"0/input/{name}": torch.ones(1, 2).to(dtype) for name, dtype in DATATYPES.items()}
    samples |= {key.replace("input", "output"): value.clone() for key, value in samples.items()}
    samples |= {"0/input/one": torch.tensor(1.0, dtype=torch.float64), "0/input/other": torch.tensor(2.0).double()}
    samples["0/output/sum"] = torch.tensor(3.0, dtype=torch.float64)
    inputs = [{"name": "one", **scalar}, *tensors, {"name": "other", **scalar}]
    _write(folder, Every(), samples, inputs=inputs, outputs=[*tensors, {"name": "sum", **scalar}])


def _write(folder: Path, module: nn.Module, samples: dict[str, Tensor], **tensors: Any) -> None:
    """A model's folder named as the model; `tensors` are the inputs and outputs of its contract."""
    folder.mkdir()
    torch.jit.script(module.eval()).save(str(folder / "model.pt"))
    save_file(samples, str(folder / "samples.safetensors"))
    contract = {
        "schema": 1,
        "name": folder.name,
        "version": "1.0.0",
        "tolerance": {"absolute": 1e-5, "relative": 1e-5},
        "archive": _described(folder / "model.pt"),
        "samples": _described(folder / "samples.safetensors") | {"count": len({key.split("/")[0] for key in samples})},
    }
    (folder / "contract.json").write_text(json.dumps(contract | tensors))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
