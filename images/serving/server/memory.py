"""Makes memory that the container does not have an error of the request that asks for it.

Linux promises memory freely and ends the process that uses it. With a limit of its own the process is told at once:
torch raises, the request gets an error, and the next one is served.
"""

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
# For what others in the container use meanwhile, and the kernel for sockets.
_SPARE = 2**25


def bound(limit: int, status: Path = _STATUS) -> int | None:
    """Bounds what this process may still allocate by what the container has left of `limit` bytes; the bound in bytes.

    Nothing is bounded, and None returned, where the kernel does not tell what is allocated and what of it is used.
    RLIMIT_DATA counts private memory that can be written: https://man7.org/linux/man-pages/man2/getrlimit.2.html
    """
    allocated, used = _told("VmData", status), resident(status)
    if allocated is None or used is None:
        return None
    most = allocated + max(limit - used - _SPARE, _SPARE)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    return most


def resident(status: Path = _STATUS) -> int | None:
    """The bytes of private memory that this process uses; None where the kernel does not tell."""
    return _told("RssAnon", status)


def _told(name: str, status: Path) -> int | None:
    try:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
