"""What a shared library asks of the loader: the dynamic section of an ELF file (System V ABI, gABI chapter 5)."""

import struct
from dataclasses import dataclass

MAGIC = b"\x7fELF"
_SHARED = 3
_X86_64 = 62
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 15, 29
# Honest libraries have some dozens of entries and short names; a hostile one must not cost memory.
_LONGEST_SECTION = 2**16
_LONGEST_NAME = 2**12
_NAMES = (_DT_NEEDED, _DT_RPATH, _DT_RUNPATH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """The libraries that must be loaded with it, by name, and the folders that it has the loader search for them."""

    needed: tuple[str, ...]
    search: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A program header: `size` bytes at `offset` of the file, at `address` in memory."""

    kind: int
    offset: int
    address: int
    size: int


def parse(content: bytes) -> Library | None:
    """Reads a shared library for 64-bit x86; None for anything else, or where the file contradicts itself."""
    try:
        if content[:6] != MAGIC + b"\x02\x01" or struct.unpack_from("<HH", content, 16) != (_SHARED, _X86_64):
            return None
        segments = _segments(content)
        (dynamic,) = (segment for segment in segments if segment.kind == _PT_DYNAMIC)
        entries = _entries(content[dynamic.offset : dynamic.offset + min(dynamic.size, _LONGEST_SECTION)])
        strings = _offset(next(value for tag, value in entries if tag == _DT_STRTAB), segments)
        names = {tag: [_string(content, strings + at) for kind, at in entries if kind == tag] for tag in _NAMES}
    except (struct.error, ValueError, OverflowError, StopIteration):
        return None
    search = [folder for tag in (_DT_RPATH, _DT_RUNPATH) for path in names[tag] for folder in path.split(":")]
    return Library(needed=tuple(names[_DT_NEEDED]), search=tuple(search))


def _segments(content: bytes) -> list[_Segment]:
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    headers = (struct.unpack_from("<IIQQQQ", content, start + number * size) for number in range(count))
    return [
        _Segment(kind=kind, offset=offset, address=address, size=length)
        for kind, _, offset, address, _, length in headers
    ]


def _entries(dynamic: bytes) -> list[tuple[int, int]]:
    """The tags and values up to the end mark; the loader reads no further."""
    entries: list[tuple[int, int]] = []
    for tag, value in struct.iter_unpack("<qQ", dynamic):
        if tag == _DT_NULL:
            break
        entries.append((tag, value))
    return entries


def _offset(address: int, segments: list[_Segment]) -> int:
    """Where in the file lies what is at `address` in memory. Raises StopIteration if nothing is."""
    loaded = (segment for segment in segments if segment.kind == _PT_LOAD)
    segment = next(segment for segment in loaded if 0 <= address - segment.address < segment.size)
    return address - segment.address + segment.offset


def _string(content: bytes, start: int) -> str:
    return content[start : content.index(b"\0", start, start + _LONGEST_NAME)].decode()
