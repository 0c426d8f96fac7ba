"""Programs that are interrupted put their things away before whoever ran them goes on."""

import os
import signal
import sys
from pathlib import Path

import pytest

from pipeline import programs

PROGRAM = """
import signal, sys, time
def end(number, _):
    print("x" * 2**20)
    time.sleep(0.3)
    open(sys.argv[1], "w").write(signal.Signals(number).name)
    raise SystemExit
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, end)
print("begun", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("ends_at", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_program_has_ended_by_itself(tmp_path: Path, ends_at: signal.Signals) -> None:
    def interrupted(line: str) -> None:
        assert line == "begun"
        raise KeyboardInterrupt

    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "ended")]
    with pytest.raises(KeyboardInterrupt):
        programs.run(command, env=os.environ, on_line=interrupted, ends_at=ends_at)
    assert (tmp_path / "ended").read_text() == ends_at.name


def test_lines_of_both_streams_come_and_the_exit_code() -> None:
    lines: list[str] = []
    command = ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]
    assert programs.run(command, env=os.environ, on_line=lines.append) == 3
    assert lines == ["out", "err"]
