"""Large JSON is read in another process.

json keeps the GIL until it is done, which takes a second for 64 MiB, and nobody else would be answered meanwhile. What
it makes is many times as large as the text: in a process of its own that has a limit, and costs that request only.
"""

import asyncio
import resource
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from server.model.contract import Contract
from server.protocol.request import Request, parse
from server.refusal import Refusal

# What takes longer than some milliseconds; handing it over and back takes one.
LARGE = 2**18


# A request, or the status and message of its refusal.
_Parsed: TypeAlias = tuple[Request | None, tuple[int, str]]


class Elsewhere:
    """Parses requests for one model in a process that is started when the first one comes."""

    def __init__(self, contract: Contract, start: Callable[[], Executor]) -> None:
        """`start` is called when there is no process yet, or none any more."""
        self._contract = contract
        self._start = start
        self._executor: Executor | None = None
        # One at a time: what waits for the process waits here, and is gone with its client.
        self._free = asyncio.Lock()

    async def parse(self, body: bytes, header_length: int | None) -> Request:
        """As `server.protocol.request.parse`.

        Raises:
            Refusal: as there; 413 where the process has not the memory for it.
        """
        await self._free.acquire()
        work = asyncio.ensure_future(self._work(partial(_parsed, self._contract, body, header_length)))
        # Whoever leaves does not stop the process, and the next one begins when it is done.
        work.add_done_callback(lambda _: self._free.release())
        request, refused = await asyncio.shield(work)
        if request is None:
            raise Refusal(*refused)
        return request

    async def _work(self, work: Callable[[], _Parsed]) -> _Parsed:
        self._executor = self._executor or self._start()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except BrokenExecutor:
            # The kernel ended it for its memory, if nobody else did.
            self._executor = None
            return None, _TOO_LARGE


def processes(memory: int | None) -> Callable[[], Executor]:
    """Starts a process that may use so many bytes, or as many as there are."""

    def start() -> Executor:
        # Only when it is needed: most servers never start one, and all of them have to start.
        import multiprocessing  # noqa: PLC0415
        from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_limit, initargs=(memory,))

    return start


_TOO_LARGE = (413, "the body: its JSON takes more memory than this server has for it; send the tensors as binary data.")


def _limit(memory: int | None) -> None:
    # Where the container's memory is not enough for both, it is this process that the kernel ends.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _parsed(contract: Contract, body: bytes, header_length: int | None) -> _Parsed:
    """A request whose content can be sent to another process, or the status and message of its refusal."""
    try:
        request = parse(contract, body, header_length)
    except Refusal as refusal:
        return None, (refusal.status, str(refusal))
    except MemoryError:
        return None, _TOO_LARGE
    inputs = tuple((datatype, shape, bytes(content)) for datatype, shape, content in request.inputs)
    return replace(request, inputs=inputs), (0, "")
