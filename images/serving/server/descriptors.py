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
    if resource.RLIM_INFINITY in {soft, hard} or needed <= hard:
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log.event("few-descriptors", level="warning", needed=needed, allowed=hard)
