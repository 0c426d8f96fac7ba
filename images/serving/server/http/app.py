"""The Open Inference Protocol over REST, as an ASGI application: a framework would cost more than the routing does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from server import log
from server.http.body import Bodies, Disconnected, Receive
from server.http.elsewhere import LARGE, LARGE_ANSWER, Elsewhere
from server.http.routes import Routes, as_json
from server.inference.deadlines import earliest, reading
from server.inference.statistics import Statistics
from server.model.answers import Answer, ModelFailed
from server.model.contract import Contract
from server.model.engine import Input
from server.protocol import compression, describing, response
from server.protocol.compression import Encoding
from server.protocol.repeated import Parser
from server.protocol.request import Request, only_ready
from server.refusal import Refusal

Message: TypeAlias = dict[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]
State: TypeAlias = Literal["loading", "rehearsing", "ready", "draining"]

_HEADER_LENGTH = b"inference-header-content-length"
# How long a client waits, as Envoy tells, and with it the meshes that are built on it:
# https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter
_TIMEOUT = b"x-envoy-expected-rq-timeout-ms"
# An answer that is larger counts until its client has taken it.
_LARGE_ANSWER = 2**16
# What is asked of the index is `{"ready": true}`.
_LARGEST_QUESTION = 2**12
_JSON: Header = (b"content-type", b"application/json")


class Inference(Protocol):
    """Where the model runs, and what is counted there."""

    statistics: Statistics

    async def answer(self, inputs: Sequence[Input], *, deadline: float | None = None) -> Sequence[Answer]:
        """Runs the model on inputs in forward()'s order, unless `deadline`, an instant of time.monotonic(), has passed.

        Raises:
            ModelFailed: the model raised, or answered something other than its contract says.
            Refusal: 503, too many requests are waiting; 504, the deadline passed before the model ran.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the client."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (_JSON,)


@dataclass(slots=True)
class _Told:
    """What the headers of an inference say: the length of the JSON before binary tensors, or None where the body has
    none, how the body is compressed and how the answer may be, and the seconds that its client waits. Beside that the
    request's id, once it is known, and the bytes of its answer that are held."""

    length: int | None = None
    encoding: Encoding | None = None
    accepted: Encoding | None = None
    seconds: float | None = None
    id: str | None = None
    held: int = 0


class App:
    """Answers requests about one model.

    `state` is set from outside as the model gets ready and the server ends, and `stuck` while a run of the model takes
    longer than any should.
    """

    def __init__(
        self,
        contract: Contract,
        inference: Inference,
        *,
        bodies: Bodies,
        elsewhere: Elsewhere | None = None,
        deadline: float | None = None,
        requests: log.Requests | None = None,
    ) -> None:
        """Large JSON is parsed and rendered `elsewhere`. A request may take `deadline` seconds; `requests` tells of
        all."""
        self.state: State = "loading"
        self.stuck = False
        self._contract = contract
        self._inference = inference
        self._parser = Parser(contract)
        self._bodies = bodies
        self._elsewhere = elsewhere
        self._deadline = deadline
        self._requests = requests or log.Requests()
        self._routes = Routes(contract, inference.statistics)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serves one request (ASGI 3)."""
        began, told = time.monotonic(), _Told()
        try:
            reply = await self._reply(scope, receive, began, told)
        except Disconnected:
            return
        except asyncio.CancelledError:
            # Its client left; or there is no time left to answer, which he is told.
            if self.state != "draining":
                return
            reply = _refused(Refusal(503, "The server stopped before it had answered. Ask again.", retry_after=1))
        except Refusal as refusal:
            reply = _refused(refusal)
        except Exception as error:  # noqa: BLE001 (a bug at one request must not cost its client the answer)
            log.crash("request-failed", error, id=told.id)
            reply = Reply(500, as_json({"error": "The server failed at this request; its log says why."}))
        # A client that is told to close opens its next connection to a server that stays.
        close: tuple[Header, ...] = ()
        if self.state == "draining" or reply.status == 413:
            close = ((b"connection", b"close"),)
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), *close]
        seconds = time.monotonic() - began
        try:
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": reply.body, "more_body": told.held > 0})
            if told.held:
                # Sending goes on when the client has taken what was sent before.
                await send({"type": "http.response.body"})
        except asyncio.CancelledError:
            return
        finally:
            self._bodies.release(told.held)
        self._requests.tell(scope["path"], told.id, reply.status, seconds)

    async def _reply(self, scope: Mapping[str, Any], receive: Receive, began: float, told: _Told) -> Reply:
        route = self._routes.find(scope["method"], scope["path"])
        if route.action == "infer":
            return await self._infer(scope, receive, began, told)
        if route.action == "live" and self.stuck:
            raise Refusal(503, "Not live: a run of the model takes longer than TORCHYARD_STUCK_SECONDS.")
        if route.action == "ready" and (self.state != "ready" or self.stuck):
            raise Refusal(503, f"Not ready: {'stuck' if self.stuck else self.state}.")
        if route.action == "index":
            return await self._index(receive)
        body = route.tell() if route.tell else route.body
        return Reply(200, body, ((b"content-type", route.content_type),))

    async def _index(self, receive: Receive) -> Reply:
        body = await self._bodies.read(receive, largest=_LARGEST_QUESTION)
        self._bodies.release(len(body))
        return Reply(200, as_json(describing.index(self._contract, self.state, ready=only_ready(body))))

    async def _infer(self, scope: Mapping[str, Any], receive: Receive, began: float, told: _Told) -> Reply:
        _read(scope["headers"], told)
        body = await self._bodies.read(receive)
        held = len(body)
        try:
            if self.state == "loading":
                name = self._contract.name
                raise Refusal(503, f"Model {name!r} is loading; ask again when /v2/health/ready says 200.")
            if told.encoding:
                body = await compression.inflated("the body", told.encoding, body, most=self._bodies.largest)
                self._bodies.hold(len(body))
                held += len(body)
            request = await self._parsed(body, began, told)
            told.id = request.id
            reply = await self._rendered(request, await self._answers(request, began, told), held)
            if told.accepted and len(reply.body) >= compression.SMALLEST:
                reply = await self._compressed(reply, told.accepted, held)
        finally:
            self._bodies.release(held)
        if len(reply.body) > _LARGE_ANSWER:
            self._bodies.hold(len(reply.body), beside=0)
            told.held = len(reply.body)
        return reply

    async def _parsed(self, body: bytes, began: float, told: _Told) -> Request:
        if self._elsewhere is None or (len(body) if told.length is None else told.length) <= LARGE:
            return self._parser.parse(body, told.length)
        deadline = earliest(began, self._deadline, told.seconds)
        async with reading(began, deadline, self._inference.statistics):
            return await self._elsewhere.parse(body, told.length)

    async def _answers(self, request: Request, began: float, told: _Told) -> Sequence[Answer]:
        deadline = earliest(began, self._deadline, told.seconds, request.seconds)
        try:
            return await self._inference.answer(request.inputs, deadline=deadline)
        except ModelFailed as error:
            log.event("model-failed", level="error", id=request.id, error=str(error))
            # torch's message begins with the model's source code, which is for the log only.
            raise Refusal(500, f"The model failed at this request: {str(error).strip().splitlines()[-1]}") from error

    async def _rendered(self, request: Request, answers: Sequence[Answer], held: int) -> Reply:
        size = response.size_as_json(request, answers)
        if self._elsewhere is None or size <= LARGE_ANSWER:
            rendered = response.render(self._contract, request, answers)
        else:
            self._bodies.hold(size, beside=held)
            try:
                rendered = await self._elsewhere.render(request, answers, size)
            finally:
                self._bodies.release(size)
        if rendered.header_length is None:
            return Reply(200, rendered.body)
        binary = ((b"content-type", b"application/octet-stream"), (_HEADER_LENGTH, b"%d" % rendered.header_length))
        return Reply(200, rendered.body, binary)

    async def _compressed(self, reply: Reply, encoding: Encoding, held: int) -> Reply:
        """Compressed, which others may be waiting for: a large answer counts meanwhile."""
        size = len(reply.body) if len(reply.body) > compression.INLINE else 0
        if size:
            self._bodies.hold(size, beside=held)
        try:
            headers = (*reply.headers, (b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
            return Reply(reply.status, await compression.deflated(encoding, reply.body), headers)
        finally:
            self._bodies.release(size)


def _refused(refusal: Refusal) -> Reply:
    headers = [_JSON]
    if refusal.status == 405:
        headers.append((b"allow", refusal.allow.encode()))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    return Reply(refusal.status, as_json({"error": str(refusal)}), tuple(headers))


def _read(headers: Sequence[Header], told: _Told) -> None:
    """Reads what an inference says in its headers.

    Raises:
        Refusal: 400 where a number is none, 415 for a body that is compressed in a way that is not known here.
    """
    for name, value in headers:
        if name == _HEADER_LENGTH:
            told.length = _number("Inference-Header-Content-Length", value, "of bytes")
        elif name == _TIMEOUT:
            told.seconds = _number("X-Envoy-Expected-Rq-Timeout-Ms", value, "of milliseconds") / 1e3
        elif name == b"content-encoding":
            told.encoding = compression.named(value)
        elif name == b"accept-encoding":
            told.accepted = compression.accepted(value)


def _number(header: str, value: bytes, unit: str) -> int:
    if not (value.isdigit() and len(value) < 16):
        raise Refusal(400, f"{header}: expected a number {unit}, got {value[:50].decode('latin-1')!r}.")
    return int(value)
