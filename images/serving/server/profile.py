"""`python3.13 -m server.profile DIR`: how long the first runs of each input shape take, and so how many to run early.

Prints one JSON object. The executor profiles the first run of a shape and compiles in the next; what it does depends on
the shapes that came before, so these are run in the order of the samples, in a freshly loaded archive, several times.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from server import settings
from server.errors import StartError
from server.model import contract as contracts
from server.model import digests, samples
from server.model.engine import Engine, imported
from server.model.loading import load, load_operators
from server.model.replaying import WARM_UP_RUNS, by_shape, shapes_of
from server.model.samples import Sample

# What is slow by chance is slow in one load; what is slow in all of them is slow because of the executor.
LOADS = 3
# Within this of the steady time, runs no longer get faster; of runs of microseconds the clock's own share is left out.
_STEADY = 1.3
_CLOCK = 1e-4
_RUNS = 12
_FEWEST_RUNS = 6
# The runs of one load take about so long; a slow model gets fewer of them.
_SECONDS = 2.0


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.profile", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a model's folder")
    arguments = parser.parse_args()
    try:
        threads = settings.read(os.environ).threads
        settings.prepare_openmp(threads)
        # In one thread of its own, as in the server.
        with ThreadPoolExecutor(max_workers=1) as inference:
            shapes = inference.submit(_profiled, arguments.folder, threads).result()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"threads": threads, "shapes": shapes}))
    return 0


def _profiled(folder: Path, threads: int) -> list[dict[str, Any]]:
    engine = imported()
    contract = contracts.read(folder)
    digests.verify(contract, folder)
    taken = samples.read(contract, folder / contract.samples.name)
    engine.set_threads(threads)
    if contract.ops:
        load_operators(contract.ops, folder, engine)
    firsts = {numbers[0]: taken[numbers[0]] for numbers in by_shape(taken).values()}
    loads = [_timed(folder / contract.archive.name, list(firsts.values()), engine) for _ in range(LOADS)]
    return [
        {"sample": number, "shapes": shapes_of(sample)} | summary([load[at] for load in loads])
        for at, (number, sample) in enumerate(firsts.items())
    ]


def _timed(path: Path, firsts: Sequence[Sample], engine: Engine) -> list[list[float]]:
    """Seconds of run after run of each sample by a model that ran nothing before."""
    model = load(path, engine, optimize=True)
    measured: list[list[float]] = []
    for sample in firsts:
        seconds: list[float] = []
        while len(seconds) < _RUNS and (len(seconds) < _FEWEST_RUNS or sum(seconds) < _SECONDS / len(firsts)):
            started = time.perf_counter()
            model.forward(sample.inputs)
            seconds.append(time.perf_counter() - started)
        measured.append(seconds)
    return measured


def summary(loads: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What one shape's runs in several loads, in seconds, come to: milliseconds, and after how many they are steady."""
    runs = list(zip(*loads, strict=False))
    steady = [statistics.median(load[len(load) // 2 :]) for load in loads]
    # Each load is held against itself: the machine may have been slower all through one of them.
    slow = [all(s > _STEADY * late + _CLOCK for s, late in zip(run, steady, strict=True)) for run in runs]
    # Two in a row, so that one that is fast by chance is not taken for the beginning.
    first = next((at for at in range(len(slow) - 1) if not slow[at] and not slow[at + 1]), len(slow) - 1)
    return {
        "cold": min(runs[0]) * 1e3,
        "second": min(runs[1]) * 1e3,
        "steady": min(steady) * 1e3,
        "runs": max(WARM_UP_RUNS, first + 1),
    }


if __name__ == "__main__":
    sys.exit(main())
