"""What the server did since its start: the numbers behind the statistics extension and the metrics.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

import time
from dataclasses import MISSING, dataclass, field, fields


@dataclass(slots=True)
class Tally:
    """How often something happened, and how many nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Counts it in, `count` times, for `ns` in all."""
        self.count += count
        self.ns += ns


@dataclass(slots=True, kw_only=True)
class Executions:
    """The executions of one batch size; each took its inputs together, ran, and took its outputs apart."""

    compute_input: Tally = field(default_factory=Tally)
    compute_infer: Tally = field(default_factory=Tally)
    compute_output: Tally = field(default_factory=Tally)


@dataclass(slots=True, kw_only=True)
class Statistics:
    """Changed and read on the event loop only, but for `queued`, which threads that take requests set as well.

    `success` and `fail` are requests from their arrival to their answer; `queue` and `compute_*` are what those that
    ran spent where, each with the whole time of its batch. `batches` is by the rows that ran together, `inferences` are
    rows and `executions` runs of the model. `queued` requests are waiting now. Of those that `fail` counts, `rejected`
    found the queue full and `expired` were past their deadline; `cancelled` requests, whose clients went away before
    they were answered, are in neither. `last_inference_ms` is in milliseconds since the epoch, 0 before the first.
    """

    success: Tally = field(default_factory=Tally)
    fail: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    compute_input: Tally = field(default_factory=Tally)
    compute_infer: Tally = field(default_factory=Tally)
    compute_output: Tally = field(default_factory=Tally)
    batches: dict[int, Executions] = field(default_factory=dict)
    inferences: int = 0
    executions: int = 0
    last_inference_ms: int = 0
    queued: int = 0
    rejected: int = 0
    expired: int = 0
    cancelled: int = 0

    def answered(self, ns: int) -> None:
        """Counts a request in whose parts were counted as runs only."""
        self.success.add(ns)
        for each in (self.queue, self.compute_input, self.compute_infer, self.compute_output):
            each.add(0)

    def expire(self, arrived: int) -> None:
        """Counts a request in that came at `arrived`, in monotonic nanoseconds, and whose deadline has passed."""
        self.expired += 1
        self.fail.add(time.monotonic_ns() - arrived)

    def forget(self) -> None:
        """Starts to count anew."""
        for each in fields(self):
            default = each.default if each.default_factory is MISSING else each.default_factory()
            setattr(self, each.name, default)
