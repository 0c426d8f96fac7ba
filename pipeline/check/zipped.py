"""Opens a TorchScript archive as the zip file it is, trusting none of its claims; every read is bounded."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.artifacts import Finding
from pipeline.check.directory import misplaced

MAX_DIRECTORY = 4 * 2**20
MAX_ENTRIES = 40_000
MAX_EXPANSION = 10
FREE_EXPANSION = 64 * 2**20
_CHUNK = 2**20
_LOCAL_HEADER = 30
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# What `zipfile` raises on bytes that it did not expect, beyond its own BadZipFile.
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, RuntimeError, OSError)

_AGAIN = "Copy or download it again and compare its sha256 with the one it was published with."
_REWRITE = "Make the archive with torch.jit.save, and take it only from a source that you trust."


class NotAnArchive(Exception):
    """The file cannot be looked into any further; `findings` say why."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(findings)
        self.findings = findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Zipped:
    """An open archive whose directory was found sound. Names are without the folder that all entries share."""

    file: zipfile.ZipFile
    entries: dict[str, zipfile.ZipInfo]

    def read(self, name: str, *, limit: int) -> bytes:
        """The content of an entry, at most `limit` bytes of it. The entry's CRC was checked by `damaged` before."""
        content = bytearray()
        with self.file.open(self.entries[name]) as stream:
            while chunk := stream.read(min(_CHUNK, limit - len(content))):
                content += chunk
        return bytes(content)


def open_archive(stream: BinaryIO) -> Zipped:
    """Opens the zip file in `stream` and checks its directory.

    Raises:
        NotAnArchive: it is no zip file, or its directory is one that an honest writer does not make.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    start = stream.read(512)
    if not start.startswith(b"PK"):
        raise NotAnArchive(_what_it_is(start))
    try:
        file = zipfile.ZipFile(_Bounded(stream))
    except _BROKEN as error:
        raise NotAnArchive(_truncated(size, error)) from error
    infos = file.infolist()
    findings = (*_dishonest(infos), *_oversized(infos, size, file.start_dir))
    if findings:
        raise NotAnArchive(*findings)
    if told := misplaced(stream, start=file.start_dir, count=len(infos)):
        raise NotAnArchive(_hostile("the directory", told))
    root = infos[0].filename.partition("/")[0] if infos else ""
    entries = {info.filename.removeprefix(f"{root}/"): info for info in infos}
    return Zipped(file=file, entries=entries)


def damaged(archive: Zipped) -> Iterator[Finding]:
    """One finding for each entry whose bytes do not have the CRC that the directory records.

    torch.jit.load checks no CRC: a flipped weight loads without an error and changes the answers.
    """
    for name, info in archive.entries.items():
        try:
            with archive.file.open(info) as stream:
                while stream.read(_CHUNK):
                    pass
        except _BROKEN as error:
            yield Finding(
                rule="damaged",
                level="error",
                where=name,
                message=f"the bytes are not the ones that were written ({_reason(error)}); "
                "PyTorch would load them without noticing and give wrong answers",
                fix=_AGAIN,
            )


class _Bounded:
    """A stream that refuses any single read larger than an honest directory, so that a claimed size costs nothing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(content) > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY} bytes")
        return content


def _what_it_is(start: bytes) -> Finding:
    """Names the kinds of file that people take for TorchScript archives, by their first bytes."""
    save = 'Save it with torch.jit.save(torch.jit.script(model.eval()), "model.pt").'
    if not start:
        told, fix = "the file is empty", _AGAIN
    elif start.startswith(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"):
        told, fix = "this is a pickle in torch.save's format from before PyTorch 1.6, not TorchScript", save
    elif start[0] == 0x80 and start[1:2] <= b"\x05":
        told, fix = "this is a Python pickle, not TorchScript; loading it would run code from the file", save
    elif start.startswith(b"version https://git-lfs"):
        told, fix = "this is a Git LFS pointer, not the file that it points at", "Run `git lfs pull`."
    else:
        told, fix = f"this is no zip file (it starts with {start[:8]!r}), so no TorchScript archive", save
    return Finding(rule="not-an-archive", level="error", where="the whole file", message=told, fix=fix)


def _truncated(size: int, error: BaseException) -> Finding:
    return Finding(
        rule="truncated",
        level="error",
        where="the end of the file",
        message=f"it starts like a zip file, but its directory cannot be read ({_reason(error)}); "
        f"{size} bytes are probably not all of it",
        fix=_AGAIN,
    )


def _dishonest(infos: list[zipfile.ZipInfo]) -> Iterator[Finding]:
    """Entries that torch.jit.save never writes and that mean different things to different readers."""
    # In lower case: PyTorch's reader finds `CODE/a.py` when it looks for `code/a.py`.
    seen: set[str] = set()
    root = infos[0].filename.partition("/")[0] if infos else ""
    for info in infos:
        name = info.orig_filename
        told = None
        if name.startswith("/") or "\\" in name or "\0" in name or {"..", "."} & set(name.split("/")):
            told = "the name leads out of the archive; unpacking it could overwrite other files"
        elif "/" not in name or name.partition("/")[0] != root:
            told = f"the entry is not in the archive's one folder, {root!r}"
        elif name.lower() in seen:
            told = "there are two entries of this name; which one is loaded depends on the reader"
        elif _is_disguised(name):
            told = "PyTorch's reader takes it for another name: it does not tell upper case from lower case"
        elif info.flag_bits & _ENCRYPTED:
            told = "the entry is encrypted, which TorchScript archives never are"
        elif info.compress_type not in _METHODS:
            told = f"the entry is compressed by method {info.compress_type}; PyTorch reads stored and deflated ones"
        seen.add(name.lower())
        if told:
            yield _hostile(repr(name[:200]), told)


def _is_disguised(name: str) -> bool:
    """Whether the part of a name that torch itself gives is not written as torch writes it."""
    _, _, rest = name.partition("/")
    top, below, _ = rest.partition("/")
    if top == "code" and below:
        return rest.lower().endswith(".py") and not rest.endswith(".py")
    return top != top.lower()


def _oversized(infos: list[zipfile.ZipInfo], size: int, directory: int) -> Iterator[Finding]:
    """Directories that claim more than the file can honestly hold: bombs, entries that share bytes."""
    if len(infos) > MAX_ENTRIES:
        yield _hostile("the directory", f"it lists {len(infos)} entries; more than {MAX_ENTRIES} are not looked at")
    total = sum(info.file_size for info in infos)
    if total > MAX_EXPANSION * size + FREE_EXPANSION:
        yield _hostile("the directory", f"the file has {size} bytes and claims to unpack to {total}: a zip bomb")
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end or info.header_offset + _LOCAL_HEADER + info.compress_size > directory:
            yield _hostile(repr(info.filename[:200]), "the entry overlaps another or lies outside the file")
            return
        end = info.header_offset + _LOCAL_HEADER + info.compress_size


def _hostile(where: str, told: str) -> Finding:
    return Finding(rule="hostile-zip", level="error", where=where, message=told, fix=_REWRITE)


def _reason(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__
