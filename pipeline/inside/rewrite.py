"""Writes a TorchScript archive again so that equal models give equal bytes.

torch puts what varies into its archives: paths of the source files in the debug records and a serialization id.
Loading needs neither. What stays keeps the layout that lets torch map weights from the file instead of copying
them: stored without compression, every record starting at a multiple of 64 bytes.
"""

import struct
import zipfile
from pathlib import Path
from typing import IO

ALIGNMENT = 64
# PyTorch's own tag for padding in a record's extra field (kPadding in caffe2/serialize/inline_container.cc).
_PADDING = 0x4246
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20
# zipfile takes ZIP64 by itself from 5 % below 2 GiB on; deciding earlier keeps the header's length known.
_ZIP64_FROM = 2**30
_EPOCH = (1980, 1, 1, 0, 0, 0)


def rewrite(source: IO[bytes], target: Path) -> None:
    """Writes the archive `source` to `target` without its varying records, its folder named `model`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            _, _, name = entry.filename.partition("/")
            if name.endswith(".debug_pkl") or name == ".data/serialization_id":
                continue
            with old.open(entry) as record:
                _copy(record, entry.file_size, f"model/{name}", new)


def _copy(record: IO[bytes], size: int, name: str, new: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.create_system = 0
    entry.file_size = size
    zip64 = size >= _ZIP64_FROM
    entry.extra = _padding(new.start_dir + _LOCAL_HEADER + len(name.encode()) + (_ZIP64_EXTRA if zip64 else 0))
    with new.open(entry, "w", force_zip64=zip64) as out:
        while chunk := record.read(2**20):
            out.write(chunk)


def _padding(start: int) -> bytes:
    """The extra field that moves a record's data from `start` to the next multiple of 64 bytes."""
    fill = -(start + 4) % ALIGNMENT
    return struct.pack("<HH", _PADDING, fill) + b"Z" * fill
