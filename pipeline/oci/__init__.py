"""What is asked of an OCI registry, and the values that it is asked with.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pipeline.errors import ContentError, RegistryError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
# The configuration of a manifest that has none: image-spec manifest.md, "Guidance for an Empty Descriptor".
EMPTY = "application/vnd.oci.empty.v1+json"

_Part = TypeVar("_Part")
_REFERENCE = re.compile(
    r"(?P<host>[a-z0-9.-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?)/(?P<path>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def digest_of(content: bytes) -> str:
    """The digest by which a registry knows these bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without the names that it has twice: Go, and with it cosign, registries and engines, reads those
    that it knows without regard to case, and the last one of two, where Python reads another."""
    times = Counter(name.casefold() for name, _ in pairs)
    return {name: value for name, value in pairs if times[name.casefold()] == 1}


def parsed(content: bytes | str, *, strict: bool = False) -> Any:
    """JSON that anybody may have written, however deep it is nested; with `strict`, without what others may read
    otherwise, see `once`. Raises ValueError where it is no JSON in UTF-8 (RFC 8259, section 8.1)."""
    try:
        text = content if isinstance(content, str) else content.decode()
        return json.loads(text, object_pairs_hook=once if strict else None)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository: the registry's host, with its port, and a path in it."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"

    def at(self, digest: str) -> str:
        """The reference of what has this digest."""
        return f"{self}@{digest}"

    @property
    def is_local(self) -> bool:
        """Whether the registry is on this machine: such a one is asked over plain HTTP, every other over HTTPS."""
        return self.host.rsplit(":", 1)[0] in {"127.0.0.1", "localhost", "[::1]"}


def parse(reference: str) -> tuple[Repository, str]:
    """`host/path@sha256:…` or `host/path:tag` as the repository and the digest, or else the tag, or else nothing.

    Raises:
        RegistryError: it is no such reference.
    """
    found = _REFERENCE.fullmatch(reference)
    if not found:
        raise RegistryError(
            f"{reference!r} is no reference to something in a registry. "
            "Write host/path@sha256:<64 hex digits>, for example 127.0.0.1:5000/releases/resnet@sha256:…"
        )
    return Repository(host=found["host"], path=found["path"]), found["digest"] or found["tag"] or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A descriptor: media type, digest and size in bytes of what is in a registry, and its annotations."""

    media_type: str
    digest: str
    size: int
    annotations: tuple[tuple[str, str], ...] = ()

    def document(self) -> dict[str, Any]:
        """As a manifest has it."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return found | ({"annotations": dict(self.annotations)} if self.annotations else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest as the registry keeps it; `content` are its very bytes, whose digest is its identity.

    What is read of it raises ContentError where the bytes are no manifest.
    """

    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        """The digest of its bytes."""
        return digest_of(self.content)

    @property
    def config(self) -> Blob:
        """The configuration's descriptor."""
        return self._read(lambda document: _blob(document["config"]))

    @property
    def layers(self) -> tuple[Blob, ...]:
        """The layers' descriptors, the lowest first."""
        return self._read(lambda document: tuple(_blob(layer) for layer in document["layers"]))

    @property
    def kind(self) -> str:
        """The artifactType; empty for an image."""
        return self._read(lambda document: str(document.get("artifactType", "")))

    @property
    def annotations(self) -> dict[str, str]:
        """The manifest's own annotations."""
        return self._read(lambda document: dict(document.get("annotations") or {}))

    def _read(self, part: Callable[[Any], _Part]) -> _Part:
        """A part of the document. Anybody may have written it: nothing is known of its shape before."""
        try:
            return part(parsed(self.content, strict=True))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ContentError(
                f"{self.digest} is no manifest of an image or an artifact ({error!r}). Is it the right digest? "
                "Otherwise somebody else wrote it: release again into a registry that you trust."
            ) from error


def manifest(config: Blob, layers: tuple[Blob, ...], *, artifact: str = "", **annotations: str) -> Manifest:
    """An OCI manifest; `artifact` is its artifactType, for what is no image."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        **({"artifactType": artifact} if artifact else {}),
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
        **({"annotations": annotations} if annotations else {}),
    }
    return Manifest(media_type=MANIFEST, content=json.dumps(document, separators=(",", ":")).encode())


def _blob(document: dict[str, Any]) -> Blob:
    notes = document.get("annotations") or {}
    return Blob(
        media_type=str(document["mediaType"]),
        digest=str(document["digest"]),
        size=int(document["size"]),
        annotations=tuple(sorted(notes.items())),
    )


class Registry(Protocol):
    """Registries. Every method raises RegistryError when one is not reachable or refuses, and ContentError when it lies
    about a digest or has not what is asked for."""

    def manifest(self, repository: Repository, name: str) -> Manifest | None:
        """The manifest that a tag or a digest names, or None; one asked for by digest has that digest."""
        ...

    def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
        """Keeps a manifest under a tag, whose earlier meaning is lost, or under its digest."""
        ...

    def blob(self, repository: Repository, digest: str) -> bytes:
        """The content with this digest, checked."""
        ...

    def stream(self, repository: Repository, digest: str) -> AbstractContextManager[Iterator[bytes]]:
        """The content with this digest in chunks; the last one is followed by RegistryError if they are not it."""
        ...

    def put_blob(self, repository: Repository, content: bytes, *, media_type: str) -> Blob:
        """Keeps content, unless it is there, and describes it."""
        ...

    def tags(self, repository: Repository) -> tuple[str, ...]:
        """The tags of a repository, sorted; none for one that is not there."""
        ...
