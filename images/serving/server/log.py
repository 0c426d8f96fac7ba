"""The log: one JSON object a line on stderr with event, level and time, and never a payload."""

import json
import logging
import sys
import time
import traceback


def event(name: str, *, level: str = "info", **fields: object) -> None:
    """Writes one line. `fields` are JSON values."""
    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
    sys.stderr.write(json.dumps({"time": stamp, "level": level, "event": name, **fields}) + "\n")
    sys.stderr.flush()


def crash(name: str, error: BaseException) -> None:
    """Writes an error that is a bug, with its traceback."""
    event(name, level="error", error=str(error), traceback="".join(traceback.format_exception(error)))


class _Forward(logging.Handler):
    """Turns what libraries log into events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging for each record."""
        error = record.exc_info[1] if record.exc_info else None
        if error:
            crash(record.getMessage().strip(), error)
        else:
            event(record.getMessage().strip(), level=record.levelname.lower(), logger=record.name)


def capture_libraries() -> None:
    """Sends the warnings of uvicorn and asyncio through this log; their progress reports are left out."""
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING)
