"""One layer's tar -> what it adds and what it deletes, read once and never held."""

import io
import posixpath
import tarfile
from dataclasses import dataclass
from tarfile import EmptyHeaderError, EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import IO, Literal, Self, TypeAlias, cast

from pipeline.audit import elf, traces

Kind: TypeAlias = Literal["file", "folder", "symlink", "hardlink", "device", "fifo"]

# Large enough that Python's share is small beside the copying, small enough to stay in the processor's cache.
BUFFER = 2**17
# Where the model lies; what native code there asks of the loader is kept, and a longer library is not looked into.
MODEL = "/model"
_LONGEST_LIBRARY = 2**26

_KINDS: dict[bytes, Kind] = {
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "fifo",
}
# How whiteouts are written: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A member of a layer. `path` is absolute and normal, `mode` the twelve permission bits, `size` in bytes.

    `target` is what a link points to as written, `magic` the first four bytes of a file's content, `traces` the
    names of what pipeline.audit.traces found in it. `library` is a shared library beside the model, as far as it
    could be read.
    """

    path: str
    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    has_capability: bool = False
    magic: bytes = b""
    traces: tuple[str, ...] = ()
    library: elf.Library | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a layer adds, what it deletes from the layers below, and the folders whose lower content it hides."""

    entries: tuple[Entry, ...]
    deleted: frozenset[str]
    opaque: frozenset[str]


class _Header(tarfile.TarInfo):
    """A header that must be right: tarfile takes a wrong one for the end, and what follows would go unseen."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (EmptyHeaderError, EOFHeaderError):
            raise
        except HeaderError as error:
            raise ReadError(f"a header in it is damaged: {error}") from error


def scan(stream: IO[bytes]) -> Layer:
    """Reads an uncompressed layer.

    Raises:
        tarfile.TarError: it is not a tar file, ends too early, or could be read in two ways.
    """
    entries: list[Entry] = []
    deleted: set[str] = set()
    opaque: set[str] = set()
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER, tarinfo=_Header) as archive:
        for member in archive:
            if archive.pax_headers.keys() - {"comment"}:
                # Python lets them rename and resize what follows; engines pass them over.
                raise ReadError(f"it has global headers ({', '.join(archive.pax_headers)})")
            path = absolute(member.name)
            folder, name = posixpath.split(path)
            if name == _OPAQUE:
                opaque.add(folder)
            elif name.startswith(_WHITEOUT):
                deleted.add(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
            else:
                entries.append(_entry(path, member, archive.extractfile(member) if member.isreg() else None))
    return Layer(entries=tuple(entries), deleted=frozenset(deleted), opaque=frozenset(opaque))


def absolute(name: str) -> str:
    """A member's name as an absolute path without `.`, `..` and doubled slashes."""
    return "/" + posixpath.normpath("/" + name).lstrip("/")


def _entry(path: str, member: tarfile.TarInfo, content: IO[bytes] | None) -> Entry:
    library = None
    if content and path.startswith(f"{MODEL}/") and member.size <= _LONGEST_LIBRARY and _is_elf(content):
        whole = content.read()
        library, content = elf.parse(whole), io.BytesIO(whole)
    trail = traces.follow(content) if content else traces.Trail()
    return Entry(
        path=path,
        kind=_KINDS.get(member.type, "file"),
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        size=member.size,
        target=member.linkname,
        has_capability=any(header.endswith("xattr.security.capability") for header in member.pax_headers),
        magic=trail.magic,
        traces=trail.names,
        library=library,
    )


def _is_elf(content: IO[bytes]) -> bool:
    return cast(io.BufferedReader, content).peek(4).startswith(elf.MAGIC)
