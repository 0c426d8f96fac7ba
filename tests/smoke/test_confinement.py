"""What the container may not do, tried from inside it."""

import pytest

from tests.smoke.conftest import Serving

PYTHON = "/usr/bin/python3.13"
# Addresses that answer everywhere but here, and one that answers nowhere; all at once, since each has to time out.
_REACH_OUT = """
import socket, threading
def reach(address):
    try:
        socket.create_connection(address, 1)
        print("reached", address)
    except OSError:
        print("unreachable")
for address in (("1.1.1.1", 443), ("8.8.8.8", 53), ("192.0.2.1", 80)):
    threading.Thread(target=reach, args=(address,)).start()
"""


@pytest.mark.parametrize("shell", ["sh", "/bin/sh", "bash", "/bin/busybox", "dash"])
def test_there_is_no_shell(serving: Serving, shell: str) -> None:
    code, output = serving.container.exec_run([shell, "-c", "true"])
    assert code in {126, 127}, output


@pytest.mark.parametrize("path", ["/opt/torchyard/server/new.py", "/model/model.pt", "/usr/bin/new", "/new"])
def test_nothing_can_be_written(serving: Serving, path: str) -> None:
    code, output = _python(serving, f"open({path!r}, 'ab')")
    assert code == 1
    assert "Read-only file system" in output or "Permission denied" in output


def test_tmp_cannot_be_executed_from(serving: Serving) -> None:
    program = (
        "import os, shutil, subprocess; shutil.copy('/usr/bin/python3.13', '/tmp/python');"
        "os.chmod('/tmp/python', 0o755); subprocess.run(['/tmp/python', '-V'])"
    )
    code, output = _python(serving, program)
    _python(serving, "import os; os.unlink('/tmp/python')")
    assert code == 1
    assert "Permission denied" in output


def test_user_is_unprivileged(serving: Serving) -> None:
    _, status = _python(serving, "print(open('/proc/1/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == set(fields["Gid"].split())
    assert "0" not in fields["Uid"].split()
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_there_is_no_way_out(serving: Serving) -> None:
    code, output = _python(serving, _REACH_OUT)
    assert code == 0, output
    assert output.split() == ["unreachable"] * 3


def test_file_system_is_unchanged(serving: Serving) -> None:
    assert not serving.container.diff()


def _python(serving: Serving, program: str) -> tuple[int, str]:
    code, output = serving.container.exec_run([PYTHON, "-I", "-c", program])
    assert code is not None
    assert isinstance(output, bytes)
    return code, output.decode(errors="replace")
