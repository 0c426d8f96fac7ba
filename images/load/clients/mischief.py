"""Clients that send what is wrong, and clients that go away: at any time, and without a word."""

import argparse
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from clients.connection import Lost, Parser

# What a client does on a connection of its own, given a good request; it returns what is to be answered, or nothing.
Trick: TypeAlias = Callable[[socket.socket, bytes], bytes | None]
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def _head_and_body(request: bytes) -> tuple[bytes, bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    return head, body


def _other(request: bytes, body: bytes) -> bytes:
    """The same request with another body."""
    head, _ = _head_and_body(request)
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"content-length", b"inference-"))]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body


def no_json(_: socket.socket, request: bytes) -> bytes:
    """A body that breaks off."""
    return _other(request, _head_and_body(request)[1][:-7])


def no_inputs(_: socket.socket, request: bytes) -> bytes:
    """JSON that is no inference request."""
    return _other(request, b'{"inputs": []}')


def huge_shape(_: socket.socket, request: bytes) -> bytes:
    """A shape of more elements than there are."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2**31, 2**31], "data": [1]}
    return _other(request, json.dumps({"inputs": [tensor]}).encode())


def no_model(_: socket.socket, request: bytes) -> bytes:
    """A model that is not here."""
    return request.replace(b"/v2/models/", b"/v2/models/not-", 1)


def no_method(_: socket.socket, request: bytes) -> bytes:
    """A method that the path does not have."""
    return request.replace(b"POST ", b"DELETE ", 1)


def leave_at_once(_: socket.socket, __: bytes) -> None:
    """Connects and goes."""


def leave_in_the_head(connection: socket.socket, request: bytes) -> None:
    """Goes in the middle of the header."""
    connection.sendall(request[:20])


def leave_in_the_body(connection: socket.socket, request: bytes) -> None:
    """Goes before the last byte of the body."""
    connection.sendall(request[:-1])


def leave_before_the_answer(connection: socket.socket, request: bytes) -> None:
    """Asks, and goes before it is answered."""
    connection.sendall(request)


def leave_in_the_answer(connection: socket.socket, request: bytes) -> None:
    """Goes after the first byte of the answer."""
    connection.sendall(request)
    connection.recv(1)


def reset(connection: socket.socket, request: bytes) -> None:
    """Asks, and resets the connection instead of closing it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.sendall(request)


def speak_http_2(connection: socket.socket, _: bytes) -> None:
    """Begins to speak HTTP/2, and goes."""
    connection.sendall(_PREFACE)


def speak_nothing(connection: socket.socket, _: bytes) -> None:
    """Sends what is no protocol."""
    connection.sendall(bytes(range(256)))


WRONG: tuple[Trick, ...] = (no_json, no_inputs, huge_shape, no_model, no_method)
LEAVING: tuple[Trick, ...] = (
    leave_at_once,
    leave_in_the_head,
    leave_in_the_body,
    leave_before_the_answer,
    leave_in_the_answer,
    reset,
    speak_http_2,
    speak_nothing,
)


def play(trick: Trick, address: tuple[str, int], request: bytes) -> str:
    """Plays one trick; what came of it: a status, or that the client has left."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrong = trick(connection, request)
        if wrong is None:
            return "left"
        connection.sendall(wrong)
        parser = Parser()
        while content := connection.recv(2**16):
            if answer := parser.feed(content):
                return f"status {answer.status}"
    return "closed without an answer"


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m clients.mischief", description=__doc__)
    parser.add_argument("request", type=Path, metavar="FILE", help="a good HTTP request, byte for byte")
    parser.add_argument("--ports", type=int, nargs="+", required=True, help="HTTP's on loopback, and others to go from")
    parser.add_argument("--rate", type=float, required=True, help="tricks a second")
    parser.add_argument("--seconds", type=float, required=True, help="how long")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the outcome goes, as JSON")
    arguments = parser.parse_args()
    request, chance = arguments.request.read_bytes(), random.Random(0)  # noqa: S311 (no secret)
    outcome: Counter[str] = Counter()
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        trick = chance.choice((*WRONG, *LEAVING))
        port = arguments.ports[0] if trick in WRONG else chance.choice(arguments.ports)
        try:
            told = play(trick, ("127.0.0.1", port), request)
        except (OSError, Lost) as error:
            told = f"{type(error).__name__}: {error}"
        outcome[f"{trick.__name__}: {told}"] += 1
        time.sleep(chance.expovariate(arguments.rate))
    arguments.out.write_text(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
