"""Runs in the runtime image, with ONEDNN_VERBOSE=1: what of a model is run by oneDNN Graph, and how far that is off.

oneDNN says on stdout what it runs; between that, this says what is being done. The last line is the largest difference
of any answer from what the samples say.
"""

import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _engine

from server.model import contract as contracts
from server.model import samples
from server.model.engine import Input
from server.model.samples import Sample

_THREADS, _RUNS = 4, 5


def main(folder: Path) -> None:
    contract = contracts.read(folder)
    taken = samples.read(contract, folder / contract.samples.name)
    model = _engine.load(str(folder / contract.archive.name), optimize=True)

    def off(sample: Sample) -> float:
        inputs: list[Input] = list(sample.inputs)
        (y,) = model.forward(inputs)
        got, wanted = memoryview(y).cast("f"), array("f", bytes(sample.outputs["y"].content))
        return max(abs(one - other) for one, other in zip(got, wanted, strict=True))

    def told(what: str, *asked: Sample) -> float:
        print(what, flush=True)
        return max(map(off, asked))

    alone, other, together = taken
    _engine.set_threads(2)
    worst = [told("plain", alone)]
    print("fusing", flush=True)
    model.fuse(alone.inputs)
    worst += [told("fused", other), told("another shape", together)]
    for phase, count in ("by one", 1), ("by three", 3):
        _engine.set_threads(count)
        worst.append(told(phase, alone, other))
    print("many threads", flush=True)
    with ThreadPoolExecutor(_THREADS, initializer=_engine.set_threads, initargs=(1,)) as pool:
        worst += pool.map(off, [alone, other] * _THREADS * _RUNS)
    model.unfuse()
    worst.append(told("plain again", alone))
    print("off", flush=True)
    print(max(worst))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
