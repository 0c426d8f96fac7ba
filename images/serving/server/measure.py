"""`python3.13 -m server.measure`: how fast the model is in this process, and over the wire to a server beside it.

Prints one JSON object: percentiles of sample 0 in process and over the wire, each measured in turns with the other
after the same preparation, fused where that is faster; then what callers in threads of this process get done, which no
server can surpass without batching: one caller with all threads, and as many callers as threads with one each, of the
program as torch optimises it and, where that is faster, with operators fused.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from server import settings
from server.client import Client
from server.errors import StartError
from server.inference.planning import Plan, fused
from server.model import contract as contracts
from server.model.engine import imported
from server.model.loading import Ready, prepare
from server.model.replaying import warm_up

# Turns are short beside the seconds in which a shared machine gets faster or slower. The first calls of a turn find
# cold caches and sleeping threads, whichever turn it is, and are not counted.
_TURN = 10
_LEAD = 3


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.measure", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a model's folder")
    parser.add_argument("--requests", type=int, default=400, metavar="N", help="how many of each to measure in turns")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long callers call")
    parser.add_argument("--server", metavar="HOST:PORT", required=True, help="where the same model is served")
    arguments = parser.parse_args()
    host, _, port = arguments.server.rpartition(":")
    try:
        threads = settings.read(os.environ).threads
        settings.prepare_openmp(threads)
        # In one thread of its own, as in the server.
        with ThreadPoolExecutor(max_workers=1) as inference:
            measured = inference.submit(_measured, arguments, threads, (host, int(port))).result()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {arguments.server}: {error}. Is the model served there?", file=sys.stderr)
        return 2
    print(json.dumps({"threads": threads, **measured}))
    return 0


def _measured(arguments: argparse.Namespace, threads: int, server: tuple[str, int]) -> dict[str, Any]:
    contract = contracts.read(arguments.model)
    ready = prepare(contract, arguments.model, imported, threads=threads)
    model, inputs = ready.served.model, ready.samples[0].inputs
    fused(ready, threads=[threads])
    with Client(server, contract, inputs) as client:
        turns = in_turns(
            {"in_process": lambda: model.forward(inputs), "over_the_wire": client.infer}, arguments.requests
        )
    return {
        **{name: percentiles(latencies) for name, latencies in turns.items()},
        "callers": [
            found
            for callers, each in dict.fromkeys([(1, threads), (threads, 1)])
            for found in _callers(ready, Plan(instances=callers, threads=each), arguments.seconds)
        ],
    }


def _callers(ready: Ready, plan: Plan, seconds: float) -> Iterator[dict[str, Any]]:
    """What callers get done of the program as torch optimises it, and with operators fused where that is faster."""
    ready.served.model.unfuse()
    kind = {"callers": plan.instances, "threads": plan.threads}
    yield {**kind, "fused": False, **_called(ready, plan, seconds)}
    if fused(ready, threads=[plan.threads]):
        yield {**kind, "fused": True, **_called(ready, plan, seconds)}


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


def _called(ready: Ready, plan: Plan, seconds: float) -> dict[str, float]:
    """What so many callers at once, each with so many threads for an operator, get done of sample 0."""
    model, inputs = ready.served.model, ready.samples[0].inputs
    warm = threading.Barrier(plan.instances)

    def call() -> list[float]:
        ready.engine.set_threads(plan.threads)
        warm_up(ready.served, ready.samples)
        warm.wait()
        times = [time.perf_counter()]
        end = times[0] + seconds
        while times[-1] < end or len(times) < 3:
            model.forward(inputs)
            times.append(time.perf_counter())
        return times

    with ThreadPoolExecutor(max_workers=plan.instances) as pool:
        found = [running.result() for running in [pool.submit(call) for _ in range(plan.instances)]]
    took = max(times[-1] for times in found) - min(times[0] for times in found)
    latencies = [after - before for times in found for before, after in pairwise(times)]
    return {"throughput": len(latencies) / took, **percentiles(latencies)}


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th percentiles in milliseconds."""
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {f"p{percent}_ms": cuts[percent - 1] * 1e3 for percent in (50, 95, 99)}


if __name__ == "__main__":
    sys.exit(main())
