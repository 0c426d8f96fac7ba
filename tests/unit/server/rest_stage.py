"""Connections of the REST server in front of transports that only remember, and applications behind them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from server.http.connection import Connection


@dataclass
class Transport:
    """Keeps what is written; the other side has hung up once it is closed."""

    protocol: Any = None
    written: bytes = b""
    closing: bool = False
    aborted: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    reading: bool = True
    unread: bytes = b""
    unsent: int = 0
    writes: int = 0

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.extra.get(name, default)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: Any) -> None:
        assert not self.reading
        self.protocol = protocol

    def feed(self, data: bytes) -> None:
        """What the loop does with data that came, as long as it reads."""
        while data and self.reading and not self.closing:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                buffer = cast(memoryview, self.protocol.get_buffer(-1))
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                del buffer
                self.protocol.buffer_updated(count)
            else:
                count = len(data)
                self.protocol.data_received(data)
            data = data[count:]
        self.unread = data

    @property
    def status(self) -> int:
        return int(self.written.split(b" ")[1]) if self.written else 0

    @property
    def error(self) -> str:
        return str(json.loads(self.written.partition(b"\r\n\r\n")[2])["error"])


async def answering(_: Any, __: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


@dataclass
class Reading:
    """Reads bodies as it may, and answers then."""

    bodies: list[bytes] = field(default_factory=list)
    most: int = 0
    may: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(
        self, _: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            await self.may.wait()
            message = await receive()
            self.most = max(self.most, len(message["body"]))
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        await answering(None, None, send)


async def never(_: Any, __: Any, ___: Any) -> None:
    await asyncio.sleep(60)


class Front:
    """Makes connections to one server."""

    def __init__(self, app: Any = answering) -> None:
        self._config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None)
        self.state = ServerState()

    def connect(self) -> tuple[Connection, Transport]:
        made = Connection(self._config, self.state, {}, _loop=asyncio.get_running_loop())
        transport = Transport(protocol=made)
        made.connection_made(cast(asyncio.Transport, transport))
        return made, transport


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    asyncio.run(main())


GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n"


POST = b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
