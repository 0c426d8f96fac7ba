"""Clients that keep a server as busy as they can while it is stopped, and tell what became of every request.

A request is *complete* when its last byte was handed to the kernel on an established connection. Until then its client
knows that it was not accepted: the connection was refused or cut before. Of one that is complete and gets no answer
the client cannot tell, so for each of these it is said when it was complete, and whether an answer had begun. Who
compares that with the time of SIGTERM can tell what was lost. An answer with `Connection: close` ends a connection
politely: the client opens another one, and is done when that is refused.
"""

import argparse
import json
import select
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.connection import Answer, Connection, Lost

# A server that has been told to stop and still accepts after so long does not stop.
_PATIENCE = 30.0


@dataclass(slots=True)
class Aftermath:
    """What became of the requests. `answers` counts equal answers with status 200, by which request they answer;
    `others` holds other statuses and `unanswered` what ended the connection, each with when the request was complete,
    in seconds since the epoch, and `unanswered` with whether it was accepted for all that can be told. `refused` counts
    connections, and requests that were cut before they were complete; `early` those of them from before the server was
    to be stopped."""

    answers: Counter[tuple[int, Answer]] = field(default_factory=Counter)
    others: list[tuple[int, float]] = field(default_factory=list)
    unanswered: list[tuple[str, float, bool]] = field(default_factory=list)
    refused: int = 0
    early: int = 0

    def told(self) -> dict[str, Any]:
        """The same as JSON, with bodies in base64."""
        answers = [
            {
                "request": request,
                "status": 200,
                "json": answer.json,
                "body": b64encode(answer.body).decode(),
                "count": n,
            }
            for (request, answer), n in self.answers.items()
        ]
        return {
            "answers": answers,
            "others": self.others,
            "unanswered": self.unanswered,
            "refused": self.refused,
            "early": self.early,
        }


@dataclass(slots=True)
class _Client:
    connection: Connection
    number: int
    complete: float = 0.0


class Storm:
    """`clients` that each send one of `requests` after the other to `address`."""

    def __init__(self, address: tuple[str, int], requests: Sequence[bytes], clients: int) -> None:
        self._address = address
        self._requests = requests
        self._clients = clients
        self._poll = select.epoll()
        self._busy: dict[int, _Client] = {}
        self._sent = 0
        self._stopping = False
        self._aftermath = Aftermath()

    def run(self, seconds: float, on_loaded: Callable[[], None]) -> Aftermath:
        """Loads the server for so long, says so, and goes on until it accepts no connection any more."""
        for _ in range(self._clients):
            self._connect()
        loaded = time.monotonic() + seconds
        while self._busy and time.monotonic() < loaded + _PATIENCE:
            for number, events in self._poll.poll(0.1):
                self._advance(self._busy[number], events)
            if not self._stopping and time.monotonic() >= loaded:
                self._stopping = True
                on_loaded()
        for client in self._busy.values():
            self._leave(client, "no answer in time")
            client.connection.close()
        self._poll.close()
        return self._aftermath

    def _connect(self) -> None:
        try:
            connection = Connection(self._address)
        except OSError:
            self._refuse()
            return
        self._poll.register(connection.fileno(), select.EPOLLIN)
        self._begin(_Client(connection, 0))

    def _begin(self, client: _Client) -> None:
        client.number = self._sent % len(self._requests)
        self._sent += 1
        self._busy[client.connection.fileno()] = client
        try:
            client.connection.begin(self._requests[client.number])
        except Lost as lost:
            self._lose(client, lost)
        else:
            self._note(client)

    def _note(self, client: _Client) -> None:
        """Notes when a request is complete, or that it still is not."""
        if client.connection.sending:
            client.complete = 0.0
            self._poll.modify(client.connection.fileno(), select.EPOLLIN | select.EPOLLOUT)
        else:
            client.complete = time.time()

    def _advance(self, client: _Client, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                client.connection.send()
                if not client.connection.sending:
                    self._poll.modify(client.connection.fileno(), select.EPOLLIN)
                    self._note(client)
            if not events & ~select.EPOLLOUT or not (answer := client.connection.receive()):
                return
        except Lost as lost:
            self._lose(client, lost)
            return
        if answer.status == 200:
            self._aftermath.answers[client.number, answer] += 1
        else:
            self._aftermath.others.append((answer.status, client.complete))
        del self._busy[client.connection.fileno()]
        if answer.closing:
            client.connection.close()
            self._connect()
        else:
            self._begin(client)

    def _lose(self, client: _Client, lost: Lost) -> None:
        if client.connection.sending:
            self._refuse()
        else:
            self._leave(client, str(lost))
        del self._busy[client.connection.fileno()]
        client.connection.close()
        self._connect()

    def _leave(self, client: _Client, reason: str) -> None:
        begun = client.connection.answering
        reason = "in the middle of the answer" if begun else reason
        self._aftermath.unanswered.append((reason, client.complete, begun))

    def _refuse(self) -> None:
        self._aftermath.refused += 1
        self._aftermath.early += not self._stopping


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m clients.storm", description=__doc__)
    parser.add_argument("requests", type=Path, nargs="+", metavar="FILE", help="an HTTP request, byte for byte")
    parser.add_argument("--port", type=int, required=True, help="on loopback")
    parser.add_argument("--clients", type=int, required=True, help="how many send at the same time")
    parser.add_argument("--seconds", type=float, required=True, help="how long before `loaded` is printed")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the aftermath goes, as JSON")
    arguments = parser.parse_args()
    requests = [path.read_bytes() for path in arguments.requests]
    storm = Storm(("127.0.0.1", arguments.port), requests, arguments.clients)
    aftermath = storm.run(arguments.seconds, lambda: print("loaded", flush=True))
    arguments.out.write_text(json.dumps(aftermath.told()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
