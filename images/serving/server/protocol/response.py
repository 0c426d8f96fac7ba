"""What the model answered, as a response of the Open Inference Protocol over REST."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from server.model import strings
from server.model.answers import Answer
from server.model.contract import Contract
from server.model.datatypes import Value, decode
from server.model.engine import Bytes
from server.protocol.request import Request
from server.refusal import Refusal

# NaN and infinity are not JSON (RFC 8259, section 6); allow_nan=False makes the encoder notice them at no cost.
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
# Elements that are Python's numbers at a time: each takes several times as much memory as its text.
_TOGETHER = 2**16


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
    chunks: list[Bytes] = [b""]
    outputs = []
    for wanted in request.outputs:
        answer = by_name[wanted.name]
        if wanted.binary:
            data = f'"parameters":{{"binary_data_size":{len(answer.content)}}}'
            chunks.append(answer.content)
        else:
            data = f'"data":{_data(answer)}'
        shape = ",".join(map(str, answer.shape))
        named = f'"name":{_quoted(wanted.name)},"datatype":"{answer.tensor.datatype.name}"'
        outputs.append(f'{{{named},"shape":[{shape}],{data}}}')
    model = f'"model_name":{_quoted(contract.name)},"model_version":{_quoted(contract.version)}'
    identity = "" if request.id is None else f',"id":{_ENCODER.encode(request.id)}'
    parameters = f',"parameters":{_ENCODER.encode(request.parameters)}' if request.parameters else ""
    chunks[0] = f'{{{model},"outputs":[{",".join(outputs)}]{identity}{parameters}}}'.encode()
    return Response(body=b"".join(chunks), header_length=len(chunks[0]) if len(chunks) > 1 else None)


def size_as_json(request: Request, answers: Sequence[Answer]) -> int:
    """How many bytes of answers a request wants as JSON."""
    wanted = {each.name for each in request.outputs if not each.binary}
    return sum(len(answer.content) for answer in answers if answer.tensor.name in wanted)


# Names come from the contract, so that there are few.
_quoted = lru_cache(maxsize=None)(_ENCODER.encode)


def _data(answer: Answer) -> str:
    datatype, content = answer.tensor.datatype, answer.content
    if datatype.kind == "string":
        return _ENCODER.encode(strings.decode(content))
    step = _TOGETHER * datatype.size
    texts = []
    for at in range(0, len(content), step):
        values = decode(datatype, content[at : at + step])
        try:
            texts.append(_ENCODER.encode(values)[1:-1])
        except ValueError as error:
            raise Refusal(406, _not_json(answer.tensor.name, at // datatype.size, values)) from error
    return f"[{','.join(texts)}]"


def _not_json(name: str, first: int, values: Sequence[Value]) -> str:
    index, value = next((index, value) for index, value in enumerate(values, first) if not math.isfinite(value))
    return (
        f"outputs ({name}.data[{index}]): the model answered {value}, which JSON cannot say (RFC 8259); "
        "request this output as binary data."
    )
