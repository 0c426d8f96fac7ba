"""What smoke sends while a server is stopped: large enough to take a while, and not more than the server holds."""

import json

import numpy as np
import pytest

from server import settings
from tests.smoke import test_stop as stopping
from tests.smoke.conftest import Sample


@pytest.mark.parametrize(("shape", "rows"), [((1, 3), 8), ((1, 3, 224, 224), 1), ((1, 3, 128, 128), 5)])
def test_requests_are_as_large_as_the_server_can_hold_together(shape: tuple[int, ...], rows: int) -> None:
    contract = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, *shape[1:]]}]}
    value = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    request = stopping._large_request(contract, Sample(inputs={"x": value}, outputs={}))
    assert request["inputs"][0]["shape"] == [rows, *shape[1:]]
    assert stopping._CLIENTS * len(json.dumps(request)) < settings.read({}).queue_size
