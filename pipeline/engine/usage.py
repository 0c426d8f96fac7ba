"""What a container uses, as Docker tells of its cgroup, version 1 or 2."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pipeline.engine import Process, Usage

# Run in the container, by its own user: /proc/1 is nobody else's to read. The listing opens a descriptor, in itself.
LOOK = """
import os
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
print(len(os.listdir("/proc/1/fd")), int(status["VmRSS"].split()[0]) * 1024)
"""


def usage(stats: Mapping[str, Any]) -> Usage:
    """The usage in an answer of `GET /containers/{id}/stats`.

    The working set is what Kubernetes takes for it: usage without the file pages that were not used lately.
    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files and cgroup-v1's memory.stat.
    """
    memory = stats["memory_stats"]
    detail = memory["stats"]
    inactive = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return Usage(
        cpu_seconds=stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        working_set=memory["usage"] - inactive,
        anonymous=detail.get("total_rss", detail.get("anon", 0)),
    )


def process(looked: str) -> Process:
    """What `LOOK` printed."""
    descriptors, resident = looked.split()
    return Process(descriptors=int(descriptors), resident=int(resident))


def seconds_since_epoch(stamp: str) -> float:
    """Docker's time stamps have nanoseconds, which Python's do not take."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
