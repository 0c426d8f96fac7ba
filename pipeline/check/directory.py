"""Where a zip file's directory is, as its end records say: readers agree on it only in a file as honest writers make.

Python's reader moves all offsets when something was put before the archive and counts the directory's bytes;
PyTorch's takes offsets as they stand and counts entries. Two archives in one file are so two different ones.
Layout: APPNOTE.TXT 4.3.14 to 4.3.16.
"""

import struct
from typing import Any, BinaryIO

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_IN_64 = 0xFFFFFFFF


def misplaced(stream: BinaryIO, *, start: int, count: int) -> str | None:
    """Why readers may not agree that the directory is at `start` and has `count` entries; None if they do."""
    size = stream.seek(0, 2)
    end = _record(stream, _END, size - _END.size)
    if end is None or end[0] != b"PK\x05\x06" or end[7]:
        return "something follows the directory's end record; readers differ in where they look for it"
    _, disk, first_disk, _, entries, length, offset, _ = end
    last = size - _END.size
    locator = _record(stream, _LOCATOR, last - _LOCATOR.size)
    if locator and locator[0] == b"PK\x06\x07":
        last -= _LOCATOR.size + _END_64.size
        end_64 = _record(stream, _END_64, last)
        if end_64 is None or end_64[0] != b"PK\x06\x06" or locator[2] != last:
            return "the directory's end record is not where its locator says"
        entries, length, offset = end_64[7:]
    elif _IN_64 in {length, offset}:
        return "the directory's end record refers to another one, which is not there"
    if disk or first_disk:
        return "the directory claims to be on another disk"
    if (offset, offset + length, entries) != (start, last, count):
        return (
            f"the directory claims {entries} entries in {length} bytes from byte {offset} on, and there are {count} "
            f"in {last - start} bytes from byte {start} on: another reader finds another archive in the file"
        )
    return None


def _record(stream: BinaryIO, form: struct.Struct, place: int) -> tuple[Any, ...] | None:
    """The record at a place, None where the file has no such place."""
    if place < 0:
        return None
    stream.seek(place)
    return form.unpack(stream.read(form.size))
