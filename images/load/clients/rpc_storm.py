"""The same as `clients.storm` over gRPC: calls that share connections, as those of gRPC's own clients do.

A call is *complete* when its last byte was handed to the kernel. GOAWAY ends a connection politely: it names the last
call that the server may have taken, its client makes no new ones on it, and those above it are to be made elsewhere
(RFC 9113, section 6.8). Of one that is complete, at or below that number, and gets no status, nobody can tell; nor of
one that is reset, but for REFUSED_STREAM, by which a server says that it did nothing (section 8.7). A server that has
said nothing, not even its settings, may never have seen the connection.
"""

import argparse
import json
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clients.connection import Answer, Lost
from clients.hpack import Inflate, Inflater
from clients.http2 import REFUSED_STREAM, Call, Connection
from clients.storm import Aftermath

# How many calls share a connection.
SHARED = 4
# A server that has been told to stop and still accepts after so long does not stop.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """A path, and a message in gRPC's frame."""

    path: bytes
    content: bytes

    @classmethod
    def of(cls, http: bytes) -> Self:
        """The same as an HTTP/1.1 request has it, which is how requests lie in files."""
        head, _, content = http.partition(b"\r\n\r\n")
        return cls(head.split(b" ", 2)[1], content)


class RpcStorm:
    """`clients` that each make one of these calls after the other."""

    def __init__(
        self,
        address: tuple[str, int],
        requests: Sequence[Request],
        clients: int,
        *,
        inflater: Callable[[], Inflate] = Inflater,
    ) -> None:
        self._address = address
        self._requests = requests
        self._shares = [min(SHARED, clients - at) for at in range(0, clients, SHARED)]
        self._inflater = inflater
        self._poll = select.epoll()
        self._open: dict[int, tuple[Connection, int]] = {}
        self._begun = 0
        self._stopping = False
        self._aftermath = Aftermath()

    def run(self, seconds: float, on_loaded: Callable[[], None]) -> Aftermath:
        """Loads the server for so long, says so, and goes on until it accepts no connection any more."""
        for share in self._shares:
            self._connect(share)
        loaded = time.monotonic() + seconds
        while self._open and time.monotonic() < loaded + _PATIENCE:
            for number, events in self._poll.poll(0.1):
                self._advance(*self._open[number], events)
            if not self._stopping and time.monotonic() >= loaded:
                self._stopping = True
                on_loaded()
        for connection, _ in self._open.values():
            for call in connection.calls.values():
                self._lose(call, "no answer in time", accepted=True)
            connection.close()
        self._poll.close()
        return self._aftermath

    def _connect(self, share: int) -> None:
        try:
            connection = Connection(self._address, self._inflater())
        except OSError:
            self._refuse()
            return
        self._open[connection.fileno()] = connection, share
        self._poll.register(connection.fileno(), select.EPOLLIN)
        self._call(connection, share)

    def _call(self, connection: Connection, share: int) -> None:
        """Makes as many calls as there are to be at a time."""
        while len(connection.calls) < share:
            number = self._begun % len(self._requests)
            self._begun += 1
            connection.begin(number, self._requests[number].path, self._requests[number].content)
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        self._poll.modify(connection.fileno(), select.EPOLLIN | (select.EPOLLOUT if connection.sending else 0))

    def _advance(self, connection: Connection, share: int, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                connection.send()
            if events & ~select.EPOLLOUT:
                for call in connection.receive():
                    self._keep(call)
        except Lost as lost:
            for call in connection.calls.values():
                self._lose(call, str(lost), accepted=connection.spoken)
            self._reconnect(connection, share)
            return
        if connection.last is None:
            self._call(connection, share)
            return
        for number in [number for number in connection.calls if number > connection.last]:
            self._lose(connection.calls.pop(number), "above the last one of GOAWAY", accepted=False)
        if connection.calls:
            self._watch(connection)
        else:
            self._reconnect(connection, share)

    def _reconnect(self, connection: Connection, share: int) -> None:
        del self._open[connection.fileno()]
        connection.close()
        self._connect(share)

    def _keep(self, call: Call) -> None:
        if call.reset is not None:
            self._lose(call, f"reset with code {call.reset}", accepted=call.reset != REFUSED_STREAM)
        elif call.status is None:
            self._lose(call, "ended without a status", accepted=True)
        elif call.status and not call.complete:
            self._refuse()
        elif call.status:
            self._aftermath.others.append((call.status, call.complete))
        else:
            # Without the five bytes of gRPC's frame.
            self._aftermath.answers[call.request, Answer(200, None, bytes(call.content[5:]), closing=False)] += 1

    def _lose(self, call: Call, reason: str, *, accepted: bool) -> None:
        if call.complete:
            reason = "in the middle of the answer" if call.answering and not accepted else reason
            self._aftermath.unanswered.append((reason, call.complete, accepted or call.answering))
        else:
            self._refuse()

    def _refuse(self) -> None:
        self._aftermath.refused += 1
        self._aftermath.early += not self._stopping


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m clients.rpc_storm", description=__doc__)
    parser.add_argument("requests", type=Path, nargs="+", metavar="FILE", help="a call, as an HTTP/1.1 request")
    parser.add_argument("--port", type=int, required=True, help="on loopback")
    parser.add_argument("--clients", type=int, required=True, help="how many call at the same time")
    parser.add_argument("--seconds", type=float, required=True, help="how long before `loaded` is printed")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the aftermath goes, as JSON")
    arguments = parser.parse_args()
    requests = [Request.of(path.read_bytes()) for path in arguments.requests]
    storm = RpcStorm(("127.0.0.1", arguments.port), requests, arguments.clients)
    aftermath = storm.run(arguments.seconds, lambda: print("loaded", flush=True))
    arguments.out.write_text(json.dumps(aftermath.told()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
