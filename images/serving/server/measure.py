"""`python3.13 -m server.measure`: how long the forward takes in this process, and over the wire to a server beside it.

Prints one JSON object: percentiles of sample 0, each measured in turns with the other, after the same preparation.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server import contract as contracts
from server import settings
from server.client import Client
from server.errors import StartError
from server.loading import prepare

# Turns are short beside the seconds in which a shared machine gets faster or slower. The first calls of a turn find
# cold caches and sleeping threads, whichever turn it is, and are not counted.
_TURN = 10
_LEAD = 3


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.measure", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a model's folder")
    parser.add_argument("--requests", type=int, default=400, metavar="N", help="how many of each to measure")
    parser.add_argument("--server", metavar="HOST:PORT", required=True, help="where the same model is served")
    arguments = parser.parse_args()
    host, _, port = arguments.server.rpartition(":")
    try:
        threads = settings.read(os.environ).threads
        settings.prepare_openmp(threads)
        # In one thread of its own, as in the server.
        with ThreadPoolExecutor(max_workers=1) as inference:
            running = inference.submit(_measured, arguments.model, arguments.requests, threads, (host, int(port)))
            measured = running.result()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {arguments.server}: {error}. Is the model served there?", file=sys.stderr)
        return 2
    print(json.dumps({"threads": threads, **{name: percentiles(latencies) for name, latencies in measured.items()}}))
    return 0


def _measured(folder: Path, requests: int, threads: int, server: tuple[str, int]) -> dict[str, list[float]]:
    import _engine  # noqa: PLC0415 (only now: it reads OpenMP's environment)

    contract = contracts.read(folder)
    ready = prepare(contract, folder, _engine, threads=threads)
    model, inputs = ready.served.model, ready.samples[0].inputs
    with Client(server, contract, inputs) as client:
        return in_turns({"in_process": lambda: model.forward(inputs), "over_the_wire": client.infer}, requests)


def in_turns(calls: Mapping[str, Callable[[], object]], requests: int) -> dict[str, list[float]]:
    """Seconds that at least `requests` runs of each call took, a few of one and then a few of the next."""
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(-(-requests // _TURN)):
        for name, call in calls.items():
            for index in range(-_LEAD, _TURN):
                started = time.perf_counter()
                call()
                if index >= 0:
                    measured[name].append(time.perf_counter() - started)
    return measured


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th percentiles in milliseconds."""
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {f"p{percent}_ms": cuts[percent - 1] * 1e3 for percent in (50, 95, 99)}


if __name__ == "__main__":
    sys.exit(main())
