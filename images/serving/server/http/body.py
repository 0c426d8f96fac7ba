"""The bodies of requests: how large one may be, and how many bytes of all of them are held at a time."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from server.refusal import Refusal

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]


class Disconnected(Exception):
    """The client went away before its request was complete."""


class Bodies:
    """Reads bodies; each counts until it is released."""

    def __init__(self, *, largest: int, most: int) -> None:
        """A body has at most `largest` bytes, and all that are held at a time at most `most`."""
        self.largest = largest
        self._most = most
        self.held = 0

    async def read(self, receive: Receive, *, largest: int | None = None) -> bytes:
        """The body of a request (ASGI 3), to be released when it is answered.

        Of one that is not kept a part is read and dropped, so that its client reads why. `largest` is for what has no
        reason to be as large as tensors.

        Raises:
            Refusal: 413, it is too large; 503, those of other requests leave no room for it.
            Disconnected: the client went away.
        """
        most = self.largest if largest is None else largest
        chunks: list[bytes | bytearray] = []
        size, kept, more = 0, 0, True
        full = False
        try:
            while more and size <= 2 * most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                chunk = message.get("body", b"")
                size, more = size + len(chunk), message.get("more_body", False)
                full = full or self.held + len(chunk) > self._most
                if full or size > most:
                    chunks.clear()
                    self.release(kept)
                    kept = 0
                else:
                    chunks.append(chunk)
                    self.held += len(chunk)
                    kept += len(chunk)
            if size > most:
                setting = " (TORCHYARD_MAX_BODY_MIB)" if largest is None else ""
                raise Refusal(413, f"the body: at most {most} bytes are taken{setting}.")
            if full:
                raise self._full()
        except BaseException:
            self.release(kept)
            raise
        # One alone is not copied.
        return b"".join(chunks)

    def hold(self, size: int, *, beside: int | None = None) -> None:
        """Counts what a body became, to be released like it; or the answer to a request of which `beside` bytes are
        held, which is let through where nothing else is: asking again would not make it smaller.

        Raises:
            Refusal: 503, there is no room for it.
        """
        if self.held + size > self._most and (beside is None or self.held > beside):
            raise self._full()
        self.held += size

    def _full(self) -> Refusal:
        told = f"The server holds as many bytes of requests as it may, {self._most} (TORCHYARD_QUEUE_MIB). "
        return Refusal(503, f"{told}Ask again in 1 s.", retry_after=1)

    def release(self, size: int) -> None:
        """Lets go of a body of `size` bytes."""
        self.held -= size
