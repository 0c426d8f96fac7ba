"""The log: one JSON object a line on stderr with event, level and time, and never a payload.

SIGUSR1 makes it tell more and SIGUSR2 less, by one level at a time.
"""

import json
import logging
import signal
import sys
import time
import traceback
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["error", "warning", "info", "debug"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info", "debug")

_RANKS = {level: rank for rank, level in enumerate(LEVELS)}
_told = _RANKS["info"]
# What many requests can cause is told once in so long.
_TOLD_SECONDS = 1.0


def event(name: str, *, level: Level = "info", **fields: object) -> None:
    """Writes one line, unless the log tells less than `level`. `fields` are JSON values."""
    if not tells(level):
        return
    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
    sys.stderr.write(json.dumps({"time": stamp, "level": level, "event": name, **fields}) + "\n")
    sys.stderr.flush()


def crash(name: str, error: BaseException, **fields: object) -> None:
    """Writes an error that is a bug, with its traceback."""
    trace = "".join(traceback.format_exception(error))
    event(name, level="error", error=str(error), traceback=trace, **fields)


def tells(level: Level) -> bool:
    """Whether the log tells events of a level."""
    return _RANKS[level] <= _told


def set_level(level: Level) -> None:
    """From now on the log tells events of this level and of those before it."""
    global _told  # noqa: PLW0603 (there is one log, as there is one stderr)
    _told = _RANKS[level]


def step(signum: int) -> None:
    """One level more for SIGUSR1, and one less otherwise."""
    wanted = _told + (1 if signum == signal.SIGUSR1 else -1)
    set_level(LEVELS[min(max(wanted, 0), len(LEVELS) - 1)])
    event("log-level", level="error", tells=LEVELS[_told])


class Requests:
    """Tells of requests: of each at level debug, and of those that took longer than `slow` seconds, one a second at
    most, since a server that is slow is so for everybody."""

    def __init__(self, slow: float = float("inf")) -> None:
        self._slow = slow
        self._told = -_TOLD_SECONDS
        self._since = 0

    def tell(self, path: str, identity: str | None, status: int | str, seconds: float) -> None:
        """To be called with each request that was answered or given up. `identity` is its client's for it."""
        if seconds <= self._slow and not tells("debug"):
            return
        fields = {"id": identity, "path": path, "status": status, "seconds": round(seconds, 4)}
        now = time.monotonic()
        self._since += seconds > self._slow
        if seconds > self._slow and now - self._told >= _TOLD_SECONDS:
            event("slow-request", level="warning", slow_since_the_last=self._since, **fields)
            self._told, self._since = now, 0
        else:
            event("request", level="debug", **fields)


class _Forward(logging.Handler):
    """Turns what libraries log into events. A warning is told once a second at most: any client can cause some."""

    def __init__(self) -> None:
        super().__init__()
        # By the place in the source that warns: when it was told, and how many came since.
        self._warned: dict[tuple[str, int], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging for each record."""
        error = record.exc_info[1] if record.exc_info else None
        if error:
            crash(record.getMessage().strip(), error)
        elif record.levelno >= logging.ERROR:
            event(record.getMessage().strip(), level="error", logger=record.name)
        else:
            self._warn(record)

    def _warn(self, record: logging.LogRecord) -> None:
        key, now = (record.pathname, record.lineno), time.monotonic()
        told, since = self._warned.get(key, (-_TOLD_SECONDS, 0))
        if now - told < _TOLD_SECONDS:
            self._warned[key] = told, since + 1
            return
        more = {"since_the_last": since} if since else {}
        event(record.getMessage().strip(), level="warning", logger=record.name, **more)
        self._warned[key] = now, 0


def capture_libraries() -> None:
    """Sends the warnings of uvicorn and asyncio through this log; their progress reports are left out."""
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING)
