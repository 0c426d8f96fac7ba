"""A gRPC server on a fake HTTP/2 and without sockets, and clients that see what it answers."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from server.grpc.messages import Messages
from server.grpc.rpc_connection import Connection, Served
from server.http.app import State
from server.inference.statistics import Statistics
from server.model.answers import Answer
from server.model.engine import Input
from server.model.served import ServedModel
from tests.unit.server import grpc_frames

SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
MESSAGE = 4096
X = np.array([1, 2, 3], np.float32)
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3]}


@dataclass
class Here:
    """Runs the model in the calling thread, or raises what it is told to, or waits."""

    served: ServedModel
    statistics: Statistics = field(default_factory=Statistics)
    raises: Exception | None = None
    waits: bool = False
    gate: asyncio.Event | None = None
    deadlines: list[float | None] = field(default_factory=list)
    cancelled: int = 0

    async def answer(self, inputs: Sequence[Input], *, deadline: float | None = None) -> Sequence[Answer]:
        self.deadlines.append(deadline)
        if self.raises:
            raise self.raises
        if self.gate:
            await self.gate.wait()
        if self.waits:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return self.served.answer(inputs)


class Transport(asyncio.Transport):
    """Hands what is written to a reader, and says that `unsent` bytes of it wait."""

    def __init__(self, reader: grpc_frames.Reader) -> None:
        super().__init__()
        self.reader = reader
        self.closed = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.reader.take(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.unsent


@dataclass
class Stage:
    """A server with one connection, and what its client sees."""

    inference: Here
    messages: Messages
    served: Served
    state: State = "ready"
    stuck: bool = False
    reader: grpc_frames.Reader = field(default_factory=grpc_frames.Reader)

    def connect(self) -> tuple[Connection, Transport]:
        connection = Connection(self.served, asyncio.get_running_loop())
        transport = Transport(self.reader)
        connection.connection_made(transport)
        connection.data_received(grpc_frames.PREFACE)
        return connection, transport

    def play(self, *said: bytes, turns: int = 20, seconds: float = 0) -> grpc_frames.Reader:
        """Says these bytes on a new connection and lets the loop turn, for so many seconds at least."""

        self.reader = grpc_frames.Reader()

        async def played() -> None:
            connection, _ = self.connect()
            for each in said:
                connection.data_received(each)
            for _ in range(turns):
                await asyncio.sleep(seconds / turns)
            connection.connection_lost(None)

        asyncio.run(played())
        return self.reader

    def call(self, path: str, content: bytes = b"", **fields: str) -> grpc_frames.Answer:
        return self.play(grpc_frames.call(1, path, content, **fields)).answers[1]

    def ask(self, method: str, **fields: Any) -> Any:
        """The response of a method of the inference service to a request with these fields."""
        described = self.messages.pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName(method)
        request = self.messages.get(described.input_type.full_name)(**fields)
        answer = self.call(f"{SERVICE}/{method}", request.SerializeToString())
        assert answer.status == 0, answer.headers
        (content,) = answer.messages
        return self.messages.get(described.output_type.full_name).FromString(content)

    def request(self, **fields: Any) -> bytes:
        """A ModelInferRequest of one row in raw contents, or what `fields` say instead."""
        whole = {"model_name": "tiny", "inputs": [TENSOR], "raw_input_contents": [X.tobytes()], **fields}
        content: bytes = self.messages.get("inference.ModelInferRequest")(**whole).SerializeToString()
        return content

    def response(self, answer: grpc_frames.Answer) -> Any:
        assert answer.status == 0, answer.headers
        (content,) = answer.messages
        return self.messages.get("inference.ModelInferResponse").FromString(content)


Make = Callable[..., Stage]
