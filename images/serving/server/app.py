"""The Open Inference Protocol over REST, as an ASGI application: a framework would cost more than the routing does."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from server import log, response
from server.answers import Answer, ModelFailed
from server.contract import Contract
from server.engine import Input
from server.refusal import Refusal
from server.request import parse
from server.routes import Routes, as_json

Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]
State: TypeAlias = Literal["loading", "ready", "draining"]

_HEADER_LENGTH = b"inference-header-content-length"
_JSON: Header = (b"content-type", b"application/json")


class Inference(Protocol):
    """Where the model runs."""

    async def answer(self, inputs: Sequence[Input], *, deadline: float | None = None) -> Sequence[Answer]:
        """Runs the model on inputs in forward()'s order, unless `deadline`, an instant of time.monotonic(), has passed.

        Raises:
            ModelFailed: the model raised, or answered something other than its contract says.
            Refusal: 503, too many requests are waiting; 504, the deadline passed before the model ran.
        """
        ...


class Disconnected(Exception):
    """The client went away before its request was complete."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the client."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (_JSON,)


class App:
    """Answers requests about one model; `state` is set from outside as the model gets ready and the server ends."""

    def __init__(self, contract: Contract, inference: Inference, *, max_body: int) -> None:
        self.state: State = "loading"
        self._contract = contract
        self._inference = inference
        self._max_body = max_body
        self._routes = Routes(contract)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serves one request (ASGI 3)."""
        try:
            reply = await self._reply(scope, receive)
        except Disconnected:
            return
        except Refusal as refusal:
            reply = Reply(refusal.status, as_json({"error": str(refusal)}), (_JSON, *_told_with(refusal)))
        except Exception as error:  # noqa: BLE001 (a bug at one request must not cost its client the answer)
            log.crash("request-failed", error)
            reply = Reply(500, as_json({"error": "The server failed at this request; its log says why."}))
        # A client that is told to close opens its next connection to a server that stays.
        close: tuple[Header, ...] = ()
        if self.state == "draining" or reply.status == 413:
            close = ((b"connection", b"close"),)
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), *close]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Mapping[str, Any], receive: Receive) -> Reply:
        route = self._routes.find(scope["method"], scope["path"])
        if route.action == "infer":
            return await self._infer(scope, receive)
        if route.action == "ready" and self.state != "ready":
            raise Refusal(503, f"Not ready: {self.state}.")
        return Reply(200, route.body)

    async def _infer(self, scope: Mapping[str, Any], receive: Receive) -> Reply:
        length = _header_length(scope["headers"])
        body = await self._body(receive)
        if self.state == "loading":
            raise Refusal(503, f"Model {self._contract.name!r} is loading; ask again when /v2/health/ready says 200.")
        request = parse(self._contract, body, length)
        try:
            answers = await self._inference.answer(request.inputs)
        except ModelFailed as error:
            log.event("model-failed", level="error", error=str(error))
            # torch's message begins with the model's source code, which is for the log only.
            raise Refusal(500, f"The model failed at this request: {str(error).strip().splitlines()[-1]}") from error
        rendered = response.render(self._contract, request, answers)
        if rendered.header_length is None:
            return Reply(200, rendered.body)
        binary = ((b"content-type", b"application/octet-stream"), (_HEADER_LENGTH, b"%d" % rendered.header_length))
        return Reply(200, rendered.body, binary)

    async def _body(self, receive: Receive) -> bytes:
        """The request's body. Of one that is too large a part is read and dropped, so that its client reads the 413."""
        chunks: list[bytes] = []
        size, more = 0, True
        while more and size <= 2 * self._max_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size, more = size + len(chunk), message.get("more_body", False)
            if size <= self._max_body:
                chunks.append(chunk)
            else:
                chunks.clear()
        if size > self._max_body:
            raise Refusal(413, f"the body: at most {self._max_body} bytes are taken (TORCHYARD_MAX_BODY_MIB).")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _told_with(refusal: Refusal) -> Iterator[Header]:
    if refusal.allow:
        yield b"allow", refusal.allow.encode()
    if refusal.retry_after is not None:
        yield b"retry-after", b"%d" % refusal.retry_after


def _header_length(headers: Sequence[Header]) -> int | None:
    """The length of the JSON before binary tensors, or None where the body has none.

    Raises:
        Refusal: 400 where it is no length, 415 for a compressed body.
    """
    length = None
    for name, value in headers:
        if name == _HEADER_LENGTH:
            if not (value.isdigit() and len(value) < 16):
                got = value[:50].decode("latin-1")
                raise Refusal(400, f"Inference-Header-Content-Length: expected a number of bytes, got {got!r}.")
            length = int(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            got = value[:50].decode("latin-1")
            raise Refusal(415, f"Content-Encoding: this server takes bodies as they are, got {got!r}.")
    return length
