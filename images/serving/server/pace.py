"""How long a client may take: to send its request, and to read its answer."""

import asyncio
import fcntl
import socket
import struct
import sys

# SIOCOUTQ, what the peer has not acknowledged: https://man7.org/linux/man-pages/man7/tcp.7.html
_OUTQ = 0x5411
# Bytes a second; who moves fewer for too long is given up.
_SLOWEST = 2**14
# How long nothing may move. A reader behind proxies takes nothing until a third of the megabytes that they buffer has
# gone; nginx gives as long: https://nginx.org/en/docs/http/ngx_http_core_module.html#send_timeout
_STILL = 60.0


class Pace:
    """Whether a client moves bytes fast enough: now, and not because it was fast before.

    It may do nothing for `patience` seconds from when it `began`, and for as long as what it moves may take, but never
    for more than a minute. Times are those of time.monotonic(); `moved` are bytes since any moment, always the same.
    """

    __slots__ = ("_left", "_moved", "_now")

    def __init__(self, began: float, moved: int = 0, *, patience: float = _STILL) -> None:
        self._left = patience
        self._now = began
        self._moved = moved

    def is_too_slow(self, now: float, moved: int) -> bool:
        """To be asked every few seconds."""
        earned = max(0, moved - self._moved) / _SLOWEST
        self._left = min(_STILL, self._left + earned - (now - self._now))
        self._now, self._moved = now, moved
        return self._left < 0


def waiting(transport: asyncio.WriteTransport) -> int:
    """The bytes that a client has not taken of what was written to it. The kernel's share is as much as megabytes, and
    it asks for more only when a third of them has gone: without it, a slow client would seem to stand still."""
    size = transport.get_write_buffer_size()
    connected = transport.get_extra_info("socket")
    if connected and connected.fileno() >= 0:
        size += int.from_bytes(fcntl.ioctl(connected.fileno(), _OUTQ, bytes(4)), sys.byteorder)
    return size


def reset(transport: asyncio.WriteTransport) -> None:
    """Closes a connection, and has the kernel let go of what its client has not taken: it would offer that to him for
    minutes."""
    if connected := transport.get_extra_info("socket"):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
