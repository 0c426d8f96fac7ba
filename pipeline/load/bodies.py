"""A sample as a request of the Open Inference Protocol: over HTTP, in JSON or with binary tensors, and over gRPC.

https://github.com/kserve/open-inference-protocol and Triton's binary tensor data extension.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from tritonclient.grpc import service_pb2

from pipeline.load.samples import RawTensor, Sample, strings, values

Protocol: TypeAlias = Literal["rest-binary", "rest-json", "grpc"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What is POSTed to `path`, with header `fields`."""

    path: str
    fields: tuple[tuple[str, str], ...]
    content: bytes

    def http(self) -> bytes:
        """The whole request as HTTP/1.1 has it."""
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(self.content)}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        return "\r\n".join([*lines, "\r\n"]).encode() + self.content


def body(model: str, sample: Sample, protocol: Protocol) -> Body:
    """The sample as a request for `model`."""
    return {"rest-binary": _binary, "rest-json": _json, "grpc": _grpc}[protocol](model, sample)


def _binary(model: str, sample: Sample) -> Body:
    """Every tensor as raw bytes, asking for the same."""
    inputs = [
        _described(tensor) | {"parameters": {"binary_data_size": len(tensor.content)}} for tensor in sample.inputs
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    fields = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(head))),
    )
    content = b"".join([head, *(tensor.content for tensor in sample.inputs)])
    return Body(path=f"/v2/models/{model}/infer", fields=fields, content=content)


def _json(model: str, sample: Sample) -> Body:
    inputs = [_described(tensor) | {"data": _data(tensor)} for tensor in sample.inputs]
    content = json.dumps({"inputs": inputs}).encode()
    return Body(path=f"/v2/models/{model}/infer", fields=(("Content-Type", "application/json"),), content=content)


def _grpc(model: str, sample: Sample) -> Body:
    """A ModelInferRequest with raw contents, in gRPC's frame: not compressed, then the length in 4 bytes, big-endian.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
    """
    inputs = [
        service_pb2.ModelInferRequest.InferInputTensor(name=each.name, datatype=each.datatype, shape=each.shape)
        for each in sample.inputs
    ]
    raw = [tensor.content for tensor in sample.inputs]
    message = service_pb2.ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=raw).SerializeToString()
    return Body(
        path="/inference.GRPCInferenceService/ModelInfer",
        fields=(("content-type", "application/grpc"), ("te", "trailers")),
        content=b"\0" + len(message).to_bytes(4, "big") + message,
    )


def answered(message: bytes) -> list[RawTensor]:
    """The outputs of a ModelInferResponse with raw contents.

    Raises:
        ValueError: it is none.
    """
    try:
        response = service_pb2.ModelInferResponse.FromString(message)
    except Exception as error:
        # protobuf's own, which has no name here: only Triton's client is at home in this layer.
        raise ValueError(str(error)) from error
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return [
        RawTensor(name=each.name, datatype=each.datatype, shape=tuple(each.shape), content=content)
        for each, content in pairs
    ]


def _described(tensor: RawTensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _data(tensor: RawTensor) -> list[Any]:
    return strings(tensor.content) if tensor.datatype == "BYTES" else list(values(tensor).ravel().tolist())
