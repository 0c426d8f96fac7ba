"""How long the trained model takes in Python's torch, before it was exported: what a served one is compared to."""

import time
from pathlib import Path
from typing import Any

import torch

from pipeline.inside import samples, source
from pipeline.inside.order import MODEL, answer

WEIGHTS = Path("/torchyard/weights.safetensors")
SAMPLES = Path("/torchyard/samples.safetensors")
_LEAD = 5


def main(order: dict[str, Any], out: Path) -> dict[str, Any]:  # noqa: ARG001 (every script is given it)
    """Seconds of so many runs of sample 0, after some that are not counted."""
    torch.set_num_threads(order["threads"])
    model = source.trained(source.load(MODEL), order["params"], WEIGHTS)
    first = samples.stored(SAMPLES, order["contract"])[0]
    seconds = []
    with torch.inference_mode():
        for _ in range(_LEAD + order["runs"]):
            started = time.perf_counter()
            model(*first.inputs)
            seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[_LEAD:]}


if __name__ == "__main__":
    answer(main)
