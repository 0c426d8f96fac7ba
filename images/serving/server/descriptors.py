"""Descriptors for as many connections as may be open."""

import resource

from server import log

# For what is no connection: listeners, files and the pipes to other threads and processes.
_OTHERS = 64


def allow(connections: int) -> None:
    """Lets this process open so many connections over each protocol; where it may not, the log tells.

    Engines start containers with a low soft limit and a high hard one, which a process may raise its own to:
    https://man7.org/linux/man-pages/man2/getrlimit.2.html
    """
    needed = 2 * connections + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _lacks(soft, needed):
        return
    few = _lacks(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if few else needed, hard))
    if few:
        log.event("few-descriptors", level="warning", needed=needed, allowed=hard)


def _lacks(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
