"""One HTTP/1.1 connection that sends a request as it is and takes the answer in as it comes, without ever waiting."""

import socket
from dataclasses import dataclass

_CHUNK = 2**18


class Lost(Exception):
    """The connection ended before the answer was complete."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. Its first `json` bytes are JSON and the rest binary tensors, or None where it has none of
    these; `closing` says whether the server closes the connection."""

    status: int
    json: int | None
    body: bytes
    closing: bool


class Parser:
    """Puts an answer together from what arrives; every answer has a Content-Length (RFC 9112, section 6.3)."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._head: bytes | None = None
        self._length = 0

    @property
    def begun(self) -> bool:
        """Whether a byte of the answer has arrived."""
        return bool(self._received) or self._head is not None

    def feed(self, content: bytes) -> Answer | None:
        """Takes in more bytes; the answer, once it is complete.

        Raises:
            Lost: what arrives is no answer with a Content-Length.
        """
        self._received += content
        if self._head is None:
            head, blank, rest = bytes(self._received).partition(b"\r\n\r\n")
            if not blank:
                return None
            length = _number(head, b"content-length")
            if length is None:
                raise Lost(f"no answer with a Content-Length: {head[:80]!r}")
            self._head, self._length = head, length
            self._received = bytearray(rest)
        if len(self._received) < self._length:
            return None
        status, json = int(self._head[9:12]), _number(self._head, b"inference-header-content-length")
        closing = b"\r\nconnection: close" in self._head.lower()
        return Answer(status, json, bytes(self._received[: self._length]), closing)


class Wire:
    """A connection that never waits. Its file number is to be watched for reading, and for writing too while
    something is to be sent."""

    def __init__(self, address: tuple[str, int]) -> None:
        """Connects. Raises OSError when nobody listens."""
        self._socket = socket.create_connection(address, timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The number by which select and epoll know it."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes it, whatever it was doing."""
        self._socket.close()

    def take(self) -> bytes:
        """What has arrived; it may be nothing yet.

        Raises:
            Lost: the connection has ended.
        """
        try:
            content = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Lost(str(error)) from error
        if not content:
            raise Lost("the server closed the connection")
        return content


class Connection(Wire):
    """A connection for one request after the other; to be watched for writing while `sending`."""

    def __init__(self, address: tuple[str, int]) -> None:
        """Connects. Raises OSError when nobody listens."""
        super().__init__(address)
        self._rest = memoryview(b"")
        self._parser = Parser()

    @property
    def sending(self) -> bool:
        """Whether a part of the request has not been handed to the kernel yet."""
        return bool(self._rest)

    @property
    def answering(self) -> bool:
        """Whether a byte of the answer has arrived."""
        return self._parser.begun

    def begin(self, request: bytes) -> None:
        """Starts to send a request; the one before must have been answered.

        Raises:
            Lost: the server has closed the connection.
        """
        self._rest = memoryview(request)
        self._parser = Parser()
        self.send()

    def send(self) -> None:
        """Sends on, as far as that goes at once.

        Raises:
            Lost: the server has closed the connection.
        """
        try:
            while self._rest:
                self._rest = self._rest[self._socket.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise Lost(str(error)) from error

    def receive(self) -> Answer | None:
        """Takes in what has arrived; the answer, once it is complete.

        Raises:
            Lost: the connection has ended, or what arrives is no answer.
        """
        content = self.take()
        return self._parser.feed(content) if content else None


def _number(head: bytes, field: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == field and value.strip().isdigit():
            return int(value)
    return None
