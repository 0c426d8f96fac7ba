"""`python3.13 -m server.together DIR`: whether a model can answer several requests in one run, and what that gains.

Prints one JSON object. A model can when samples and probes that are answered together get, row for row, the answers
that they get alone.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from server import settings
from server.errors import StartError
from server.model import contract as contracts
from server.model import digests, samples
from server.model.answers import Answer, ModelFailed, compare
from server.model.contract import Contract
from server.model.engine import Input, imported
from server.model.loading import load, load_operators
from server.model.replaying import WARM_UP_RUNS
from server.model.samples import Expected, Sample
from server.model.served import ServedModel

# Samples that are tried together at a time.
_GROUP = 8
_SIZES = (1, 2, 4, 8, 16, 32)
# A batch that takes longer, or a process that has become larger than this share of the memory, ends the search.
_LONGEST_SECONDS = 1.0
_MEMORY = 0.6
_TIMED = 7
_SECONDS = 0.5
# The largest batch is taken whose rows take at most so much more than those of the fastest: wide, so that export finds
# the same again on a busy machine.
_NEARLY = 1.25
# But none that takes longer: whoever comes while a batch runs waits for all of it, and its rows all take memory.
_LONGEST_MS = 200.0
# So much faster than alone, or it is not worth it.
_WORTH = 1.1


class Apart(Exception):
    """Why the model's requests have to be answered one by one."""


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.together", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a model's folder, with probes")
    parser.add_argument("--memory", type=int, required=True, metavar="MIB", help="what the server may use")
    arguments = parser.parse_args()
    try:
        threads = settings.read(os.environ).threads
        settings.prepare_openmp(threads)
        # In one thread of its own, as in the server.
        with ThreadPoolExecutor(max_workers=1) as inference:
            found = inference.submit(_found, arguments.folder, threads, arguments.memory).result()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found))
    return 0


def _found(folder: Path, threads: int, memory: int) -> dict[str, Any]:
    """`max_size`, 1 where it is off, `because`, and `row_ms`, the milliseconds that a row took in batches of a size."""
    engine = imported()
    contract = contracts.read(folder)
    digests.verify(contract, folder)
    engine.set_threads(threads)
    if contract.ops:
        load_operators(contract.ops, folder, engine)
    model = load(folder / contract.archive.name, engine, optimize=True)
    served = ServedModel(contract=contract, engine=engine, model=model)
    taken = samples.read(contract, folder / contract.samples.name)
    probed = samples.probes(contract, folder) if contract.judges_probes else ()
    try:
        tried = prove(served, [*taken, *probed])
    except Apart as reason:
        return {"max_size": 1, "because": str(reason), "row_ms": {}, "possible": False}
    row_ms = _timed(served, taken[0].inputs, memory)
    size = best(row_ms)
    because = f"{tried} samples and probes got the same answers together as alone"
    if size > 1:
        because += f", and a row takes {row_ms[size]:.3g} ms in batches of {size} instead of {row_ms[1]:.3g} ms"
    else:
        because += ", but a row takes no less time in a batch"
    return {"max_size": size, "because": because, "row_ms": row_ms, "possible": True}


def prove(served: ServedModel, tried: Sequence[Sample]) -> int:
    """Answers samples together, in both orders, and compares with what they get alone; how many there were.

    Raises:
        Apart: the contract leaves no dimension free for it, or an answer differs.
    """
    contract = served.contract
    for tensor in (*contract.inputs, *contract.outputs):
        if tensor.shape[:1] != (-1,):
            raise Apart(f"{tensor.name} {list(tensor.shape)} has no free first dimension")
    groups: dict[object, list[Sample]] = {}
    for sample in tried:
        if _rows(contract, sample):
            groups.setdefault(tuple(tuple(shape[1:]) for _, shape, _ in sample.inputs), []).append(sample)
    count = 0
    for group in groups.values():
        for at in range(0, len(group), _GROUP):
            part = group[at : at + _GROUP]
            if len({bytes(sample.inputs[0][2]) for sample in part}) > 1:
                _compare(served, part)
                _compare(served, part[::-1])
                count += len(part)
    if not count:
        raise Apart("no two samples or probes of one shape differ, so that nothing can be proved")
    return count


def best(row_ms: dict[int, float]) -> int:
    """The size that is worth it: 1, or of those that are nearly as fast as the fastest the largest one that does not
    take long, or else the smallest."""
    fastest = min(row_ms.values())
    if row_ms[1] < _WORTH * fastest:
        return 1
    fast = [size for size, each in row_ms.items() if each <= _NEARLY * fastest]
    return max((size for size in fast if size * row_ms[size] <= _LONGEST_MS), default=min(fast))


def _rows(contract: Contract, sample: Sample) -> int:
    """The rows that all inputs and expected outputs of a sample have."""
    rows = {tensor.name: shape[0] for tensor, (_, shape, _) in zip(contract.inputs, sample.inputs, strict=True)}
    rows |= {name: expected.shape[0] for name, expected in sample.outputs.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise Apart(f"a sample's tensors do not have a row for each row ({told})")
    return next(iter(rows.values()))


def _compare(served: ServedModel, part: Sequence[Sample]) -> None:
    try:
        together = served.answer_together([sample.inputs for sample in part]).answers
        alone = [served.answer(sample.inputs) for sample in part]
    except ModelFailed as error:
        raise Apart(f"the model fails at requests together: {str(error).strip().splitlines()[-1]}") from error
    for index, (sample, answers, others) in enumerate(zip(part, together, alone, strict=True)):
        for finding in _differences(served.contract, sample, answers, others):
            raise Apart(f"number {index} of {len(part)} requests gets another answer than alone: {finding}")


def _differences(
    contract: Contract, sample: Sample, answers: Sequence[Answer], alone: Sequence[Answer]
) -> Iterator[str]:
    for answer, other in zip(answers, alone, strict=True):
        if answer.shape != other.shape:
            yield f"{answer.tensor.name} has shape {list(answer.shape)}, and {list(other.shape)} alone"
            continue
        rounding = sample.outputs[answer.tensor.name].rounding
        expected = Expected(shape=other.shape, content=other.content, rounding=rounding)
        difference = compare(answer, expected, contract.tolerance)
        if difference.beyond is not None:
            yield f"{answer.tensor.name} {difference.told(expected)}"


def _timed(served: ServedModel, inputs: Sequence[Input], memory: int) -> dict[int, float]:
    """Milliseconds a row in batches of so many rows, as far as time and memory go."""
    rows, found = inputs[0][1][0], dict[int, float]()
    for size in _SIZES:
        batch = [inputs] * max(1, size // rows)
        seconds: list[float] = []
        for _ in range(WARM_UP_RUNS):
            served.answer_together(batch)
        until = time.perf_counter() + _SECONDS
        while len(seconds) < _TIMED or (time.perf_counter() < until and len(seconds) < 100 * _TIMED):
            started = time.perf_counter()
            served.answer_together(batch)
            seconds.append(time.perf_counter() - started)
            if seconds[-1] > _LONGEST_SECONDS:
                break
        # ru_maxrss is in KiB.
        if found and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _MEMORY * memory * 1024:
            break
        found[size] = statistics.median(seconds) * 1e3 / (len(batch) * rows)
        if seconds[-1] > _LONGEST_SECONDS:
            break
    return found


if __name__ == "__main__":
    sys.exit(main())
