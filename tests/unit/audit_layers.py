"""Layers and images for the tests of the audit: a clean serving image in miniature, and ways to spoil it."""

import io
import json
import struct
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ELF = b"\x7fELF\x02\x01\x01" + bytes(57)
PYTHON = "/usr/bin/python3.13"
CONFIG: Mapping[str, Any] = {
    "User": "65532:65532",
    "Entrypoint": [PYTHON, "-m", "server"],
    "Healthcheck": {"Test": ["CMD", PYTHON, "-m", "server.health"]},
    "ExposedPorts": {"8080/tcp": {}},
    "Env": ["PYTHONPATH=/opt/torchyard:/opt/torchyard/site", "TOKENIZERS_PARALLELISM=false"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of a layer's tar, by default a regular file of root's with mode 0644."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    type: bytes = tarfile.REGTYPE
    target: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def folder(path: str, mode: int = 0o755, **more: int) -> Member:
    return Member(path=path, mode=mode, type=tarfile.DIRTYPE, **more)  # type: ignore[arg-type]


def link(path: str, target: str) -> Member:
    return Member(path=path, mode=0o777, type=tarfile.SYMTYPE, target=target)


def program(path: str) -> Member:
    return Member(path=path, content=ELF, mode=0o755)


def layer(*members: Member) -> bytes:
    """The members as a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.path.lstrip("/"))
            info.size, info.mode, info.uid, info.gid = len(member.content), member.mode, member.uid, member.gid
            info.type, info.linkname, info.pax_headers = member.type, member.target, dict(member.headers)
            archive.addfile(info, io.BytesIO(member.content))
    return out.getvalue()


# Each file of these layers resembles something that a rule refuses and must not be mistaken for it.
ROOT = layer(
    link("bin", "usr/bin"),
    link("lib", "usr/lib"),
    link("sbin", "usr/sbin"),
    folder("tmp", 0o1777),
    folder("var/log"),
    program(PYTHON),
    Member(path="/usr/lib/python3.13/ssl.py", content=b'PEM_HEADER = "-----BEGIN CERTIFICATE-----"\n'),
    Member(path="/usr/lib/python3.13/secrets.py", content=b'KEY = b"-----BEGIN RSA PRIVATE KEY-----"\n'),
    Member(path="/usr/lib/python3.13/netrc.py", content=b"def netrc(): ...\n"),
    Member(path="/usr/lib/python3.13/venv/__init__.py", content=b"'-m', 'ensurepip'\n"),
    Member(path="/usr/lib/python3.13/urllib/request.py", content=b"# ftp://joe:password@proxy.example.com/\n"),
    program("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
    Member(path="/usr/share/bash-completion/completions/make", content=b"complete -F _make make\n"),
    Member(path="/usr/share/doc/mawk/copyright", content=b"https://bugs.debian.org:443/path@2x.png\n"),
)
SERVER = layer(
    Member(path="/opt/torchyard/server/__main__.py", content=b'URL = f"http://{user}:{password}@{host}/"\n'),
    Member(path="/opt/torchyard/server/test_sh.py", content=b"import subprocess\n"),
    Member(path="/opt/torchyard/site/asgi/pipeline.py", content=b"class Pip: ...\n"),
    Member(path="/opt/torchyard/lib/libtorch_cpu.so", content=ELF + b"-----BEGIN \0 PRIVATE KEY-----" + bytes(2**20)),
    folder("/model", 0o555),
    Member(path="/model/model.pt", content=b"PK\x03\x04" + bytes(5000), mode=0o444),
)
HISTORY: Sequence[Mapping[str, Any]] = (
    {"created_by": "RUN |1 EPOCH=1755000000 strip --strip-unneeded libtorch_cpu.so # buildkit"},
    {"created_by": "COPY /opt/torchyard /opt/torchyard # buildkit"},
)


def classic(layers: Sequence[bytes], config: Mapping[str, Any] = CONFIG) -> dict[str, bytes]:
    """The members of an archive as Docker 20.10 saves it, manifest last."""
    members = {f"{number:064x}/layer.tar": content for number, content in enumerate(layers)}
    return members | _manifest("f" * 64 + ".json", tuple(members), config)


def oci(layers: Sequence[bytes], config: Mapping[str, Any] = CONFIG) -> dict[str, bytes]:
    """The members of an archive as newer engines save it: everything is a blob."""
    blobs = {f"blobs/sha256/{number:064x}": content for number, content in enumerate(layers)}
    index = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b'{"schemaVersion":2,"manifests":[]}'}
    return blobs | index | _manifest("blobs/sha256/" + "f" * 64, tuple(blobs), config)


def saved(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> io.BytesIO:
    """The archive as a stream; `links` are symlinks, by path and target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, target in (links or {}).items():
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
        for path, content in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


def _manifest(path: str, layers: tuple[str, ...], config: Mapping[str, Any]) -> dict[str, bytes]:
    configuration = {"config": config, "rootfs": {"type": "layers", "diff_ids": ["sha256:…"] * len(layers)}}
    manifest = [{"Config": path, "RepoTags": None, "Layers": list(layers)}]
    return {path: json.dumps(configuration).encode(), "manifest.json": json.dumps(manifest).encode()}


def library(*needed: str, search: str = "") -> bytes:
    """A shared library for x86-64 that has nothing but a dynamic section, with these needs and this RUNPATH."""
    strings = bytearray(b"\0")
    entries: list[tuple[int, int]] = []
    for tag, text in (*((1, name) for name in needed), *(((29, search),) if search else ())):
        entries.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    base, start = 0x4000, 64 + 2 * 56
    entries += [(5, base + start), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    size = start + len(strings) + len(dynamic)
    at = start + len(strings)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, base, base, size, size, 0x1000)
    pointer = struct.pack("<IIQQQQQQ", 2, 4, at, base + at, base + at, len(dynamic), len(dynamic), 8)
    return header + load + pointer + bytes(strings) + dynamic
