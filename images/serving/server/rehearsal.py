"""The first requests, before anybody else's: what they find cold, they find cold here."""

import asyncio
import time
from collections.abc import Sequence

from server import log
from server.client import request
from server.model.contract import Contract
from server.model.engine import Input

# So many at a time, each so often: what comes together is a batch, and a connection costs most when it is made.
_CLIENTS, _MOST = 4, 25
_SECONDS = 0.1


async def rehearse(contract: Contract, inputs: Sequence[Input], port: int) -> None:
    """Asks the server in this process on loopback, a few times as several clients do.

    Others may take its connections away, where there are few: it is ready all the same, only not as warm.
    """
    asked, until = request(contract, inputs), time.monotonic() + _SECONDS
    found = await asyncio.gather(*(_ask(asked, port, until) for _ in range(_CLIENTS)), return_exceptions=True)
    for error in found:
        if isinstance(error, OSError | asyncio.IncompleteReadError):
            log.event("rehearsal-failed", level="warning", error=repr(error))
        elif error is not None:
            raise error


async def _ask(asked: bytes, port: int, until: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(_MOST):
            began = time.monotonic()
            writer.write(asked)
            status, *fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            length = next(int(each.partition(b":")[2]) for each in fields if each.lower().startswith(b"content-length"))
            body = await reader.readexactly(length)
            if b" 200 " not in status:
                log.event("rehearsal-failed", level="warning", error=body[:500].decode(errors="replace"))
                return
            ended = time.monotonic()
            # The next one takes as long as this one.
            if ended + (ended - began) > until:
                return
    finally:
        writer.close()
