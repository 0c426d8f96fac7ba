"""The client's side of gRPC's HTTP/2, frame by frame, so that tests can say what no client library would.

Needs hpack only: it runs beside the real module in its container, too. https://www.rfc-editor.org/rfc/rfc9113
"""

from dataclasses import dataclass, field

from hpack import Decoder, Encoder

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def message(content: bytes, *, compressed: bool = False, flag: int = 0) -> bytes:
    """A gRPC message with its prefix; `flag` is what this should not say."""
    return bytes([flag or compressed]) + len(content).to_bytes(4, "big") + content


def headers(stream: int, path: str, *, ends: bool = False, **fields: str) -> bytes:
    """The headers of a call; `fields` have underscores for hyphens, and one in front for a colon."""
    pairs = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    pairs |= {"content-type": "application/grpc"} | {
        (":" if name[0] == "_" else "") + name.strip("_").replace("_", "-"): value for name, value in fields.items()
    }
    # Without the dynamic table, so that calls can be made in any order.
    block = Encoder().encode([(name, value, True) for name, value in pairs.items()], huffman=False)
    return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block)


def data(stream: int, payload: bytes, *, ends: bool = False) -> bytes:
    """A part of a call's content, in frames of 16 KiB at most."""
    parts = [payload[at : at + 2**14] for at in range(0, len(payload), 2**14)] or [b""]
    frames = [frame(DATA, 0, stream, part) for part in parts[:-1]]
    return b"".join([*frames, frame(DATA, END_STREAM if ends else 0, stream, parts[-1])])


def call(stream: int, path: str, content: bytes, **fields: str) -> bytes:
    """A whole call of one message."""
    return headers(stream, path, ends=False, **fields) + data(stream, message(content), ends=True)


@dataclass
class Answer:
    """What came back of one call."""

    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def messages(self) -> list[bytes]:
        """The messages without their prefixes."""
        found, at = [], 0
        while at < len(self.content):
            size = int.from_bytes(self.content[at + 1 : at + 5], "big")
            found.append(self.content[at + 5 : at + 5 + size])
            at += 5 + size
        return found

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.headers["grpc-status"])


@dataclass
class Reader:
    """Takes what a server says, in any pieces."""

    answers: dict[int, Answer] = field(default_factory=dict)
    went_away: list[int] = field(default_factory=list)
    _rest: bytes = b""
    _decoder: Decoder = field(default_factory=Decoder)

    def take(self, said: bytes) -> None:
        """Reads whole frames; the rest waits for what comes next."""
        self._rest += said
        while len(self._rest) >= 9:
            size = int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < 9 + size:
                return
            kind, flags, stream = self._rest[3], self._rest[4], int.from_bytes(self._rest[5:9], "big")
            self._frame(kind, flags, stream, self._rest[9 : 9 + size])
            self._rest = self._rest[9 + size :]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == GOAWAY:
            self.went_away.append(int.from_bytes(payload[:4], "big"))
        if kind not in {DATA, HEADERS, RST_STREAM}:
            return
        answer = self.answers.setdefault(stream, Answer())
        if kind == HEADERS:
            answer.headers |= {str(name): str(value) for name, value in self._decoder.decode(payload)}
        elif kind == DATA:
            answer.content += payload
        else:
            answer.reset = int.from_bytes(payload, "big")
        if kind != RST_STREAM and flags & END_STREAM:
            answer.ended = True
