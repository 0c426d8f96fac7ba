"""What the model answered, as a response of the Open Inference Protocol over REST."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server import strings
from server.answers import Answer
from server.contract import Contract
from server.datatypes import Value, decode
from server.engine import Bytes
from server.refusal import Refusal
from server.request import Request

# NaN and infinity are not JSON (RFC 8259, section 6); allow_nan=False makes the encoder notice them at no cost.
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A body; its first `header_length` bytes are JSON and the rest binary tensors, or None where all is JSON."""

    body: bytes
    header_length: int | None


def render(contract: Contract, request: Request, answers: Sequence[Answer]) -> Response:
    """The response to a request.

    Raises:
        Refusal: 406, an output that is wanted as JSON holds NaN or an infinity, which JSON cannot say.
    """
    by_name = {answer.tensor.name: answer for answer in answers}
    outputs = []
    chunks: list[Bytes] = [b""]
    for wanted in request.outputs:
        answer = by_name[wanted.name]
        output: dict[str, Any] = {
            "name": wanted.name,
            "datatype": answer.tensor.datatype.name,
            "shape": answer.shape,
        }
        if wanted.binary:
            output["parameters"] = {"binary_data_size": len(answer.content)}
            chunks.append(answer.content)
        else:
            output["data"] = _data(answer)
        outputs.append(output)
    head: dict[str, Any] = {"model_name": contract.name, "model_version": contract.version, "outputs": outputs}
    if request.id is not None:
        head["id"] = request.id
    if request.parameters:
        head["parameters"] = request.parameters
    try:
        chunks[0] = _ENCODER.encode(head).encode()
    except ValueError as error:
        raise Refusal(406, _not_json(outputs)) from error
    return Response(body=b"".join(chunks), header_length=len(chunks[0]) if len(chunks) > 1 else None)


def _data(answer: Answer) -> Sequence[Value | str]:
    if answer.tensor.datatype.kind == "string":
        return strings.decode(answer.content)
    return decode(answer.tensor.datatype, answer.content)


def _not_json(outputs: list[dict[str, Any]]) -> str:
    index, output, value = next(
        (index, output, value)
        for output in outputs
        for index, value in enumerate(output.get("data", ()))
        if isinstance(value, float) and not math.isfinite(value)
    )
    return (
        f"outputs ({output['name']}.data[{index}]): the model answered {value}, which JSON cannot say (RFC 8259); "
        "request this output as binary data."
    )
