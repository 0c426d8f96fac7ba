"""One binary request over and over on a kept connection; lean, because what it costs is measured with the server."""

import json
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from server.model.contract import Contract
from server.model.engine import Input

_TIMEOUT = 60


class Client:
    """Sends the same inference request to a server; closed by leaving its `with` block."""

    def __init__(self, address: tuple[str, int], contract: Contract, inputs: Sequence[Input]) -> None:
        """Connects. Raises OSError when nobody listens."""
        self._request = request(contract, inputs)
        self._socket = socket.create_connection(address, _TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def infer(self) -> bytes:
        """The body of the answer.

        Raises:
            ConnectionError: the server hung up, or answered something other than 200.
        """
        self._socket.sendall(self._request)
        answer = self._socket.recv(2**16)
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n")
        if b" 200 " not in status:
            raise ConnectionError(f"the server answered {status.decode('latin-1')}: {body[:200].decode('latin-1')}")
        length = next(int(field.partition(b":")[2]) for field in fields if field.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += self._more()
        return body

    def _more(self) -> bytes:
        received = self._socket.recv(2**16)
        if not received:
            raise ConnectionError("the server closed the connection in the middle of an answer")
        return received


def request(contract: Contract, inputs: Sequence[Input]) -> bytes:
    """An HTTP request with every tensor as raw bytes, asking for the same (OIP, binary tensor data extension)."""
    tensors = [bytes(content) for _, _, content in inputs]
    described = [
        {"name": tensor.name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": len(raw)}}
        for tensor, (datatype, shape, _), raw in zip(contract.inputs, inputs, tensors, strict=True)
    ]
    header = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    body = b"".join([header, *tensors])
    fields = (
        f"POST /v2/models/{contract.name}/infer HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(header)}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*fields, "\r\n"]).encode() + body
