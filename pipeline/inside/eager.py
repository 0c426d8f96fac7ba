"""How long the trained model and its archive take in Python's torch, in turns: what a served one is compared with."""

import time
from pathlib import Path
from typing import Any

import torch

from pipeline.inside import samples, source
from pipeline.inside.order import MODEL, answer

FILES = Path("/torchyard/files")
# Turns are short beside the seconds in which a shared machine gets faster or slower. The first runs of a turn find
# cold caches, whichever turn it is, and are not counted.
_TURN = 10
_LEAD = 3


def main(order: dict[str, Any], out: Path) -> dict[str, Any]:  # noqa: ARG001 (every script is given it)
    """Seconds of so many runs of sample 0 by the model and by the archive, optimised after loading."""
    torch.set_num_threads(order["threads"])
    source.load_operators()
    model = source.trained(source.load(MODEL), order["params"], FILES / "weights.safetensors")
    archive = torch.jit.optimize_for_inference(torch.jit.load(str(FILES / "model.pt")).eval())
    first = samples.stored(FILES / "samples.safetensors", order["contract"])[0]
    seconds: dict[str, list[float]] = {"eager": [], "archive": []}
    with torch.inference_mode():
        for _ in range(-(-order["runs"] // _TURN)):
            for name, call in (("eager", model), ("archive", archive)):
                for run in range(-_LEAD, _TURN):
                    started = time.perf_counter()
                    call(*first.inputs)
                    if run >= 0:
                        seconds[name].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    answer(main)
