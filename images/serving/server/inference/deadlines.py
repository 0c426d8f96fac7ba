"""How long a request may take: the least of what the server, its client and the client's proxy say."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.inference.statistics import Statistics
from server.refusal import Refusal


def earliest(began: float, *seconds: float | None, until: float | None = None) -> float | None:
    """The first of `until` and so many seconds each after `began`, instants of time.monotonic(); None where all are."""
    instants = [until, *(began + each for each in seconds if each is not None)]
    return min((each for each in instants if each is not None), default=None)


@asynccontextmanager
async def reading(began: float, deadline: float | None, statistics: Statistics) -> AsyncIterator[None]:
    """Bounds the wait for somebody who reads a large request that came at `began`.

    Raises:
        Refusal: 504, the deadline passed.
    """
    try:
        async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
            yield
    except TimeoutError:
        statistics.expire(int(1e9 * began))
        raise Refusal(504, "The request's deadline passed before it was read.") from None
