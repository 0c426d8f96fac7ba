"""`python3.13 -m server.trial [DIR ...]`: candidates for one model: do they answer as the trained model, and how fast.

Prints one JSON object: the CPU's abilities, and for each folder its deviations over samples and probes, and the median
of sample 0 in milliseconds, measured in turns with the others; or why the candidate is refused.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from server import cpu, settings
from server.errors import SamplesDisagree, StartError
from server.measure import in_turns
from server.model import contract as contracts
from server.model import digests, samples
from server.model.answers import ModelFailed
from server.model.deviations import Deviations
from server.model.engine import Engine, Model, imported
from server.model.loading import load, load_operators
from server.model.replaying import WARM_UP_RUNS
from server.model.samples import Sample
from server.model.served import ServedModel

# All candidates together are measured for about so many seconds, and each at least and at most so often.
_SECONDS = 6.0
_LEAST, _MOST = 20, 400
# The executor profiles the first run of a shape and from then on runs other, specialised code.
_COMPARED = 2


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.trial", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="a model's folder, with probes")
    parser.add_argument("--runs", type=int, metavar="N", help="how many of each, instead of some seconds' worth")
    arguments = parser.parse_args()
    try:
        threads = settings.read(os.environ).threads
        settings.prepare_openmp(threads)
        # In one thread of its own, as in the server.
        with ThreadPoolExecutor(max_workers=1) as inference:
            tried = inference.submit(_tried, arguments.folders, threads, arguments.runs).result()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"bf16": cpu.has_bf16(), "threads": threads, "candidates": tried}))
    return 0


def _tried(folders: Sequence[Path], threads: int, runs: int | None) -> dict[str, Any]:
    if not folders:
        return {}
    engine = imported()
    engine.set_threads(threads)
    # The candidates are of one model, and its operators register once.
    first = contracts.read(folders[0])
    digests.verify(first, folders[0])
    if first.ops:
        load_operators(first.ops, folders[0], engine)
    found: dict[str, Any] = {}
    ready: dict[str, tuple[Model, Sample]] = {}
    for folder in folders:
        try:
            served, taken, probed = _loaded(folder, engine)
            found[folder.name] = {"parity": {"runtime": _compared(served, taken, probed)}}
            ready[folder.name] = served.model, taken[0]
        except StartError as error:
            found[folder.name] = {"refused": f"in the runtime: {error}"}
    for name, seconds in _timed(ready, runs).items():
        found[name]["p50"] = statistics.median(seconds) * 1e3
    return found


def _loaded(folder: Path, engine: Engine) -> tuple[ServedModel, tuple[Sample, ...], tuple[Sample, ...]]:
    contract = contracts.read(folder)
    digests.verify(contract, folder)
    taken = samples.read(contract, folder / contract.samples.name)
    model = load(folder / contract.archive.name, engine, optimize=True)
    return ServedModel(contract=contract, engine=engine, model=model), taken, samples.probes(contract, folder)


def _compared(served: ServedModel, taken: Sequence[Sample], probed: Sequence[Sample]) -> dict[str, Any]:
    """The deviations of each output, with and without what the executor specialises."""
    found = {tensor.name: Deviations(tensor) for tensor in served.contract.outputs}
    tolerance = served.contract.tolerance
    for kind, evidence, judged in (("sample", taken, True), ("probe", probed, served.contract.judges_probes)):
        for number, sample in enumerate(evidence):
            for _ in range(_COMPARED):
                try:
                    answers = served.answer(sample.inputs)
                except ModelFailed as error:
                    raise SamplesDisagree(f"{kind} {number}: {error}") from error
                for answer in answers:
                    name = answer.tensor.name
                    told = found[name].add(answer, sample.outputs[name], tolerance, judged=judged)
                    if told:
                        raise SamplesDisagree(
                            f"{kind} {number}: output {name} {told} (allowed: {tolerance.absolute:g} + "
                            f"{tolerance.relative:g} * |expected|). Raise `tolerance` only if that is intended."
                        )
    return {name: deviations.found() for name, deviations in found.items()}


def _timed(ready: Mapping[str, tuple[Model, Sample]], runs: int | None) -> dict[str, list[float]]:
    """Seconds of many runs of sample 0 of each model."""
    calls = {name: partial(model.forward, sample.inputs) for name, (model, sample) in ready.items()}
    for call in calls.values():
        for _ in range(WARM_UP_RUNS):
            call()
    if runs is None:
        started = time.perf_counter()
        for call in calls.values():
            call()
        once = time.perf_counter() - started
        runs = min(_MOST, max(_LEAST, int(_SECONDS / max(once, 1e-9))))
    return in_turns(calls, runs)


if __name__ == "__main__":
    sys.exit(main())
