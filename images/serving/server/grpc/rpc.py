"""The gRPC server: it listens, and ends connections well.

grpcio is not used: with a handler that does nothing its asyncio server answered 2,500 requests/s on two cores that
the client shared, and its threaded one 2,000; this one, over nghttp2 and on the loop that computes, 120,000.
"""

import asyncio
import time

from server.grpc.rpc_connection import Connection, Served
from server.listening import accept_the_last

PORT = 8081
_SWEEP_SECONDS = 5.0


class Server:
    """Serves until it is stopped."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port, which is another one than `port` where that is 0. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self._served, loop), host, port)
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)
        return int(self._listener.sockets[0].getsockname()[1])

    def drain(self) -> None:
        """Sends clients' next calls elsewhere; those that come all the same, or on new connections, are answered."""
        self._served.draining = True
        for connection in self._served.connections:
            connection.go_away(at_once=False)

    def stop(self, seconds: float) -> None:
        """Begins to finish accepted unary calls, for `seconds` at most, to end streams and close every connection."""
        self._stopping = asyncio.get_running_loop().create_task(self._stop(seconds))

    async def stopped(self) -> None:
        """Returns when all is finished that `stop` began; at once where it was not called."""
        if self._stopping is not None:
            await self._stopping

    async def _stop(self, seconds: float) -> None:
        if self._listener is not None:
            await accept_the_last(self._listener)
            self._listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        connections = self._served.connections
        for connection in tuple(connections):
            connection.go_away(at_once=True)
            connection.end_streams()
        until = time.monotonic() + seconds
        while any(connection.busy for connection in connections) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for connection in tuple(connections):
            connection.close()

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        now = time.monotonic()
        for connection in tuple(self._served.connections):
            connection.end_slow(now)
