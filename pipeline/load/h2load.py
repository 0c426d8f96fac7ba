"""h2load: the arguments for a run of it, and what its log and its summary say.

Seconds of the cores for a request of 16 clients, side by side on one machine: h2load 41 us, wrk 42 to 47 us, k6 340 to
390 us, which the server would lack. wrk speaks no gRPC and does not tell of single requests.
https://nghttp2.org/documentation/h2load.1.html
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.load.bodies import Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Every request: its start in seconds since the epoch, in order, the status, and the seconds until its answer was
    complete. `failed` never were answered; `data` is the bytes of all bodies together."""

    starts: NDArray[np.float64]
    statuses: NDArray[np.int64]
    latencies: NDArray[np.float64]
    failed: int
    data: int

    @property
    def throughput(self) -> float:
        """Answers a second, from the first request to the last answer."""
        answered = self.statuses > 0
        if not answered.any():
            return 0.0
        took = (self.starts + self.latencies)[answered].max() - self.starts.min()
        return float(answered.sum() / max(took, 1e-9))


def arguments(body: Body, *, file: str, log: str, port: int, clients: int, amount: str) -> list[str]:
    """h2load's arguments: so many clients that each have one request under way. `amount` is how much, for example
    "--requests=100"; `file` holds the body and `log` is where requests are listed."""
    fields = [f"--header={name}: {value}" for name, value in body.fields]
    version = [] if ("te", "trailers") in body.fields else ["--h1"]
    url = f"http://127.0.0.1:{port}{body.path}"
    return [*version, f"--clients={clients}", amount, f"--data={file}", f"--log-file={log}", *fields, url]


def parse(log: str, summary: str) -> Log:
    """What h2load wrote to its log and printed.

    Raises:
        ValueError: that is not what h2load writes.
    """
    rows = np.array([line.split() for line in log.splitlines()], dtype=np.int64).reshape(-1, 3)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    counts = re.search(r"^requests: .* (\d+) failed, \d+ errored, \d+ timeout", summary, re.MULTILINE)
    traffic = re.search(r"^traffic: .*\((\d+)\) data$", summary, re.MULTILINE)
    if not counts or not traffic:
        raise ValueError(f"no summary of h2load's:\n{summary}")
    return Log(
        starts=rows[:, 0] / 1e6,
        statuses=rows[:, 1],
        latencies=rows[:, 2] / 1e6,
        failed=int(counts[1]),
        data=int(traffic[1]),
    )
