"""What the gRPC server asks of HTTP/2; the C++ module `_http2` and the fake of the unit tests are two of them.

A session has no socket: it takes the peer's bytes and gives those for the peer.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from server.model.engine import Bytes

# What the peer's bytes brought, and what comes with it after the number of the call:
# OPENED path, method, content-type, grpc-timeout, grpc-encoding, all bytes and empty where the peer said nothing;
# MESSAGE the content, and its flag, which is 1 where it is compressed and otherwise 0; ENDED whether no message was cut
# off; TOO_LARGE the size that a message announced; CLOSED nothing: both sides are done, or the peer gave the call up.
OPENED: Final = 0
MESSAGE: Final = 1
ENDED: Final = 2
TOO_LARGE: Final = 3
CLOSED: Final = 4
Event: TypeAlias = tuple[Any, ...]


class Session(Protocol):
    """The server's side of one connection. What is told to a call that is over is dropped."""

    @property
    def busy(self) -> bool:
        """Whether a call is not closed yet."""
        ...

    @property
    def over(self) -> bool:
        """Whether there is nothing left to take or to say: the peer broke a rule, or went away and has its answers."""
        ...

    @property
    def held(self) -> int:
        """The bytes that have come of messages that are not complete, and those of answers that have not gone out."""
        ...

    @property
    def unsent(self) -> int:
        """Of these, those of answers."""
        ...

    def received(self, call: int, /) -> int:
        """The bytes that have come of a call's message that is not complete."""
        ...

    def receive(self, data: Bytes, /) -> Sequence[Event]:
        """Takes bytes of the peer; each event is its kind, the call's number and what the kind brings.

        Raises:
            ProtocolError: the peer does not speak HTTP/2, and the connection is of no use any more.
        """
        ...

    def outgoing(self) -> bytes:
        """Some of the bytes for the peer; empty when there are none, or the peer takes no more for now."""
        ...

    def send(self, call: int, parts: Sequence[Bytes], compressed: bool = False, encoding: str = "") -> None:
        """Queues a message of an answer; large parts are not copied. `encoding` is said once, with the first."""
        ...

    def close(self, call: int, status: str, details: str, http: str = "200", /) -> None:
        """Ends a call with a status code in decimal and percent-encoded details, and HTTP's status where nothing was
        sent; what it still sends is dropped."""
        ...

    def answer(self, call: int, parts: Sequence[Bytes], /) -> None:
        """Queues the only message of an answer and ends the call well."""
        ...

    def go_away(self, *, at_once: bool) -> None:
        """Sends the peer's next calls elsewhere; with `at_once`, those that are on their way, too."""
        ...


class Http2(Protocol):
    """Makes sessions. Its exception is an attribute, so that a fake can bring its own."""

    @property
    def ProtocolError(self) -> type[Exception]:  # noqa: N802 (an exception of the module)
        """The peer does not speak HTTP/2."""
        ...

    @property
    def Session(self) -> Callable[..., Session]:  # noqa: N802 (a class of the module)
        """Takes `calls` at once, bytes of one `message`, of all unfinished `messages` and of a call's `headers`, and
        says which `encodings` of messages are taken, as grpc-accept-encoding does.

        A call with more headers is ended without an event, with RESOURCE_EXHAUSTED.
        """
        ...
