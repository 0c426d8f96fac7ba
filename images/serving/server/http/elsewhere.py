"""Large JSON is read and written in other processes.

json keeps the GIL until it is done, which takes a second for 64 MiB, and nobody else would be answered meanwhile. What
it makes is many times as large as the text: in a process of its own that has a limit, and costs that request only.
"""

import asyncio
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from server.model.answers import Answer
from server.model.contract import Contract
from server.protocol import response
from server.protocol.request import Request, parse
from server.protocol.response import Response
from server.refusal import Refusal

Made = TypeVar("Made", Request, Response)

# Bytes of JSON, and of tensors that become JSON, that take longer than some milliseconds; handing them over and back
# takes one.
LARGE, LARGE_ANSWER = 2**18, 2**15
# What takes up to a second or two has a process of its own, and what takes longer another one. JSON is some five times
# as long as the tensors that it says.
_LARGER, _LARGER_ANSWER = 2**22, 2**20

# What was made, or the status and message of a refusal.
_Outcome: TypeAlias = tuple[Made | None, tuple[int, str]]


class Elsewhere:
    """Parses requests for one model, and renders answers, in processes that are started when they are needed first."""

    def __init__(self, contract: Contract, start: Callable[[], Executor]) -> None:
        """`start` is called when there is no process yet, or none any more."""
        self._contract = contract
        self._large, self._larger = _Process(start), _Process(start)

    async def parse(self, body: bytes, header_length: int | None) -> Request:
        """As `server.protocol.request.parse`.

        Raises:
            Refusal: as there; 413 where the process has not the memory for it.
        """
        process = self._large if len(body) <= _LARGER else self._larger
        return await process.make(partial(_parsed, self._contract, body, header_length), _TOO_LARGE)

    async def render(self, request: Request, answers: Sequence[Answer], size: int) -> Response:
        """As `server.protocol.response.render`, where so many bytes of answers become JSON.

        Raises:
            Refusal: as there; 406 where the process has not the memory for it.
        """
        process = self._large if size <= _LARGER_ANSWER else self._larger
        # The inputs are not needed there.
        work = partial(_rendered, self._contract, replace(request, inputs=()), answers)
        return await process.make(work, _TOO_LARGE_ANSWER)


class _Process:
    """One process, which does one work at a time: what waits for it waits here, and is gone with its client."""

    def __init__(self, start: Callable[[], Executor]) -> None:
        self._start = start
        self._executor: Executor | None = None
        self._free = asyncio.Lock()

    async def make(self, work: Callable[[], _Outcome[Made]], ended: tuple[int, str]) -> Made:
        """What `work` makes; `ended` is the refusal where the process is ended meanwhile."""
        await self._free.acquire()
        task = asyncio.ensure_future(self._run(work, ended))
        # Whoever leaves does not stop the process, and the next one begins when it is done.
        task.add_done_callback(lambda _: self._free.release())
        made, refused = await asyncio.shield(task)
        if made is None:
            raise Refusal(*refused)
        return made

    async def _run(self, work: Callable[[], _Outcome[Made]], ended: tuple[int, str]) -> _Outcome[Made]:
        loop = asyncio.get_running_loop()
        self._executor = self._executor or self._start()
        try:
            try:
                waiting = loop.run_in_executor(self._executor, work)
            except BrokenExecutor:
                # It was ended while it had nothing to do, for memory that others took.
                self._executor = self._start()
                waiting = loop.run_in_executor(self._executor, work)
            return await waiting
        except BrokenExecutor:
            # The kernel ended it for its memory, if nobody else did.
            self._executor = None
            return None, ended


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
_TOO_LARGE_ANSWER = (
    406,
    "outputs: as JSON they take more memory than this server has for it; request them as binary data.",
)


def _limit(memory: int | None) -> None:
    # Where the container's memory is not enough for all, it is this process that the kernel ends.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _parsed(contract: Contract, body: bytes, header_length: int | None) -> _Outcome[Request]:
    """A request whose content can be sent to another process."""
    try:
        request = parse(contract, body, header_length)
    except Refusal as refusal:
        return None, (refusal.status, str(refusal))
    except MemoryError:
        return None, _TOO_LARGE
    inputs = tuple((datatype, shape, bytes(content)) for datatype, shape, content in request.inputs)
    return replace(request, inputs=inputs), (0, "")


def _rendered(contract: Contract, request: Request, answers: Sequence[Answer]) -> _Outcome[Response]:
    try:
        return response.render(contract, request, answers), (0, "")
    except Refusal as refusal:
        return None, (refusal.status, str(refusal))
    except MemoryError:
        return None, _TOO_LARGE_ANSWER
