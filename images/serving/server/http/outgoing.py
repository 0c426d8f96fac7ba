"""What an answer is written to: its head waits for the body, so that both leave in one system call and one packet.

uvicorn writes the one and then the other, and uvloop sends at once what it is given.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import Transport

# Joining copies the body, which costs more than a second call where it is larger.
_LARGEST = 2**16


class Outgoing:
    """Stands in for the transport of one cycle, uvicorn's name for a request and its answer."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport: Transport = cycle.transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Sends, other than the head of an answer that has a body: before that may come a 100 Continue."""
        if not self._cycle.response_started or self._cycle.scope["method"] == "HEAD":
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            if self._head and len(data) > _LARGEST:
                self._transport.write(self._head)
            else:
                data = self._head + data
            self._transport.write(data)
            self._head = b""

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()
