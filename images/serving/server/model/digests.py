"""Verifies that the files beside a contract are the ones that it names: loading an archive checks nothing itself."""

import hashlib
import mmap
import os
from pathlib import Path
from typing import BinaryIO

from server.errors import DigestMismatch
from server.model.contract import Contract, File


def verify(contract: Contract, folder: Path) -> None:
    """Compares size and SHA-256 of every file that the contract names.

    Raises:
        DigestMismatch: one differs, or is not there.
    """
    for file in contract.files:
        _verify(file, folder / file.name)


def _verify(file: File, path: Path) -> None:
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = _sha256(stream) if size else hashlib.sha256().hexdigest()
    except OSError as error:
        raise DigestMismatch(
            f"{path}: {error.strerror}. The contract names it; put the files of one export beside each other, "
            "readable for this user."
        ) from error
    if size != file.size:
        raise DigestMismatch(f"{path}: it has {size} bytes, and the contract says {file.size}.{_CURE}")
    if digest != file.sha256:
        raise DigestMismatch(f"{path}: its sha256 is {digest}, and the contract says {file.sha256}.{_CURE}")


def _sha256(stream: BinaryIO) -> str:
    """Of a whole file in one go, so that other threads have the GIL all that time."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()


_CURE = (
    " The file was damaged or replaced after the export, and its answers cannot be trusted;"
    " build the image again from the files of one export."
)
