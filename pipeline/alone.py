"""One command at a time where two would write the same files."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.progress import say


@contextmanager
def alone(folder: Path, *, busy: PipelineError | None = None) -> Iterator[None]:
    """Has a folder to itself until the end, beside others that ask for it here; it is made if it is not there. The
    kernel lets go of that of a process that was killed.

    While another command has it, this raises `busy`, or waits if there is no such error, and says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy:
                raise busy from None
            say(f"{'':<9} waiting for another command that works on {folder.name}")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
