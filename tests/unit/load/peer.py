"""A server at the other end of a pair of sockets, since unit tests connect to nothing."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

Answering = Callable[[int], bytes]


def answer(body: bytes, *, status: str = "200 OK", fields: str = "") -> bytes:
    """A whole HTTP answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


class Peer:
    """Answers whatever arrives as one request each with what `answering` says of its number, after `seconds`; an empty
    answer closes the connection."""

    def __init__(self, answering: Answering, *, seconds: float = 0.0) -> None:
        self._answering = answering
        self._seconds = seconds
        self.connections = 0
        self.requests: list[bytes] = []

    def connect(self, *_: object, **__: object) -> socket.socket:
        """Stands in for socket.create_connection."""
        ours, theirs = socket.socketpair()
        self.connections += 1
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return _Tcp(ours)

    def _serve(self, connection: socket.socket) -> None:
        # Whoever gave up waiting is not there any more.
        with connection, suppress(ConnectionError):
            while request := connection.recv(2**16):
                self.requests.append(request)
                time.sleep(self._seconds)
                content = self._answering(len(self.requests) - 1)
                if not content:
                    return
                connection.sendall(content)


class Stopping(Peer):
    """Accepts no connection once `stop` was called."""

    stopped = False

    def connect(self, *_: object, **__: object) -> socket.socket:
        """Stands in for socket.create_connection."""
        if self.stopped:
            raise ConnectionRefusedError
        return super().connect()

    def stop(self) -> None:
        """Begins to refuse."""
        self.stopped = True


class _Tcp(socket.socket):
    """A local socket that takes TCP's options."""

    def __init__(self, real: socket.socket) -> None:
        super().__init__(real.family, real.type, real.proto, fileno=real.detach())

    def setsockopt(self, *_: object) -> None: ...
