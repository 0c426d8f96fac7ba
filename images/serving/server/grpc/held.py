"""The bytes that the gRPC server holds for all of its connections, and who is refused where they are too many."""

from dataclasses import dataclass

from server.grpc.calls import Call
from server.grpc.status import Code, Failed

# So much of a call is bounded by the number of calls, of each of which as much is kept anyway: questions about the
# server get their answers, however many bytes others hold.
SMALL = 2**10
# What a protobuf message may have. https://protobuf.dev/programming-guides/encoding/#size-limit
_LARGEST = 2**31 - 1


@dataclass(slots=True)
class Held:
    """Bytes of messages of calls that are not answered, and of answers that are not taken: `now`, of at `most`."""

    most: int
    now: int = 0

    @property
    def is_full(self) -> bool:
        """Whether there are more than there may be."""
        return self.now > self.most

    def take(self, call: Call, size: int) -> None:
        """Counts a whole message of a call until that is over. Raises Failed where there is no room for it."""
        self._count(call, size)
        if call.held > SMALL and self.is_full:
            raise self.refusal()

    def admit(self, call: Call, size: int) -> None:
        """Counts an answer until its call is over. Raises Failed where there is no room for it; one is let through
        where nothing but its call is held: asking again would not make it smaller."""
        if size > _LARGEST:
            told = f"The answer has {size} bytes, and a message at most {_LARGEST}: ask for fewer rows or outputs."
            raise Failed(Code.RESOURCE_EXHAUSTED, told)
        others = self.now - call.held
        if size > SMALL and others and others + size > self.most:
            raise self.refusal()
        self._count(call, size)

    def refusal(self) -> Failed:
        """What whoever finds no room is told."""
        told = f"The server holds as many bytes of messages as it may, {self.most}. Ask again in 1 s."
        return Failed(Code.RESOURCE_EXHAUSTED, told)

    def release(self, call: Call, size: int) -> None:
        """Counts bytes of a call no more."""
        self._count(call, -size)

    def _count(self, call: Call, size: int) -> None:
        call.held += size
        self.now += size
