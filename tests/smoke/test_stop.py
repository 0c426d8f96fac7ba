"""SIGTERM: accepted work is finished, then the process ends with 0."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import requests

from tests.smoke.conftest import Sample, Serving

_CLIENTS = 8
# Bytes of tensors in a request: JSON takes several times as many, and the server has to hold all requests at once.
_MOST = 2**20


def test_sigterm_loses_nothing(
    short_lived: Serving,
    contract: dict[str, Any],
    samples: list[Sample],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    record_testsuite_property("ready_seconds", round(short_lived.ready_after, 3))
    body = _large_request(contract, samples[0])
    url = short_lived.url(f"v2/models/{contract['name']}/infer")
    with ThreadPoolExecutor(_CLIENTS) as pool:
        answers = [pool.submit(requests.post, url, json=body, timeout=60) for _ in range(_CLIENTS)]
        # Time for the requests to reach the server, and too little to answer them all.
        time.sleep(0.1)
        stopped = time.monotonic()
        short_lived.container.kill(signal="SIGTERM")
        assert [answer.result().status_code for answer in answers] == [200] * _CLIENTS
    code = short_lived.container.wait(timeout=30)["StatusCode"]
    record_testsuite_property("stop_seconds", round(time.monotonic() - stopped, 3))
    assert code == 0, short_lived.log()


def _large_request(contract: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """The sample, repeated along its first dimension where the contract leaves that free, so that it takes a while."""
    inputs = []
    times = max(1, min(8, _MOST // max(1, sum(value.nbytes for value in sample.inputs.values()))))
    for declared in contract["inputs"]:
        value = sample.inputs[declared["name"]]
        if declared["shape"][0] == -1:
            value = np.concatenate([value] * times)
        shape, data = list(value.shape), value.ravel().tolist()
        inputs.append({"name": declared["name"], "datatype": declared["datatype"], "shape": shape, "data": data})
    return {"inputs": inputs}
