"""gzip and deflate, with a bound on what a few bytes may become.

Deflate is zlib's format (RFC 9110, section 8.4.1.2), as clients of HTTP and of gRPC send it.
"""

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeAlias

from server.model.engine import Bytes
from server.refusal import Refusal

Encoding: TypeAlias = Literal["gzip", "deflate"]
ENCODINGS: tuple[Encoding, ...] = ("gzip", "deflate")
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
# Above this many bytes the event loop does not wait for it: deflate expands up to a thousand times, in milliseconds.
INLINE = 4096
# One at a time: what a few bytes become is counted only when it is there.
_BESIDE = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compression")
# Less than this does not get shorter by more than its packet's own headers, and level 1 costs a third of level 6.
SMALLEST = 1024
_LEVEL = 1


def named(value: bytes) -> Encoding | None:
    """The encoding that Content-Encoding names, or None for identity.

    Raises:
        Refusal: 415, it names another one, or several.
    """
    name = value.strip().lower().decode("latin-1")
    for encoding in ENCODINGS:
        if name == encoding or (name == "x-gzip" and encoding == "gzip"):
            return encoding
    if name in {"", "identity"}:
        return None
    raise Refusal(415, f"Content-Encoding: expected one of gzip, deflate, identity, got {name[:50]!r}.")


def accepted(value: bytes) -> Encoding | None:
    """The encoding that Accept-Encoding asks for most, or None (RFC 9110, section 12.5.3)."""
    weights: dict[str, float] = {}
    for part in value[:1000].decode("latin-1").lower().split(","):
        name, _, parameter = part.partition(";")
        weight = parameter.replace(" ", "").removeprefix("q=")
        try:
            weights[name.strip()] = float(weight) if parameter else 1.0
        except ValueError:
            continue
    known = {each: weights.get(each, weights.get("*", 0.0)) for each in ENCODINGS}
    best = max(ENCODINGS, key=lambda each: known[each])
    return best if known[best] > weights.get("identity", 0.0) or known[best] >= 1.0 else None


async def inflated(field: str, encoding: Encoding, content: Bytes, *, most: int) -> bytes:
    """What a compressed body holds.

    Raises:
        Refusal: 400, it is not whole or not of its encoding; 413, it holds more than `most` bytes.
    """
    if len(content) <= INLINE:
        return inflate(field, encoding, content, most=most)
    work = partial(inflate, field, encoding, content, most=most)
    return await asyncio.get_running_loop().run_in_executor(_BESIDE, work)


async def deflated(encoding: Encoding, *parts: Bytes) -> bytes:
    """The parts as one, compressed."""
    if sum(map(len, parts)) <= INLINE:
        return deflate(encoding, *parts)
    return await asyncio.get_running_loop().run_in_executor(_BESIDE, deflate, encoding, *parts)


def inflate(field: str, encoding: Encoding, content: Bytes, *, most: int) -> bytes:
    """As `inflated`, in the calling thread; never holds more than `most` bytes and one."""
    machine = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        inflated = machine.decompress(content, most + 1)
    except zlib.error as error:
        raise Refusal(400, f"{field}: not {encoding} ({error}).") from error
    if len(inflated) > most:
        raise Refusal(413, f"{field}: at most {most} bytes are taken, and it holds more.")
    if not machine.eof:
        raise Refusal(400, f"{field}: its {encoding} ends too early.")
    if machine.unused_data:
        raise Refusal(400, f"{field}: {len(machine.unused_data)} bytes are left after its {encoding}.")
    return inflated


def deflate(encoding: Encoding, *parts: Bytes) -> bytes:
    """As `deflated`, in the calling thread."""
    machine = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[encoding])
    return b"".join([*map(machine.compress, parts), machine.flush()])
