"""Programs of others that take a while, with their lines passed on as they come."""

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    ends_at: signal.Signals = signal.SIGTERM,
) -> int:
    """Runs a program to its end, and passes on what it writes to either stream; its exit code.

    When this is interrupted, the program gets `ends_at`, and is waited for until it has put its things away.
    """
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Ctrl-C reaches it once, from here: a second one would stop it from putting its things away.
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                on_line(line.rstrip())
        except BaseException:
            process.send_signal(ends_at)
            process.communicate()
            raise
    return process.returncode
