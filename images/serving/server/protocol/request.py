"""Inference requests of the Open Inference Protocol over REST: JSON and binary bodies to tensors.

Binary tensors are the protocol's binary tensor data extension:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from server.model import strings
from server.model.contract import Contract, Tensor
from server.model.engine import Bytes, Input
from server.protocol import tensors
from server.protocol.binary import Binary
from server.protocol.values import kind_of, to_bytes
from server.refusal import Refusal

# What a request tells the server rather than whoever reads the answer.
OWN_PARAMETERS = frozenset(
    ("binary_data_output", "priority", "sequence_end", "sequence_id", "sequence_start", "timeout")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """An output that the client wants, as raw bytes or as JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`inputs` are in the order of forward()'s arguments, `outputs` in the order in which they are wanted.

    `parameters` are those that mean nothing to this server: whoever reads the answer gets them back. The client waits
    for `seconds`, where it says so.
    """

    id: str | None
    parameters: dict[str, Any]
    seconds: float | None = None
    inputs: tuple[Input, ...]
    outputs: tuple[Requested, ...]


def parse(contract: Contract, body: bytes, header_length: int | None) -> Request:
    """Reads a request whose first `header_length` bytes are JSON and the rest binary tensors; None means all JSON.

    Raises:
        Refusal: 400, naming the field, what was expected and what came.
    """
    if header_length is not None and header_length > len(body):
        raise Refusal(
            400, f"Inference-Header-Content-Length: it is {header_length}, and the body has {len(body)} bytes."
        )
    head = _json(body if header_length is None else body[:header_length])
    binary = Binary(memoryview(b"" if header_length is None else body)[header_length or 0 :])
    inputs = _inputs(contract, _list(head, "inputs"), binary)
    binary.refuse_rest()
    parameters = _parameters("parameters", head)
    default = _flag("parameters", parameters, "binary_data_output", default=False)
    outputs = _outputs(contract, head, default)
    return Request(
        id=_id(head),
        parameters=_echoed(parameters),
        seconds=seconds(parameters.get("timeout", 0)),
        inputs=inputs,
        outputs=outputs,
    )


def seconds(timeout: object) -> float | None:
    """The parameter `timeout` of a request, which is in microseconds, in seconds; None for 0, as long as it takes.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_schedule_policy.md

    Raises:
        Refusal: 400, it is no such number.
    """
    if type(timeout) is not int or not 0 <= timeout < 2**63:
        got = str(timeout)[:50] if type(timeout) in {int, float} else kind_of(timeout)
        raise Refusal(400, f"parameters.timeout: expected a whole number of microseconds, got {got}.")
    return timeout / 1e6 or None


def _echoed(parameters: dict[str, Any]) -> dict[str, Any]:
    """What the protocol allows as parameters, and JSON can say: strings, booleans and finite numbers."""
    return {
        name: value
        for name, value in parameters.items()
        if name not in OWN_PARAMETERS
        and (isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)))
    }


def only_ready(body: bytes) -> bool:
    """Whether a request for the repository's index is about models that are ready only; the body may be empty.

    Raises:
        Refusal: 400, as above.
    """
    return _flag("the body", _json(body), "ready", default=False) if body else False


def _refuse_constant(name: str) -> NoReturn:
    raise Refusal(400, f"the body: {name} is not JSON (RFC 8259); send such values as binary tensors.")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _json(content: bytes) -> dict[str, Any]:
    try:
        head = _DECODER.decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body: not JSON ({error}).") from error
    if not isinstance(head, dict):
        raise Refusal(400, f"the body: expected a JSON object, got {kind_of(head)}.")
    return head


def _id(head: dict[str, Any]) -> str | None:
    identity = head.get("id")
    if identity is not None and not isinstance(identity, str):
        raise Refusal(400, f"id: expected a string, got {kind_of(identity)}.")
    return identity


def _list(head: dict[str, Any], field: str) -> list[Any]:
    if field not in head:
        raise Refusal(400, f"{field}: missing; expected a list of tensors.")
    found = head[field]
    if not isinstance(found, list):
        raise Refusal(400, f"{field}: expected a list of tensors, got {kind_of(found)}.")
    return found


def _named(field: str, entry: object, known: Sequence[Tensor], seen: Sequence[str]) -> tuple[dict[str, Any], Tensor]:
    """An entry of `inputs` or `outputs` and the tensor of the contract that it names."""
    if not isinstance(entry, dict):
        raise Refusal(400, f"{field}: expected an object, got {kind_of(entry)}.")
    tensor = tensors.named(field, entry.get("name"), known)
    if tensor.name in seen:
        raise Refusal(400, f"{field}.name: {tensor.name} is there twice.")
    return entry, tensor


def _parameters(field: str, holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refusal(400, f"{field}: expected an object, got {kind_of(parameters)}.")
    for name in ("shared_memory_region", "classification"):
        if name in parameters:
            raise Refusal(400, f"{field}.{name}: this server does not have that extension.")
    return parameters


def _flag(field: str, parameters: dict[str, Any], name: str, default: bool) -> bool:
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise Refusal(400, f"{field}.{name}: expected true or false, got {kind_of(flag)}.")
    return flag


def _inputs(contract: Contract, entries: list[Any], binary: Binary) -> tuple[Input, ...]:
    found: dict[str, Input] = {}
    for index, each in enumerate(entries):
        entry, tensor = _named(f"inputs[{index}]", each, contract.inputs, list(found))
        found[tensor.name] = _input(f"inputs[{index}] ({tensor.name})", entry, tensor, binary)
    missing = [tensor.name for tensor in contract.inputs if tensor.name not in found]
    if missing:
        raise Refusal(400, f"inputs: {', '.join(missing)} missing; the model takes all of its inputs.")
    return tuple(found[tensor.name] for tensor in contract.inputs)


def _input(field: str, entry: dict[str, Any], tensor: Tensor, binary: Binary) -> Input:
    tensors.check_datatype(field, entry.get("datatype"), tensor)
    shape = tensors.check_shape(field, entry.get("shape"), tensor)
    parameters = _parameters(f"{field}.parameters", entry)
    if ("data" in entry) == ("binary_data_size" in parameters):
        raise Refusal(400, f"{field}: expected either data or parameters.binary_data_size.")
    content: Bytes
    if "data" in entry:
        content = to_bytes(f"{field}.data", entry["data"], tensor.datatype, shape)
    else:
        content = _binary_input(field, parameters["binary_data_size"], tensor, shape, binary)
    return tensor.datatype.name, shape, content


def _binary_input(field: str, size: object, tensor: Tensor, shape: tuple[int, ...], binary: Binary) -> memoryview:
    field = f"{field}.parameters.binary_data_size"
    got = str(size)[:100] if type(size) is int else kind_of(size)
    if tensor.datatype.kind == "string":
        if type(size) is not int or size < 0:
            raise Refusal(400, f"{field}: expected a number of bytes, got {got}.")
        if size > strings.LARGEST:
            raise Refusal(400, f"{field}: {got} bytes of strings, and at most {strings.LARGEST} are taken.")
        content = binary.take(field, size)
    else:
        expected = math.prod(shape) * tensor.datatype.size
        if type(size) is not int or size != expected:
            raise Refusal(400, f"{field}: {tensor.datatype.name} of shape {list(shape)} takes {expected}, got {got}.")
        content = binary.take(field, size)
    tensors.check_raw(field, content, tensor, shape)
    return content


def _outputs(contract: Contract, head: dict[str, Any], default: bool) -> tuple[Requested, ...]:
    entries = _list(head, "outputs") if "outputs" in head else []
    if not entries:
        return tuple(Requested(name=tensor.name, binary=default) for tensor in contract.outputs)
    wanted: dict[str, Requested] = {}
    for index, each in enumerate(entries):
        entry, tensor = _named(f"outputs[{index}]", each, contract.outputs, list(wanted))
        field = f"outputs[{index}].parameters"
        binary = _flag(field, _parameters(field, entry), "binary_data", default)
        wanted[tensor.name] = Requested(name=tensor.name, binary=binary)
    return tuple(wanted.values())
