"""The gRPC services of one model: inference with Triton's extensions, health and reflection."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias, TypeVar

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from server import log
from server.grpc import protobuf
from server.grpc.calls import Call, Streaming, Unary
from server.grpc.held import Held
from server.grpc.messages import Messages
from server.grpc.raw import unpacked
from server.grpc.status import Code, Failed
from server.http.app import Inference, State
from server.inference.deadlines import earliest, reading
from server.model.answers import ModelFailed
from server.model.contract import Contract
from server.model.engine import Bytes
from server.protocol import describing
from server.refusal import Refusal

_SERVICE = "inference.GRPCInferenceService"
_HEALTH = "grpc.health.v1.Health"
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
# How soon a watcher learns that the state changed.
_WATCH_SECONDS = 0.2
# A request that is no inference says little.
_LARGEST = 2**16
# Typed contents that take longer than some milliseconds, element by element; one after the other, since each becomes
# many times as large.
_LARGE = 2**17
_BESIDE = ThreadPoolExecutor(max_workers=1, thread_name_prefix="typed-contents")
_Made = TypeVar("_Made")
# From a request to what protobuf's JSON mapping makes the response of.
_Tell: TypeAlias = Callable[[Any], dict[str, Any]]


class Stateful(Protocol):
    """Whoever knows whether the model is ready."""

    @property
    def state(self) -> State:
        """What the server is doing."""
        ...

    @property
    def stuck(self) -> bool:
        """Whether a run of the model takes longer than any should."""
        ...


class Services:
    """Every method; a request for another model or version is NOT_FOUND."""

    def __init__(
        self,
        contract: Contract,
        inference: Inference,
        messages: Messages,
        *,
        held: Held,
        server: Stateful,
        deadline: float | None = None,
    ) -> None:
        """A request may take `deadline` seconds, or less where its client says so."""
        self._contract = contract
        self._inference = inference
        self._messages = messages
        self._held = held
        self._server = server
        self._statistics = inference.statistics
        self._deadline = deadline
        self._renderer = protobuf.Renderer(contract, messages)
        self._request = messages.get("inference.ModelInferRequest")

    @property
    def unary(self) -> Mapping[bytes, Unary]:
        """Methods by path that take one message and give one."""
        told: dict[str, _Tell] = {
            "ServerLive": lambda _: {"live": not self._server.stuck},
            "ServerReady": lambda _: {"ready": self._ready},
            "ModelReady": self._about_model(lambda _: {"ready": self._ready}),
            "ServerMetadata": lambda _: describing.server_metadata(),
            "ModelMetadata": self._about_model(lambda _: describing.metadata(self._contract)),
            "ModelConfig": self._about_model(lambda _: {"config": describing.configuration(self._contract)}),
            "ModelStatistics": self._about_model(
                lambda _: describing.statistics(self._contract, self._statistics), needs_name=False
            ),
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": _read_only,
            "RepositoryModelUnload": _read_only,
        }
        paths = {f"/{_SERVICE}/{name}".encode(): self._telling(_SERVICE, name, tell) for name, tell in told.items()}
        paths[f"/{_HEALTH}/Check".encode()] = self._telling(_HEALTH, "Check", self._check)
        return {**paths, f"/{_SERVICE}/ModelInfer".encode(): self._infer}

    @property
    def streaming(self) -> Mapping[bytes, Streaming]:
        """Methods by path that take or give many messages."""
        return {
            f"/{_HEALTH}/Watch".encode(): self._watch,
            f"/{_REFLECTION}/ServerReflectionInfo".encode(): self._reflect,
            # Clients try this one first; its messages are the same but for the name of their package.
            b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": self._reflect,
        }

    @property
    def _ready(self) -> bool:
        return self._server.state == "ready" and not self._server.stuck

    def _telling(self, service: str, name: str, tell: _Tell) -> Unary:
        method = self._messages.pool.FindServiceByName(service).FindMethodByName(name)
        request = self._messages.get(method.input_type.full_name)
        response = self._messages.get(method.output_type.full_name)

        async def answer(content: bytes, _: Call) -> Sequence[Bytes]:
            if len(content) > _LARGEST:
                raise Refusal(413, f"the message: at most {_LARGEST} bytes are taken, got {len(content)}.")
            return (ParseDict(tell(_parsed(request, content)), response()).SerializeToString(),)

        return answer

    def _about_model(self, tell: _Tell, *, needs_name: bool = True) -> _Tell:
        def about(request: Any) -> dict[str, Any]:
            if needs_name or request.name:
                self._refuse_others(request.name, request.version)
            return tell(request)

        return about

    def _refuse_others(self, name: str, version: str) -> None:
        contract = self._contract
        if name != contract.name:
            raise Refusal(404, f"There is no model {name[:200]!r}; this server has {contract.name!r}.")
        if version not in {"", contract.version}:
            told = f"Model {name!r} has no version {version[:200]!r}; this server has {contract.version!r}."
            raise Refusal(404, told)

    async def _infer(self, content: bytes, call: Call) -> Sequence[Bytes]:
        rest, raw = unpacked(content)
        deadline = earliest(call.opened, self._deadline, until=call.deadline)
        if len(rest) <= _LARGE:
            request = self._read(rest, raw, call)
        else:
            async with reading(call.opened, deadline, self._statistics):
                request = await _beside(self._read, rest, raw, call)
        deadline = earliest(call.opened, request.seconds, until=deadline)
        try:
            answers = await self._inference.answer(request.inputs, deadline=deadline)
        except ModelFailed as error:
            log.event("model-failed", level="error", id=call.id, error=str(error))
            # torch's message begins with the model's source code, which is for the log only.
            told = f"The model failed at this request: {str(error).strip().splitlines()[-1]}"
            raise Refusal(500, told) from error
        size = sum(len(answer.content) for answer in answers)
        if request.raw or size <= _LARGE:
            return self._renderer.render(request, answers)
        # It counts before it waits for the one thread.
        self._held.admit(call, size)
        return await _beside(self._renderer.render, request, answers)

    def _read(self, rest: bytes, raw: Sequence[memoryview], call: Call) -> protobuf.Request:
        message = _parsed(self._request, rest)
        call.id = message.id
        self._refuse_others(message.model_name, message.model_version)
        if self._server.state == "loading":
            raise Refusal(503, f"Model {self._contract.name!r} is loading; ask again when ServerReady says so.")
        return protobuf.parse(self._contract, message, raw)

    def _index(self, request: Any) -> dict[str, Any]:
        return {"models": describing.index(self._contract, self._server.state, ready=request.ready)}

    def _check(self, request: Any) -> dict[str, Any]:
        status = self._status(request.service)
        if status == "SERVICE_UNKNOWN":
            raise Failed(Code.NOT_FOUND, f"There is no service {request.service[:200]!r}.")
        return {"status": status}

    def _status(self, service: str) -> str:
        if service and service not in self._messages.services:
            return "SERVICE_UNKNOWN"
        return "SERVING" if self._ready else "NOT_SERVING"

    async def _watch(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        request = self._messages.get("grpc.health.v1.HealthCheckRequest")
        response = self._messages.get("grpc.health.v1.HealthCheckResponse")
        told = None
        async for content in messages:
            service = _parsed(request, content).service
            while True:
                status = self._status(service)
                if status != told:
                    told = status
                    yield response(status=status).SerializeToString()
                await asyncio.sleep(_WATCH_SECONDS)

    async def _reflect(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        request = self._messages.get("grpc.reflection.v1alpha.ServerReflectionRequest")
        response = self._messages.get("grpc.reflection.v1alpha.ServerReflectionResponse")
        async for content in messages:
            asked = _parsed(request, content)
            answer = response(valid_host=asked.host, original_request=asked)
            kind = asked.WhichOneof("message_request")
            try:
                if kind == "list_services":
                    for name in self._messages.services:
                        answer.list_services_response.service.add(name=name)
                elif kind in {"file_by_filename", "file_containing_symbol"}:
                    file = self._file(kind, getattr(asked, kind))
                    answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
                elif kind == "all_extension_numbers_of_type":
                    self._messages.pool.FindMessageTypeByName(asked.all_extension_numbers_of_type)
                    answer.all_extension_numbers_response.base_type_name = asked.all_extension_numbers_of_type
                else:
                    answer.error_response.error_code = int(Code.NOT_FOUND)
                    answer.error_response.error_message = "These services have no extensions."
            except KeyError:
                answer.error_response.error_code = int(Code.NOT_FOUND)
                answer.error_response.error_message = f"There is no {getattr(asked, kind)[:200]!r}."
            yield answer.SerializeToString()

    def _file(self, kind: str, name: str) -> FileDescriptor:
        pool = self._messages.pool
        return pool.FindFileByName(name) if kind == "file_by_filename" else pool.FindFileContainingSymbol(name)


async def _beside(work: Callable[..., _Made], *arguments: Any) -> _Made:
    """What `work` makes, while the event loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(_BESIDE, work, *arguments)


def _read_only(_: Any) -> dict[str, Any]:
    raise Refusal(405, "This server has one model, which it neither loads nor unloads on request.")


def _parsed(kind: Any, content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise Refusal(400, f"the message: not a {kind.DESCRIPTOR.full_name} ({error}).") from error
