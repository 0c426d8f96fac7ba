"""The first requests, before anybody else's: what they find cold, they find cold here."""

import asyncio
import time
from collections.abc import Sequence

from server import log
from server.client import request
from server.contract import Contract
from server.engine import Input

_MOST = 50
_SECONDS = 0.1


async def rehearse(contract: Contract, inputs: Sequence[Input], port: int) -> None:
    """Asks the server in this process on loopback, a few times as every client does."""
    asked, started = request(contract, inputs), time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(_MOST):
            writer.write(asked)
            status, *fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            length = next(int(each.partition(b":")[2]) for each in fields if each.lower().startswith(b"content-length"))
            body = await reader.readexactly(length)
            if b" 200 " not in status:
                log.event("rehearsal-failed", level="warning", error=body[:500].decode(errors="replace"))
                return
            if time.monotonic() - started > _SECONDS:
                return
    finally:
        writer.close()
