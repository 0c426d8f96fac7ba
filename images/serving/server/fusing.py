"""A second copy of the program for requests of sample 0's shape, whose operators oneDNN Graph has fused.

What it gains depends on the CPU and on how many barriers of threads it saves, so that it is measured where it serves.
On two cores with AVX-512 resnet18 at 224 in fp32 took 17 instead of 21 ms, and a row of a batch of eight 18 instead of
17; a small net in bf16 took 2.0 instead of 7.4 ms, a recurrent one 0.37 instead of 0.29. Each further shape would take
one more copy of the weights: all others keep the program that torch has optimised for any shape.
"""

from collections.abc import Callable

from server import cgroup, log, memory
from server.engine import Engine
from server.errors import SamplesDisagree
from server.loading import Ready
from server.replaying import replay, shapes_of

# A run that takes less is mostly calls, and one that takes more is not measured at start.
_LEAST_SECONDS, _MOST_SECONDS = 1e-3, 1.0
# It has to be so much faster to be worth its memory: the archive as it is read and as it is loaded, its constants
# frozen, and these in the order in which the CPU reads them.
_WORTH = 1.1
_COPIES = 4


def fuse(ready: Ready, engine: Engine, measure: Callable[[], float], *, plain: float | None = None) -> float | None:
    """Fuses for the calling thread's number of threads, where the right answers come faster by it: the seconds of a
    run, as `measure` tells them. Otherwise None, and all is as it was. `plain` are the seconds of a run until now,
    where they are known."""
    model, first = ready.served.model, ready.samples[0]
    plain = plain or measure()
    if not _LEAST_SECONDS <= plain <= _MOST_SECONDS or not _has_room(ready):
        return None
    try:
        model.fuse(first.inputs)
        same = [sample for sample in ready.samples if shapes_of(sample) == shapes_of(first)]
        replay(ready.served, same)
        fused = measure()
    except SamplesDisagree as error:
        log.event("not-fused", level="warning", reason=str(error))
    except (engine.InputError, engine.ModelError) as error:
        log.event("not-fused", level="debug", reason=str(error))
    else:
        if _WORTH * fused < plain:
            return fused
    model.unfuse()
    return None


def _has_room(ready: Ready) -> bool:
    limit, resident = cgroup.memory(), memory.resident()
    return limit is None or resident is None or resident + _COPIES * ready.archive.stat().st_size < limit
