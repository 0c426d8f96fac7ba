"""The cores and the memory that this container may use: its cgroup's limits, not what it sees of the machine.

https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1's cpu.cfs_quota_us and memory.limit_in_bytes.
"""

import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60


def cores(root: Path = ROOT) -> float:
    """How many cores' worth of time this process may use: the smaller of its quota and the cores it may run on."""
    visible = float(len(os.sched_getaffinity(0)))
    return min([visible, *(quota for quota in (_v2(root), _v1(root)) if quota)])


def threads(root: Path = ROOT) -> int:
    """How many threads keep those cores busy: one more than that stalls all of them at every barrier."""
    return max(1, int(cores(root)))


def memory(root: Path = ROOT) -> int | None:
    """How many bytes this container may use; None where it has no limit."""
    for path in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):
            continue
        # Version 1 says the largest number of pages that it can count where there is no limit.
        return limit if limit < _UNLIMITED else None
    return None


def _v2(root: Path) -> float | None:
    """`cpu.max` holds "quota period" in microseconds, or "max period"."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _v1(root: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 where there is no quota."""
    try:
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
