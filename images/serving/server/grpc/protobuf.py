"""Inference requests and responses of the Open Inference Protocol over gRPC, as protobuf messages.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.grpc.messages import Messages
from server.grpc.raw import packed
from server.model import strings
from server.model.answers import Answer
from server.model.contract import Contract, Tensor
from server.model.datatypes import decode
from server.model.engine import Bytes, Input
from server.protocol import tensors
from server.protocol.request import OWN_PARAMETERS, seconds
from server.protocol.values import to_bytes
from server.refusal import Refusal

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# Elements at a time: one call into C keeps the GIL until it is done.
_TOGETHER = 2**16
# Extensions that change what a tensor is; taking no notice of them would answer something else than was asked for.
_UNKNOWN = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`inputs` are in the order of forward()'s arguments, `outputs` the names that are wanted, in their order.

    `raw` says whether the inputs came as raw contents: an answer comes back as the question came. The client waits for
    `seconds`, where it says so in the message.
    """

    message: Any
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    raw: bool
    seconds: float | None = None


def parse(contract: Contract, message: Any, raw: Sequence[memoryview]) -> Request:
    """Reads a ModelInferRequest that is for this model, and whose raw contents were taken out of it.

    Raises:
        Refusal: 400, naming the field, what was expected and what came.
    """
    entries = message.inputs
    if raw and len(raw) != len(entries):
        raise Refusal(400, f"raw_input_contents: expected one for each of {len(entries)} inputs, got {len(raw)}.")
    found: dict[str, Input] = {}
    for index, entry in enumerate(entries):
        tensor = tensors.named(f"inputs[{index}]", entry.name, contract.inputs)
        if tensor.name in found:
            raise Refusal(400, f"inputs[{index}].name: {tensor.name} is there twice.")
        found[tensor.name] = _input(index, entry, tensor, raw[index] if raw else None)
    if len(found) != len(contract.inputs):
        missing = ", ".join(tensor.name for tensor in contract.inputs if tensor.name not in found)
        raise Refusal(400, f"inputs: {missing} missing; the model takes all of its inputs.")
    inputs = tuple(found[tensor.name] for tensor in contract.inputs)
    outputs = _outputs(contract, message.outputs)
    return Request(message=message, inputs=inputs, outputs=outputs, raw=bool(raw), seconds=_seconds(message))


def _seconds(message: Any) -> float | None:
    if "timeout" not in message.parameters:
        return None
    parameter = message.parameters["timeout"]
    return seconds(getattr(parameter, parameter.WhichOneof("parameter_choice") or "", None))


def _input(index: int, entry: Any, tensor: Tensor, raw: memoryview | None) -> Input:
    field = f"inputs[{index}] ({tensor.name})"
    tensors.check_datatype(field, entry.datatype, tensor)
    shape = tensors.check_shape(field, tuple(entry.shape), tensor)
    _refuse_extensions(field, entry.parameters)
    if raw is None:
        return tensor.datatype.name, shape, _typed(f"{field}.contents", entry.contents, tensor, shape)
    if entry.HasField("contents"):
        raise Refusal(400, f"{field}.contents: expected none beside raw_input_contents.")
    tensors.check_raw(f"raw_input_contents[{index}] ({tensor.name})", raw, tensor, shape)
    return tensor.datatype.name, shape, raw


def _typed(field: str, contents: Any, tensor: Tensor, shape: tuple[int, ...]) -> Bytes:
    datatype = tensor.datatype
    if datatype.name not in _FIELDS:
        raise Refusal(400, f"{field}: {datatype.name} has no typed contents; send it in raw_input_contents.")
    expected = _FIELDS[datatype.name]
    for described, _ in contents.ListFields():
        if described.name != expected:
            raise Refusal(400, f"{field}: {datatype.name} takes {expected}, got {described.name}.")
    values = getattr(contents, expected)
    if datatype.kind == "string":
        return to_bytes(field, _texts(field, values), datatype, shape)
    if len(values) != math.prod(shape):
        return to_bytes(field, list(values), datatype, shape)
    content = bytearray()
    for at in range(0, len(values), _TOGETHER):
        part = values[at : at + _TOGETHER]
        if datatype.kind == "number":
            # NaN and infinity are values as good as any, other than in JSON.
            content += memoryview(array(datatype.code, part)).cast("B")
            continue
        try:
            content += to_bytes(field, part, datatype, (len(part),))
        except Refusal:
            # Said once more, so that it names the element by its place among all of them.
            return to_bytes(field, list(values), datatype, shape)
    return content


def _texts(field: str, values: Sequence[bytes]) -> list[str]:
    texts = []
    for index, value in enumerate(values):
        try:
            texts.append(value.decode())
        except UnicodeDecodeError as error:
            told = f"{field}[{index}]: not UTF-8 ({error.reason} at byte {error.start})."
            raise Refusal(400, told) from error
    return texts


def _outputs(contract: Contract, entries: Any) -> tuple[str, ...]:
    wanted: dict[str, None] = {}
    for index, entry in enumerate(entries):
        field = f"outputs[{index}]"
        name = tensors.named(field, entry.name, contract.outputs).name
        if name in wanted:
            raise Refusal(400, f"{field}.name: {name} is there twice.")
        _refuse_extensions(field, entry.parameters)
        wanted[name] = None
    return tuple(wanted) or tuple(tensor.name for tensor in contract.outputs)


def _refuse_extensions(field: str, parameters: Any) -> None:
    if parameters:
        for name in _UNKNOWN:
            if name in parameters:
                raise Refusal(400, f"{field}.parameters.{name}: this server does not have that extension.")


class Renderer:
    """Makes responses of one model."""

    def __init__(self, contract: Contract, messages: Messages) -> None:
        self._response = messages.get("inference.ModelInferResponse")
        self._contract = contract

    def render(self, request: Request, answers: Sequence[Answer]) -> list[Bytes]:
        """The parts of a serialized ModelInferResponse: raw contents to raw ones, and where a datatype has no typed
        contents."""
        response = self._response(
            model_name=self._contract.name, model_version=self._contract.version, id=request.message.id
        )
        for name, value in request.message.parameters.items():
            if name not in OWN_PARAMETERS:
                response.parameters[name].CopyFrom(value)
        by_name = {answer.tensor.name: answer for answer in answers}
        raw = request.raw or any(by_name[name].tensor.datatype.name not in _FIELDS for name in request.outputs)
        contents: list[Bytes] = []
        for name in request.outputs:
            answer = by_name[name]
            datatype = answer.tensor.datatype
            output = response.outputs.add(name=name, datatype=datatype.name, shape=answer.shape)
            if raw:
                contents.append(_lendable(answer.content))
            elif datatype.kind == "string":
                texts = strings.decode(answer.content)
                output.contents.bytes_contents.extend(text.encode() for text in texts)
            else:
                values, step = getattr(output.contents, _FIELDS[datatype.name]), _TOGETHER * datatype.size
                for at in range(0, len(answer.content), step):
                    values.extend(decode(datatype, answer.content[at : at + step]))
        return packed(response.SerializeToString(), contents)


def _lendable(content: Bytes) -> Bytes:
    """Bytes that may wait for a client: a view of one row would keep the whole batch until the client has read it."""
    is_part = isinstance(content, memoryview) and memoryview(content.obj).nbytes > content.nbytes
    return bytes(content) if is_part else content
