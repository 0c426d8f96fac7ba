"""`python3.13 -m server.measure`: how long the forward alone takes here, to compare the wire with.

Prints one JSON object: latencies of sample 0 in a thread like the server's, after the same preparation.
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

from server import contract as contracts
from server import settings
from server.errors import StartError
from server.loading import Ready, prepare

_WARM_UP = 50


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.measure", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a model's folder")
    parser.add_argument("--requests", type=int, default=400, metavar="N", help="how many to measure")
    arguments = parser.parse_args()
    try:
        threads = settings.read(os.environ).threads
        settings.prepare_openmp(threads)
        measured = _measured(arguments.model, arguments.requests, threads)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"threads": threads, **summary(measured), "latencies_s": measured}))
    return 0


def _measured(folder: Path, requests: int, threads: int) -> list[float]:
    """The latencies, taken in a thread of their own as in the server."""
    import _engine  # noqa: PLC0415 (only now: it reads OpenMP's environment)

    with ThreadPoolExecutor(max_workers=1) as inference:
        ready = inference.submit(prepare, contracts.read(folder), folder, _engine, threads=threads).result()
        return inference.submit(latencies, ready, requests).result()


def latencies(ready: Ready, requests: int) -> list[float]:
    """Seconds that each forward of sample 0 takes, one after the other."""
    model, inputs = ready.served.model, ready.samples[0].inputs
    measured = []
    for index in range(_WARM_UP + requests):
        started = time.perf_counter()
        model.forward(inputs)
        if index >= _WARM_UP:
            measured.append(time.perf_counter() - started)
    return measured


def summary(measured: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th percentiles in milliseconds."""
    cuts = statistics.quantiles(measured, n=100, method="inclusive")
    return {f"p{percent}_ms": cuts[percent - 1] * 1e3 for percent in (50, 95, 99)}


if __name__ == "__main__":
    sys.exit(main())
