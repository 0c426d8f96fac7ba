"""A docker-archive tar, as `docker save` writes it -> Contents, in one pass over the stream."""

import gzip
import json
import posixpath
import tarfile
import zlib
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any, BinaryIO, cast

from pipeline.audit.contents import Contents
from pipeline.audit.layer import BUFFER, Layer, scan
from pipeline.errors import AuditError

# Manifests and configurations are kilobytes; what is longer and not a layer is not kept.
_LONGEST_DOCUMENT = 2**22
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The members of the archive by path: which are layers is known only when manifest.json has been read."""

    layers: dict[str, Layer] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    zstd: set[str] = field(default_factory=set)


def read(stream: BinaryIO, *, name: str) -> Contents:
    """Reads the one image in `stream`; both layouts of the format, layers plain or compressed with gzip.

    Raises:
        AuditError: it is not such an archive, is incomplete, or has a layer that cannot be read; names `name`.
    """
    parts = _Parts()
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER) as archive:
            for member in archive:
                path = posixpath.normpath(member.name)
                if member.issym():
                    parts.links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
                elif member.isreg():
                    _sort(path, cast(BufferedReader, archive.extractfile(member)), parts)
        return _contents(parts, name)
    except (
        tarfile.TarError,
        EOFError,
        gzip.BadGzipFile,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
    ) as error:
        raise AuditError(
            f"{name}: what the engine saved cannot be read as an image ({type(error).__name__}: {error}), so nothing "
            "can be said about it. Save it again; if that does not help, remove the image and build it anew."
        ) from error


def _sort(path: str, content: BufferedReader, parts: _Parts) -> None:
    start = content.peek(tarfile.BLOCKSIZE)[: tarfile.BLOCKSIZE]
    if _is_tar(start):
        parts.layers[path] = scan(content)
    elif start.startswith(_GZIP):
        with gzip.open(content) as plain:
            parts.layers[path] = scan(cast(BinaryIO, plain))
    elif start.startswith(_ZSTD):
        parts.zstd.add(path)
    else:
        document = content.read(_LONGEST_DOCUMENT + 1)
        if len(document) <= _LONGEST_DOCUMENT:
            parts.documents[path] = document


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(block) == tarfile.BLOCKSIZE and not any(block)
    return True


def _contents(parts: _Parts, name: str) -> Contents:
    if "manifest.json" not in parts.documents:
        raise ValueError("manifest.json is missing")
    (manifest,) = json.loads(parts.documents["manifest.json"])
    configuration: dict[str, Any] = json.loads(parts.documents[manifest["Config"]])
    layers = tuple(_layer(path, parts, name) for path in manifest["Layers"])
    expected = len(configuration["rootfs"]["diff_ids"])
    if len(layers) != expected:
        raise ValueError(f"there are {len(layers)} layers, and the configuration names {expected}")
    return Contents.of(configuration, layers)


def _layer(path: str, parts: _Parts, name: str) -> Layer:
    real = parts.links.get(path, path)
    if real in parts.zstd:
        raise AuditError(
            f"{name}: its layer {path} is compressed with zstd, which is not read here, so its files cannot be judged. "
            "Build or push the image with gzip layers (BuildKit: `compression=gzip,force-compression=true`)."
        )
    if real not in parts.layers:
        raise ValueError(f"the layer {path} is missing or is not a tar file")
    return parts.layers[real]
