"""`python3.13 -m server.health`: exit code 0 when the server is ready, for the image's HEALTHCHECK.

It runs every few seconds beside the model, so it imports nothing that takes time.
"""

import socket
import sys

PORT = 8080
_REQUEST = b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Less than the HEALTHCHECK's own timeout, so that the reason is said here.
_SECONDS = 1.5


def is_ready(answer: bytes) -> bool:
    """Whether the first line of an HTTP answer says 200."""
    return answer.split(b"\r\n", 1)[0].split(b" ")[1:2] == [b"200"]


def main() -> int:
    """Asks the server on loopback."""
    try:
        with socket.create_connection(("127.0.0.1", PORT), _SECONDS) as connection:
            connection.sendall(_REQUEST)
            answer = connection.recv(4096)
    except OSError as error:
        sys.stderr.write(f"not ready: nothing answers on port {PORT} ({error})\n")
        return 1
    if is_ready(answer):
        return 0
    sys.stderr.write(f"not ready: {answer[-200:].decode(errors='replace')}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
