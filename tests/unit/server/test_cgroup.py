"""The cores and the memory that a container may use, from fixtures of both cgroup versions."""

import os
from pathlib import Path

import pytest

from server import cgroup


@pytest.fixture(autouse=True)
def eight_visible_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def _v1(root: Path, quota: str, period: str = "100000") -> None:
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text(period + "\n")


@pytest.mark.parametrize(
    ("limit", "cores", "threads"),
    [
        ("200000 100000", 2.0, 2),
        ("150000 100000", 1.5, 1),
        ("50000 100000", 0.5, 1),
        ("max 100000", 8.0, 8),
        ("1600000 100000", 8.0, 8),
        ("nonsense", 8.0, 8),
    ],
)
def test_v2(tmp_path: Path, limit: str, cores: float, threads: int) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert cgroup.cores(tmp_path) == cores
    assert cgroup.threads(tmp_path) == threads


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2.0), ("50000", 0.5), ("-1", 8.0), ("", 8.0)])
def test_v1(tmp_path: Path, quota: str, cores: float) -> None:
    _v1(tmp_path, quota)
    assert cgroup.cores(tmp_path) == cores


def test_without_a_cgroup_the_visible_cores_count(tmp_path: Path) -> None:
    assert cgroup.threads(tmp_path) == 8


def test_cores_that_may_not_be_used_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    _v1(tmp_path, "400000")
    assert cgroup.threads(tmp_path) == 1


@pytest.mark.parametrize(
    ("file", "content", "limit"),
    [
        ("memory.max", "536870912", 2**29),
        ("memory.max", "max", None),
        ("memory/memory.limit_in_bytes", "536870912", 2**29),
        ("memory/memory.limit_in_bytes", "9223372036854771712", None),
        ("nothing", "1", None),
    ],
)
def test_memory_is_that_of_the_container(tmp_path: Path, file: str, content: str, limit: int | None) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / file).write_text(content + "\n")
    assert cgroup.memory(tmp_path) == limit
