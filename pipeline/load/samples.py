"""The samples as raw tensors, and whether what a server answers is what they say."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from pipeline.artifacts import Archive, Tolerance

_NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTensor:
    """A tensor as the binary extension has it: row-major little-endian bytes; strings each with a 4-byte length."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Inputs in forward()'s order, and what the trained model answered."""

    inputs: tuple[RawTensor, ...]
    outputs: tuple[RawTensor, ...]


def samples(archive: Archive) -> tuple[Sample, ...]:
    """The samples of an archive, in their order."""
    tensors = dict(safetensors.deserialize(archive.samples.path.read_bytes()))  # type: ignore[no-untyped-call]
    spec = archive.trained.spec
    numbers = sorted({int(key.split("/")[0]) for key in tensors})

    def gathered(number: int, kind: str) -> tuple[RawTensor, ...]:
        declared = spec.inputs if kind == "input" else spec.outputs
        return tuple(_raw(each.name, each.datatype, tensors[f"{number}/{kind}/{each.name}"]) for each in declared)

    return tuple(Sample(inputs=gathered(n, "input"), outputs=gathered(n, "output")) for n in numbers)


def _raw(name: str, datatype: str, found: Mapping[str, Any]) -> RawTensor:
    content = bytes(found["data"])
    shape = (len(strings(content)),) if datatype == "BYTES" else tuple(found["shape"])
    return RawTensor(name=name, datatype=datatype, shape=shape, content=content)


def strings(content: bytes) -> list[str]:
    """The elements of a BYTES tensor: each is its length in 4 bytes, little-endian, and then its UTF-8."""
    found, at = [], 0
    while at < len(content):
        start = at + 4
        at = start + int.from_bytes(content[at:start], "little")
        found.append(content[start:at].decode())
    return found


def values(tensor: RawTensor) -> NDArray[Any]:
    """A tensor's elements in its shape; BF16 as FP32, strings as objects.

    Raises:
        ValueError: its bytes do not make its shape.
    """
    if tensor.datatype == "BYTES":
        return np.array(strings(tensor.content), dtype=np.object_).reshape(tensor.shape)
    if tensor.datatype == "BF16":
        upper = np.frombuffer(tensor.content, "<u2").astype(np.uint32) << 16
        return upper.view(np.float32).reshape(tensor.shape)
    return np.frombuffer(tensor.content, _NUMPY[tensor.datatype]).reshape(tensor.shape)


def wrong(sample: Sample, json_length: int | None, body: bytes, tolerance: Tolerance) -> str | None:
    """What is wrong with the body of an answer to a sample, if anything: |answer - expected| <= absolute + relative *
    |expected| is right. `json_length` is its Inference-Header-Content-Length, if it has one.
    """
    return differing(sample, partial(_tensors, json_length, body), tolerance)


def differing(sample: Sample, read: Callable[[], Sequence[RawTensor]], tolerance: Tolerance) -> str | None:
    """The same of an answer whose outputs `read` gives, or raises ValueError, KeyError, TypeError or AttributeError
    where it is none."""
    try:
        answered = {tensor.name: values(tensor) for tensor in read()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"no answer of the protocol ({type(error).__name__}: {error})"
    for expected in sample.outputs:
        if expected.name not in answered:
            return f"output {expected.name} is missing"
        told = _differs(answered[expected.name], values(expected), tolerance)
        if told:
            return f"output {expected.name} {told}"
    return None


def _tensors(json_length: int | None, body: bytes) -> list[RawTensor]:
    content = json.loads(body[:json_length])
    at = len(body) if json_length is None else json_length
    found = []
    for output in content["outputs"]:
        datatype, shape = output["datatype"], tuple(output["shape"])
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            raw = encoded(output["data"], datatype)
        else:
            raw, at = body[at : at + size], at + size
        found.append(RawTensor(name=output["name"], datatype=datatype, shape=shape, content=raw))
    return found


def encoded(data: list[Any], datatype: str) -> bytes:
    """A flat list of values out of JSON, as raw bytes."""
    if datatype == "BYTES":
        parts = (text.encode() for text in data)
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    if datatype == "BF16":
        return (np.array(data, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return np.array(data, _NUMPY[datatype]).tobytes()


def _differs(answer: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance) -> str | None:
    if answer.shape != expected.shape:
        return f"has shape {list(answer.shape)}, expected {list(expected.shape)}"
    if expected.dtype == np.object_:
        return None if answer.tolist() == expected.tolist() else "has other strings than expected"
    one, other = answer.astype(np.float64), expected.astype(np.float64)
    close = np.isclose(one, other, atol=tolerance.absolute, rtol=tolerance.relative, equal_nan=True)
    if close.all():
        return None
    return f"differs by up to {np.nanmax(np.abs(one - other)):.3g} in {int((~close).sum())} of {close.size} elements"
