"""An image's file system -> every file with its digests, and which component each belongs to."""

import hashlib
import json
import posixpath
import re
import tarfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

# Empty files that the engine adds to a container: https://docs.docker.com/engine/network/#container-networks
_ENGINES = {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"}
_RECORDS = re.compile(r"var/lib/dpkg/status\.d/.+|.+\.dist-info/(RECORD|METADATA)|model/contract\.json")
_BYTECODE = re.compile(r"(.*/)__pycache__/([^/]+)\.cpython-\d+\.pyc")
# syft has nothing to say about libraries larger than this, and unpacking them takes longer than all the rest.
_LARGEST = 64 * 2**20
SITE = "opt/torchyard/site"
# Who made the libraries that the serving image takes out of wheels, by the beginning of their names.
WHEELS = {
    "libc10": "torch",
    "libcudart": "nvidia-cuda-runtime-cu12",
    "libcupti": "nvidia-cuda-cupti-cu12",
    "libgomp": "torch",
    "libtorch": "torch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A regular file of an image by its path without the leading slash; SPDX wants SHA-1, everybody else SHA-256."""

    path: str
    sha1: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The regular files of an image, the texts of those that tell of packages, and what symbolic links point to."""

    files: tuple[Placed, ...]
    texts: Mapping[str, str]
    links: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something in an image that has a maker and a version, with its files. `purl` is empty for what is our own."""

    kind: str
    name: str
    version: str
    purl: str
    licence: str
    files: tuple[Placed, ...]


def read(stream: BinaryIO, folder: Path) -> Tree:
    """Hashes every regular file of a file system's tar, and unpacks the smaller ones below `folder`, for syft."""
    files, texts, links = [], {}, {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = posixpath.normpath(member.name)
            if member.issym():
                links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
            if not member.isreg() or (path in _ENGINES and not member.size):
                continue
            source = archive.extractfile(member)
            content = source.read() if source else b""
            sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            files.append(Placed(path=path, sha1=sha1, sha256=hashlib.sha256(content).hexdigest(), size=len(content)))
            if _RECORDS.fullmatch(path):
                texts[path] = content.decode(errors="replace")
            if len(content) <= _LARGEST and not posixpath.isabs(path) and not path.startswith(".."):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
    return Tree(files=tuple(sorted(files, key=lambda each: each.path)), texts=texts, links=links)


def components(tree: Tree, *, versions: Mapping[str, str]) -> tuple[tuple[Component, ...], tuple[Placed, ...]]:
    """The components of a serving image, each with its files, and the files that belong to none.

    `versions` are those of the wheels that libraries were taken from, and of `torchyard` itself.
    """
    owners = _debian(tree) | _python(tree)
    for file in tree.files:
        if (owner := _ours(file.path)) and file.path not in owners:
            owners[file.path] = owner
    for file in tree.files:
        if found := _BYTECODE.fullmatch(file.path):
            source = f"{found[1]}{found[2]}.py"
            owners.setdefault(file.path, owners.get(tree.links.get(source, source), ("", "")))
    grouped: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    for file in tree.files:
        grouped[owners.get(file.path, ("", ""))].append(file)
    strangers = grouped.pop(("", ""), [])
    facts = _facts(tree, versions)
    made = (_component(kind, name, tuple(files), facts) for (kind, name), files in sorted(grouped.items()))
    return tuple(made), tuple(strangers)


def _component(kind: str, name: str, files: tuple[Placed, ...], facts: Mapping[str, tuple[str, str]]) -> Component:
    version, licence = facts.get(f"{kind}/{name}", ("", ""))
    purls = {"deb": f"pkg:deb/debian/{name}@{version}?distro=debian-13", "pypi": f"pkg:pypi/{name}@{version}"}
    return Component(kind=kind, name=name, version=version, purl=purls.get(kind, ""), licence=licence, files=files)


def _debian(tree: Tree) -> dict[str, tuple[str, str]]:
    """By the `md5sums` of each package, and its own record."""
    found: dict[str, tuple[str, str]] = {}
    for path, text in tree.texts.items():
        if not path.startswith("var/lib/dpkg/status.d/"):
            continue
        package = posixpath.basename(path).removesuffix(".md5sums")
        found[path] = ("deb", package)
        if path.endswith(".md5sums"):
            # A merged /usr: what packages still put into /lib is found in /usr/lib.
            names = (line.partition("  ")[2] for line in text.splitlines())
            found |= {re.sub(r"^(bin|lib|lib64|sbin)/", r"usr/\1/", name): ("deb", package) for name in names}
    # What is a configuration file has no checksum there.
    return found | {"etc/debian_version": ("deb", "base-files")}


def _python(tree: Tree) -> dict[str, tuple[str, str]]:
    """By the RECORD of each package: https://packaging.python.org/en/latest/specifications/recording-installed-packages/"""
    found: dict[str, tuple[str, str]] = {}
    for path, text in tree.texts.items():
        if path.endswith("/RECORD"):
            folder = posixpath.dirname(path)
            package = posixpath.basename(folder).partition("-")[0].replace("_", "-")
            names = [line.rsplit(",", 2)[0] for line in text.splitlines() if line]
            site = posixpath.dirname(folder)
            found |= {posixpath.normpath(f"{site}/{name}"): ("pypi", package) for name in names}
            # pip writes these when it installs; RECORD is a list that --target leaves without them.
            found |= {f"{folder}/{name}": ("pypi", package) for name in ("INSTALLER", "RECORD", "REQUESTED")}
    return found


def _ours(path: str) -> tuple[str, str] | None:
    """What the images' Dockerfiles, the root's bootstrap and `inv assemble` put there."""
    if path.startswith("model/"):
        return ("model", posixpath.basename(path))
    if path.startswith("opt/torchyard/lib/"):
        name = posixpath.basename(path)
        return next((("pypi", wheel) for start, wheel in WHEELS.items() if name.startswith(start)), _SERVER)
    if path.startswith("opt/torchyard/server/") or path == "opt/torchyard/runtime.json":
        return _SERVER
    return ("application", "torchyard-root") if path in {"etc/group", "etc/passwd"} else None


_SERVER = ("application", "torchyard-serving")


def _facts(tree: Tree, versions: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Version and licence of each component that tells them, by `kind/name`."""
    found = {f"pypi/{name}": (version, "") for name, version in versions.items()}
    found |= {f"application/{name}": (versions["torchyard"], "Apache-2.0") for name in ("torchyard-root", _SERVER[1])}
    for path, text in tree.texts.items():
        fields = dict(re.findall(r"^([\w-]+): (.*)$", text, re.MULTILINE))
        if path.startswith("var/lib/dpkg/status.d/") and not path.endswith(".md5sums"):
            found[f"deb/{posixpath.basename(path)}"] = (fields.get("Version", ""), "")
        if path.endswith("/METADATA"):
            licence = fields.get("License-Expression", "")
            found[f"pypi/{fields['Name'].lower().replace('_', '-')}"] = (fields["Version"], licence)
    contract: dict[str, Any] = json.loads(tree.texts.get("model/contract.json", "{}"))
    for file in tree.files:
        if file.path.startswith("model/"):
            found[f"model/{posixpath.basename(file.path)}"] = (str(contract.get("version", "")), "")
    return found
