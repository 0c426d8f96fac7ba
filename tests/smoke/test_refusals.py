"""Bad requests: an answer that says what is wrong, and a server that goes on."""

import json
from typing import Any

import grpc
import pytest
import requests
from tritonclient.utils import serialize_byte_tensor

from tests.smoke.conftest import Sample, Serving

_BROKEN: dict[str, Any] = {
    "no_json": lambda _: b"{",
    "not_an_object": lambda _: b"[]",
    "no_inputs": lambda _: b"{}",
    "unknown_input": lambda tensor: _body(tensor | {"name": "nobody"}),
    "wrong_datatype": lambda tensor: _body(tensor | {"datatype": "FP8"}),
    "wrong_rank": lambda tensor: _body(tensor | {"shape": [1] * 9}),
    "negative_shape": lambda tensor: _body(tensor | {"shape": [-1 for _ in tensor["shape"]]}),
    "huge_shape": lambda tensor: _body(tensor | {"shape": [2**40 for _ in tensor["shape"]]}),
    "too_little_data": lambda tensor: _body(tensor | {"data": tensor["data"][:-1]}),
    "too_much_data": lambda tensor: _body(tensor | {"data": [*tensor["data"], 0]}),
    "data_of_another_kind": lambda tensor: _body(tensor | {"data": [{} for _ in tensor["data"]]}),
}


@pytest.mark.parametrize("kind", _BROKEN)
def test_bad_request_is_a_4xx(serving: Serving, contract: dict[str, Any], samples: list[Sample], kind: str) -> None:
    (name, value), *_ = samples[0].inputs.items()
    declared = next(tensor for tensor in contract["inputs"] if tensor["name"] == name)
    tensor = {
        "name": name,
        "datatype": declared["datatype"],
        "shape": list(value.shape),
        "data": value.ravel().tolist(),
    }
    response = requests.post(
        serving.url(f"v2/models/{contract['name']}/infer"),
        data=_BROKEN[kind](tensor),
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    _assert_refused(response)


@pytest.mark.parametrize("path", ["v2/models/nobody/infer", "v2/models/nobody", "v2/nowhere", "../../etc/passwd"])
def test_unknown_path_is_a_404(serving: Serving, path: str) -> None:
    response = requests.post(serving.url(path), data=b"{}", timeout=30)
    _assert_refused(response)
    assert response.status_code in {404, 405}


def test_binary_header_that_lies_is_a_4xx(serving: Serving, contract: dict[str, Any]) -> None:
    response = requests.post(
        serving.url(f"v2/models/{contract['name']}/infer"),
        data=b"{}",
        headers={"Inference-Header-Content-Length": "4096"},
        timeout=30,
    )
    _assert_refused(response)


@pytest.mark.parametrize("cut", [-1, 1])
def test_binary_that_ends_wrongly_is_a_4xx(
    serving: Serving, contract: dict[str, Any], samples: list[Sample], cut: int
) -> None:
    """Its size says what comes, but a byte is missing from the tensor, or one is too many."""
    (name, value), *_ = samples[0].inputs.items()
    declared = next(tensor for tensor in contract["inputs"] if tensor["name"] == name)
    content = serialize_byte_tensor(value).item() if declared["datatype"] == "BYTES" else value.tobytes()
    content = content[:cut] if cut < 0 else content + bytes(cut)
    tensor = {"name": name, "datatype": declared["datatype"], "shape": list(value.shape)}
    head = _body(tensor | {"parameters": {"binary_data_size": len(content)}})
    response = requests.post(
        serving.url(f"v2/models/{contract['name']}/infer"),
        data=head + content,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=30,
    )
    _assert_refused(response)


@pytest.mark.parametrize(
    ("method", "content", "code"),
    [
        ("ModelInfer", b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelInfer", b"\x0a\x06nobody", grpc.StatusCode.NOT_FOUND),
        ("Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_bad_call_has_the_right_code(serving: Serving, method: str, content: bytes, code: grpc.StatusCode) -> None:
    with grpc.insecure_channel(serving.grpc_address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(content, timeout=30)
    assert refused.value.code() == code
    assert refused.value.details()


def _body(tensor: dict[str, Any]) -> bytes:
    return json.dumps({"inputs": [tensor]}).encode()


def _assert_refused(response: requests.Response) -> None:
    assert 400 <= response.status_code < 500, f"{response.status_code}: {response.text[:200]}"
    error = response.json()["error"]
    assert isinstance(error, str)
    assert error
