"""Unit tests cannot touch the world: opening a socket or starting a process makes them fail."""

import socket
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from tests.unit.fake_engine import FakeEngine


def _refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a unit test must not open a socket or start a process")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes sockets and processes fail, and HOME an empty folder."""
    monkeypatch.setattr(socket.socket, "connect", _refuse)
    monkeypatch.setattr(socket.socket, "bind", _refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", _refuse)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()
