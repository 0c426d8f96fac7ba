"""The end of listening, which loses nobody."""

import asyncio
import os
import socket

# A turn or two of the loop, in which it accepts whatever waits for that, and reads what was sent.
_ACCEPTING_SECONDS = 0.02


async def accept_the_last(listener: asyncio.Server) -> None:
    """Accepts the connections that the kernel has made, and has it make no more; closing would reset them."""
    for each in listener.sockets:
        with socket.socket(fileno=os.dup(each.fileno())) as same:
            # It goes on to make one that is not accepted.
            same.listen(0)
    await asyncio.sleep(_ACCEPTING_SECONDS)
