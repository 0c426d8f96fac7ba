"""An image's file system -> every file with its digests, and which component each belongs to, by what is in it."""

import base64
import binascii
import csv
import hashlib
import json
import posixpath
import re
import tarfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from packageurl import PackageURL

# Empty files that the engine adds to a container: https://docs.docker.com/engine/network/#container-networks
_ENGINES = {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"}
# What the image's build took out of wheels and changed, by images/serving/closure.py.
_LIBRARIES = "opt/torchyard/lib/libraries.json"
_RECORDS = re.compile(rf"var/lib/dpkg/status\.d/.+|.+\.dist-info/(RECORD|METADATA)|model/contract\.json|{_LIBRARIES}")
_BYTECODE = re.compile(r"(.*/)__pycache__/([^/]+)\.cpython-\d+\.pyc")
# syft has nothing to say about libraries larger than this, and unpacking them takes longer than all the rest.
_LARGEST = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A regular file of an image by its path without the leading slash. Debian lists MD5, SPDX wants SHA-1, everybody
    else SHA-256."""

    path: str
    md5: str
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
    """Something in an image that has a maker and a version, with its files. `purl` is empty for what is our own.

    `digest` is the SHA-256 of what it was installed from, or empty where the image does not tell.
    """

    kind: str
    name: str
    version: str
    purl: str
    licence: str
    digest: str
    files: tuple[Placed, ...]


class _Owner(NamedTuple):
    """Whose a file is, and the MD5 or SHA-256 that it has then; empty where nobody has written it down."""

    kind: str
    name: str
    checksum: str = ""


class _Facts(NamedTuple):
    """Version and licence of a component, and the SHA-256 of what it was installed from; empty where it is not told."""

    version: str = ""
    licence: str = ""
    digest: str = ""


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
            sums = {
                "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
                "sha1": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            files.append(Placed(path=path, size=len(content), **sums))
            if _RECORDS.fullmatch(path):
                texts[path] = content.decode(errors="replace")
            if len(content) <= _LARGEST and not posixpath.isabs(path) and not path.startswith(".."):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
    return Tree(files=tuple(sorted(files, key=lambda each: each.path)), texts=texts, links=links)


def components(
    tree: Tree, *, version: str, known: Mapping[str, str]
) -> tuple[tuple[Component, ...], tuple[Placed, ...]]:
    """The components of a serving image, each with its files, and the files that belong to none.

    A file belongs to whatever lists it only with the content that it is listed with. `version` is that of Torchyard,
    and `known` are the files of its own by path, with their SHA-256: the model's, and the server's sources.
    """
    owners = _debian(tree) | _python(tree) | _taken(tree)
    for file in tree.files:
        if (owner := _ours(file.path, known)) and file.path not in owners:
            owners[file.path] = owner
    for file in tree.files:
        if found := _BYTECODE.fullmatch(file.path):
            source = f"{found[1]}{found[2]}.py"
            if owner := owners.get(tree.links.get(source, source)):
                owners.setdefault(file.path, owner._replace(checksum=""))
    grouped: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    strangers = []
    for file in tree.files:
        owner = owners.get(file.path)
        if owner and owner.checksum in {"", file.md5, file.sha256}:
            grouped[owner.kind, owner.name].append(file)
        else:
            strangers.append(file)
    facts = _facts(tree, version)
    made = (_component(kind, name, tuple(files), facts) for (kind, name), files in sorted(grouped.items()))
    return tuple(made), tuple(strangers)


def deb(name: str, version: str) -> str:
    """The package URL of a Debian package: https://github.com/package-url/purl-spec."""
    return PackageURL("deb", "debian", name, version, {"distro": "debian-13"}).to_string()


def pypi(name: str, version: str) -> str:
    """The package URL of a Python package."""
    return PackageURL("pypi", None, name, version).to_string()


def _component(kind: str, name: str, files: tuple[Placed, ...], facts: Mapping[str, _Facts]) -> Component:
    known = facts.get(f"{kind}/{name}", _Facts())
    purls = {
        "deb": deb(name, known.version),
        "pypi": pypi(name, known.version),
    }
    return Component(kind=kind, name=name, purl=purls.get(kind, ""), files=files, **known._asdict())


def _debian(tree: Tree) -> dict[str, _Owner]:
    """By the `md5sums` of each package, and its own record."""
    found: dict[str, _Owner] = {}
    for path, text in tree.texts.items():
        if not path.startswith("var/lib/dpkg/status.d/"):
            continue
        package = posixpath.basename(path).removesuffix(".md5sums")
        found[path] = _Owner("deb", package)
        if path.endswith(".md5sums"):
            for checksum, _, name in (line.partition("  ") for line in text.splitlines()):
                # A merged /usr: what packages still put into /lib is found in /usr/lib.
                found[re.sub(r"^(bin|lib|lib64|sbin)/", r"usr/\1/", name)] = _Owner("deb", package, checksum)
    # What is a configuration file has no checksum there.
    return found | {"etc/debian_version": _Owner("deb", "base-files")}


def _python(tree: Tree) -> dict[str, _Owner]:
    """By the RECORD of each package: https://packaging.python.org/en/latest/specifications/recording-installed-packages/"""
    found: dict[str, _Owner] = {}
    for path, text in tree.texts.items():
        if path.endswith("/RECORD"):
            folder = posixpath.dirname(path)
            package = posixpath.basename(folder).partition("-")[0].replace("_", "-")
            site = posixpath.dirname(folder)
            for name, checksum, _ in csv.reader(text.splitlines()):
                found[posixpath.normpath(f"{site}/{name}")] = _Owner("pypi", package, _hexadecimal(checksum))
            # pip writes these when it installs; RECORD is a list that --target leaves without them.
            found |= {f"{folder}/{name}": _Owner("pypi", package) for name in ("INSTALLER", "RECORD", "REQUESTED")}
    return found


def _hexadecimal(checksum: str) -> str:
    """`sha256=<base64 without padding>` as digits; what is no such thing, as it is."""
    kind, _, value = checksum.partition("=")
    try:
        return base64.urlsafe_b64decode(f"{value}==").hex() if kind == "sha256" else checksum
    except binascii.Error:
        return checksum


def _taken(tree: Tree) -> dict[str, _Owner]:
    """The libraries that the serving image has out of wheels, stripped: as its build wrote them down."""
    folder = posixpath.dirname(_LIBRARIES)
    return {
        f"{folder}/{name}": _Owner("pypi", each["package"], each["sha256"]) for name, each in _libraries(tree).items()
    }


def _libraries(tree: Tree) -> dict[str, dict[str, str]]:
    """Package, version and SHA-256 of each."""
    listed: dict[str, dict[str, str]] = json.loads(tree.texts.get(_LIBRARIES, "{}"))
    return listed


def _ours(path: str, known: Mapping[str, str]) -> _Owner | None:
    """What the images' Dockerfiles, the root's bootstrap and `inv assemble` put there."""
    folder, name = posixpath.split(path)
    if path in known:
        return _Owner("model", name, known[path]) if folder == "model" else _Owner(*_SERVER, known[path])
    if path in {_LIBRARIES, "opt/torchyard/runtime.json", "opt/torchyard/server/protocols.binpb"}:
        return _Owner(*_SERVER)
    if folder == "opt/torchyard/lib" and re.fullmatch(r"_(engine|http2)\.cpython-\d+-[\w-]+\.so", name):
        return _Owner(*_SERVER)
    return _Owner("application", "torchyard-root") if path in {"etc/group", "etc/passwd"} else None


_SERVER = ("application", "torchyard-serving")


def _facts(tree: Tree, version: str) -> dict[str, _Facts]:
    """What each component tells of itself, by `kind/name`."""
    found = {f"application/{name}": _Facts(version, "Apache-2.0") for name in ("torchyard-root", _SERVER[1])}
    found |= {f"pypi/{each['package']}": _Facts(each["version"]) for each in _libraries(tree).values()}
    for path, text in tree.texts.items():
        fields = dict(re.findall(r"^([\w-]+): (.*)$", text, re.MULTILINE))
        if path.startswith("var/lib/dpkg/status.d/") and not path.endswith(".md5sums"):
            digest = fields.get("SHA256", "")
            found[f"deb/{posixpath.basename(path)}"] = _Facts(fields.get("Version", ""), digest=digest)
        if path.endswith("/METADATA"):
            licence = fields.get("License-Expression", "")
            found[f"pypi/{fields['Name'].lower().replace('_', '-')}"] = _Facts(fields["Version"], licence)
    contract: dict[str, Any] = json.loads(tree.texts.get("model/contract.json", "{}"))
    for file in tree.files:
        if file.path.startswith("model/"):
            found[f"model/{posixpath.basename(file.path)}"] = _Facts(str(contract.get("version", "")))
    return found
