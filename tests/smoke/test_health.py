"""From start to ready, as an orchestrator watches it."""

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import requests
from tritonclient import grpc as triton_grpc

from tests.smoke.conftest import Serving


def test_health_goes_from_starting_to_healthy(serving: Serving) -> None:
    deadline = time.monotonic() + 30
    while serving.health() == "starting" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (serving.health_at_start, serving.health()) == ("starting", "healthy"), serving.log()


@pytest.mark.parametrize("path", ["v2/health/live", "v2/health/ready", "v2", "v2/"])
def test_server_answers(serving: Serving, path: str) -> None:
    assert requests.get(serving.url(path), timeout=5).status_code == 200


def test_grpc_is_ready(serving: Serving) -> None:
    with triton_grpc.InferenceServerClient(serving.grpc_address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()


def test_memory_at_rest(serving: Serving, record_testsuite_property: Callable[[str, object], None]) -> None:
    stats = cast(dict[str, Any], serving.container.stats(stream=False, one_shot=True))["memory_stats"]
    # What `docker stats` shows: the page cache that can go at once is not the server's (v1 and v2 name it differently).
    cache = stats["stats"].get("total_inactive_file", stats["stats"].get("inactive_file", 0))
    used = stats["usage"] - cache
    record_testsuite_property("memory_mib", round(used / 2**20, 1))
    assert used < stats["limit"]
