"""What people see while a step runs: plain lines, at once, the same with and without a terminal."""

import sys


def say(line: str) -> None:
    """Prints one line of progress."""
    print(line, file=sys.stdout, flush=True)
