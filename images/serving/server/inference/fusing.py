"""A second copy of the program for requests of sample 0's shape, whose operators oneDNN Graph has fused.

What it gains depends on the CPU and on how many barriers of threads it saves, so that it is measured where it serves.
On two cores with AVX-512 resnet18 at 224 in fp32 took 17 instead of 21 ms, and a row of a batch of eight 18 instead of
17; a small net in bf16 took 2.0 instead of 7.4 ms, a recurrent one 0.37 instead of 0.29. Each further shape would take
one more copy of the weights: all others keep the program that torch has optimised for any shape.
"""

from collections.abc import Sequence

from server import cgroup, log, memory
from server.errors import SamplesDisagree
from server.model.loading import Ready
from server.model.replaying import replay, shapes_of

# A run that takes less is mostly calls, and one that takes more is not measured at start.
_LEAST_SECONDS, _MOST_SECONDS = 1e-3, 1.0
# What it takes of memory, in sizes of the archive: as it is read and as it is loaded, its constants frozen, and these
# in the order in which the CPU reads them.
_COPIES = 4


def may_gain(ready: Ready, seconds: float) -> bool:
    """Whether it is worth trying for runs of so many seconds, and a second copy fits into memory."""
    limit, resident = cgroup.memory(), memory.resident()
    fits = limit is None or resident is None or resident + _COPIES * ready.archive.stat().st_size < limit
    return fits and _LEAST_SECONDS <= seconds <= _MOST_SECONDS


def fuse(ready: Ready, *, threads: Sequence[int]) -> bool:
    """Fuses operators for the first of `threads` for one operator, where it gives the right answers with each of them;
    otherwise all is as it was. Changes the calling thread's number of threads."""
    engine, model, first = ready.engine, ready.served.model, ready.samples[0]
    try:
        engine.set_threads(threads[0])
        model.fuse(first.inputs)
        same = [sample for sample in ready.samples if shapes_of(sample) == shapes_of(first)]
        replay(ready.served, same)
        # What runs is the same, only that each thread's share of it is run by one.
        for each in threads[1:]:
            engine.set_threads(each)
            replay(ready.served, [first])
    except SamplesDisagree as error:
        log.event("not-fused", level="warning", reason=str(error))
    except (engine.InputError, engine.ModelError) as error:
        log.event("not-fused", level="debug", reason=str(error))
    else:
        return True
    model.unfuse()
    return False
