"""The samples over the wire: the container answers what the trained model answered."""

import statistics
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton

from tests.smoke.conftest import Deviation, Sample, Serving, assert_agrees

# One client asks so often, for a second or so.
_FEWEST, _MOST, _SECONDS = 5, 100, 1.0
# Where numpy has another name for a datatype of the protocol than the datatype's own in lower case.
_NUMPY = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BOOL": np.bool_, "BYTES": np.object_}


@pytest.fixture
def client(serving: Serving) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(serving.address) as client:
        yield client


def test_metadata_is_the_contract(client: triton.InferenceServerClient, contract: dict[str, Any]) -> None:
    metadata = client.get_model_metadata(contract["name"])
    assert metadata["name"] == contract["name"]
    assert metadata["versions"] == [contract["version"]]
    assert metadata["inputs"] == contract["inputs"]
    assert metadata["outputs"] == contract["outputs"]


def test_samples_agree_in_binary(
    client: triton.InferenceServerClient,
    contract: dict[str, Any],
    samples: list[Sample],
    probes: list[Sample],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    found = {tensor["name"]: Deviation() for tensor in contract["outputs"]}
    judges_probes = contract.get("probes", {}).get("judged", True)
    for sample, judged in [(sample, True) for sample in samples] + [(probe, judges_probes) for probe in probes]:
        answer = client.infer(contract["name"], [_tensor(contract, name, x) for name, x in sample.inputs.items()])
        for name, expected in sample.outputs.items():
            if judged:
                assert_agrees(answer.as_numpy(name), expected, contract["tolerance"], sample.rounding.get(name, 0.0))
            found[name].add(answer.as_numpy(name), expected)
    assert samples
    for name, deviation in found.items():
        for figure, value in deviation.found().items():
            record_testsuite_property(f"wire.{name}.{figure}", value)
    record_testsuite_property("max_abs", max(deviation.found()["max_abs"] for deviation in found.values()))


def test_one_client_is_answered_again_and_again(
    client: triton.InferenceServerClient,
    contract: dict[str, Any],
    samples: list[Sample],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    inputs = [_tensor(contract, name, x) for name, x in samples[0].inputs.items()]
    latencies, until = list[float](), time.monotonic() + _SECONDS
    while len(latencies) < _FEWEST or (len(latencies) < _MOST and time.monotonic() < until):
        asked = time.monotonic()
        answer = client.infer(contract["name"], inputs)
        latencies.append(time.monotonic() - asked)
        assert all(answer.as_numpy(name) is not None for name in samples[0].outputs)
    # What a channel may have a budget for, and what two releases differ in: `inv bench` measures how much it can do.
    record_testsuite_property("p50_ms", round(statistics.median(latencies) * 1e3, 3))


def test_samples_agree_in_json(serving: Serving, contract: dict[str, Any], samples: list[Sample]) -> None:
    datatypes = {tensor["name"]: tensor["datatype"] for tensor in (*contract["inputs"], *contract["outputs"])}
    for sample in samples:
        inputs = [
            {"name": name, "datatype": datatypes[name], "shape": list(x.shape), "data": x.ravel().tolist()}
            for name, x in sample.inputs.items()
        ]
        response = requests.post(
            serving.url(f"v2/models/{contract['name']}/infer"), json={"id": "smoke", "inputs": inputs}, timeout=60
        )
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["id"] == "smoke"
        for output in answer["outputs"]:
            kind = _NUMPY.get(output["datatype"], output["datatype"].lower())
            tensor = np.array(output["data"], dtype=kind).reshape(output["shape"])
            assert_agrees(tensor, sample.outputs[output["name"]], contract["tolerance"])


def test_samples_agree_over_grpc(serving: Serving, contract: dict[str, Any], samples: list[Sample]) -> None:
    with triton_grpc.InferenceServerClient(serving.grpc_address) as client:
        metadata = client.get_model_metadata(contract["name"], as_json=True)
        assert [tensor["name"] for tensor in metadata["inputs"]] == [tensor["name"] for tensor in contract["inputs"]]
        for sample in samples:
            inputs = [_tensor(contract, name, x, triton_grpc) for name, x in sample.inputs.items()]
            answer = client.infer(contract["name"], inputs, request_id="smoke")
            assert answer.get_response().id == "smoke"
            for name, expected in sample.outputs.items():
                assert_agrees(answer.as_numpy(name), expected, contract["tolerance"])


def _tensor(
    contract: dict[str, Any], name: str, value: np.ndarray[Any, Any], module: ModuleType = triton
) -> triton.InferInput:
    datatype = next(tensor["datatype"] for tensor in contract["inputs"] if tensor["name"] == name)
    tensor = module.InferInput(name, list(value.shape), datatype)
    tensor.set_data_from_numpy(value)
    return tensor
