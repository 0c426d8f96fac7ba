"""Runs in the runtime image: what a real loop and a real kernel tell of a client that reads, or does not.

Prints what waits for a client that reads nothing, then when it has read a part, and how the connection looks to it when
it is reset; after that, the same when the connection is only aborted.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import cast

import uvloop

from server.pace import reset, waiting

_SIZE = 2**25
_PART = 2**22


async def _told(end: Callable[[asyncio.Transport], None]) -> list[int | str]:
    loop = asyncio.get_running_loop()
    made: asyncio.Future[asyncio.Transport] = loop.create_future()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(cast(asyncio.Transport, transport))

    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        transport = await made
        transport.write(bytes(_SIZE))
        told: list[int | str] = []
        for part in (0, _PART):
            await loop.run_in_executor(None, client.recv, part, socket.MSG_WAITALL)
            # Until the kernels have moved what they can.
            await asyncio.sleep(1)
            told += [transport.get_write_buffer_size(), waiting(transport)]
        end(transport)
        await asyncio.sleep(0.1)
        got = 0
        try:
            while more := len(client.recv(2**20)):
                got += more
        except ConnectionResetError:
            told.append("reset")
        else:
            told.append("end")
    server.close()
    return [*told, got]


async def _main() -> None:
    for end in (reset, lambda transport: transport.abort()):
        print(json.dumps(await _told(end)))


if __name__ == "__main__":
    uvloop.run(_main())
