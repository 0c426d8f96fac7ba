"""What a process may still allocate, from what the kernel tells of it."""

import resource
from pathlib import Path

import pytest

from server import memory

_MIB = 2**20


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was set."""
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, 77))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: made.append(both))
    return made


@pytest.mark.parametrize(("resident", "most"), [(200, 300 + 512 - 200 - 32), (500, 300 + 32), (600, 300 + 32)])
def test_what_is_left_may_be_allocated(tmp_path: Path, limits: list[tuple[int, int]], resident: int, most: int) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nVmData:\t{300 * 1024} kB\nRssAnon:\t{resident * 1024} kB\n")
    assert memory.bound(512 * _MIB, status) == most * _MIB
    assert limits == [(most * _MIB, 77)]


@pytest.mark.parametrize("text", ["", "VmData:\t1 kB\n", "VmData:\tmuch\nRssAnon:\t1 kB\n", "VmData:\nRssAnon:\n"])
def test_nothing_is_bounded_where_the_kernel_does_not_tell(
    tmp_path: Path, limits: list[tuple[int, int]], text: str
) -> None:
    (tmp_path / "status").write_text(text)
    assert memory.bound(512 * _MIB, tmp_path / "status") is None
    assert memory.bound(512 * _MIB, tmp_path / "nowhere") is None
    assert not limits
