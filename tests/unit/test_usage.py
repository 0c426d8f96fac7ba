"""What Docker says of a container's cgroup, version 1 and 2, as what the container uses."""

from typing import Any

import pytest

from pipeline.engine import Process, Usage
from pipeline.engine.usage import process, seconds_since_epoch, usage

V1 = {"total_inactive_file": 300, "total_rss": 500, "inactive_file": 1, "rss": 2}
V2 = {"inactive_file": 300, "anon": 500}


@pytest.mark.parametrize("detail", [V1, V2], ids=["v1", "v2"])
def test_the_working_set_leaves_out_file_pages_that_are_not_in_use(detail: dict[str, int]) -> None:
    stats: dict[str, Any] = {
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
        "memory_stats": {"usage": 1000, "stats": detail},
    }
    assert usage(stats) == Usage(cpu_seconds=2.5, working_set=700, anonymous=500)


def test_a_process_is_what_was_printed_of_it() -> None:
    assert process("12 4096\n") == Process(descriptors=12, resident=4096)


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [("1970-01-01T00:00:01.123456789Z", 1.123456789), ("1970-01-01T00:01:00Z", 60.0)],
)
def test_dockers_stamps_are_seconds(stamp: str, seconds: float) -> None:
    assert seconds_since_epoch(stamp) == pytest.approx(seconds)
