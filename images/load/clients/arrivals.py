"""Requests that arrive at a fixed rate, whether or not the server keeps up with them.

A client that waits for an answer before it sends again sends less to a slow server, and never sees what others would
have waited for ("coordinated omission"). So each request has its time beforehand, and its latency counts from then on:
the time in which it waited for a free connection, or for this program, is a part of it.
"""

import argparse
import json
import select
import sys
import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.connection import Answer, Connection, Lost

# Enough that the server's queue is in the server, and few enough that a server may accept all of them.
MOST_CONNECTIONS = 256
_OK = 200
# How long answers are waited for after the last request's time.
_PATIENCE = 30.0


@dataclass(slots=True)
class Outcome:
    """What came of the requests: of each one that was answered with 200, in the order of answers, `latencies` from its
    intended time to the end of the answer; of each one that was answered, `late` from its intended time to when this
    program got to it; both in seconds. `answers` counts equal ones, by which of the requests they answer; `lost` counts
    reasons.
    """

    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    answers: Counter[tuple[int, Answer]] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        """The same as JSON, with bodies in base64."""
        answers = [
            {
                "request": request,
                "status": answer.status,
                "json": answer.json,
                "body": b64encode(answer.body).decode(),
                "count": count,
            }
            for (request, answer), count in self.answers.items()
        ]
        return {"latencies": self.latencies, "late": self.late, "answers": answers, "lost": dict(self.lost)}


@dataclass(slots=True)
class _Sent:
    connection: Connection
    number: int
    late: float


class Arrivals:
    """Sends `requests` in turn at `rate` a second to `address`, from now on."""

    def __init__(self, address: tuple[str, int], requests: Sequence[bytes], rate: float) -> None:
        self._address = address
        self._requests = requests
        self._rate = rate
        self._poll = select.epoll()
        self._idle: list[Connection] = []
        self._busy: dict[int, _Sent] = {}
        self._waiting: deque[int] = deque()
        self._outcome = Outcome()

    def run(self, count: int, *, until: Callable[[], bool] = lambda: False) -> Outcome:
        """Sends `count` requests, or fewer when `until` says so, and waits for their answers."""
        self._origin = time.perf_counter()
        arrived = 0
        while arrived < count or self._waiting or self._busy:
            now = time.perf_counter()
            if arrived < count and until():
                count = arrived
            while arrived < count and self._time_of(arrived) <= now:
                self._waiting.append(arrived)
                arrived += 1
            self._send_waiting()
            if now > self._time_of(count) + _PATIENCE:
                self._outcome.lost["no answer in time"] += len(self._busy) + len(self._waiting)
                break
            upcoming = self._time_of(arrived) if arrived < count else now + 0.1
            self._take_answers(max(0.0, min(upcoming - time.perf_counter(), 0.1)))
        for connection in (*self._idle, *(sent.connection for sent in self._busy.values())):
            connection.close()
        self._poll.close()
        return self._outcome

    def _time_of(self, number: int) -> float:
        return self._origin + number / self._rate

    def _send_waiting(self) -> None:
        while self._waiting and (self._idle or len(self._busy) < MOST_CONNECTIONS):
            number = self._waiting.popleft()
            late = time.perf_counter() - self._time_of(number)
            try:
                connection = self._idle.pop() if self._idle else self._connected()
            except OSError as error:
                self._outcome.lost[f"not connected: {error}"] += 1
                continue
            self._busy[connection.fileno()] = _Sent(connection, number, late)
            try:
                connection.begin(self._requests[number % len(self._requests)])
            except Lost as lost:
                self._lose(connection, lost)
            else:
                self._watch(connection)

    def _connected(self) -> Connection:
        connection = Connection(self._address)
        self._poll.register(connection.fileno(), select.EPOLLIN)
        return connection

    def _watch(self, connection: Connection) -> None:
        if connection.sending:
            self._poll.modify(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _take_answers(self, seconds: float) -> None:
        # epoll waits for whole milliseconds, select for microseconds; one can be waited for with the other.
        select.select([self._poll], [], [], seconds)
        for number, events in self._poll.poll(0):
            sent = self._busy.get(number)
            if sent is None:
                self._forget(number)
                continue
            try:
                if events & select.EPOLLOUT:
                    sent.connection.send()
                    if not sent.connection.sending:
                        self._poll.modify(number, select.EPOLLIN)
                if events & ~select.EPOLLOUT and (answer := sent.connection.receive()):
                    self._keep(sent, answer)
            except Lost as lost:
                self._lose(sent.connection, lost)

    def _keep(self, sent: _Sent, answer: Answer) -> None:
        if answer.status == _OK:
            self._outcome.latencies.append(time.perf_counter() - self._time_of(sent.number))
        self._outcome.late.append(sent.late)
        self._outcome.answers[sent.number % len(self._requests), answer] += 1
        del self._busy[sent.connection.fileno()]
        if answer.closing:
            sent.connection.close()
        else:
            self._idle.append(sent.connection)

    def _lose(self, connection: Connection, lost: Lost) -> None:
        self._outcome.lost[str(lost)] += 1
        del self._busy[connection.fileno()]
        connection.close()

    def _forget(self, number: int) -> None:
        """Lets go of an idle connection that the server has closed."""
        gone = next(connection for connection in self._idle if connection.fileno() == number)
        self._idle.remove(gone)
        gone.close()


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m clients.arrivals", description=__doc__)
    parser.add_argument("requests", type=Path, nargs="+", metavar="FILE", help="an HTTP request, byte for byte")
    parser.add_argument("--port", type=int, required=True, help="on loopback")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--count", type=int, required=True, help="how many requests")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the outcome goes, as JSON")
    arguments = parser.parse_args()
    requests = [path.read_bytes() for path in arguments.requests]
    outcome = Arrivals(("127.0.0.1", arguments.port), requests, arguments.rate).run(arguments.count)
    arguments.out.write_text(json.dumps(outcome.told()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
