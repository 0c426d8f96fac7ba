"""A digest in a registry -> its evidence: everything is fetched, hashed again, and put to cosign."""

import gzip
import hashlib
import io
import json
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import IO, Any, cast

from pipeline.engine import LABEL
from pipeline.errors import ContentError, VerifyError
from pipeline.evidence import Attestation, Contents, Evidence, Signature
from pipeline.oci import Manifest, Registry, Repository, digest_of, parsed
from pipeline.signing import Cosign, Identity, payload_of

_NOTHING = b"{}"
_ARCHIVE = "model/model.pt"
_KIND = re.compile(r"[!-~]{1,500}")
# What a layer that anybody may have written can end in; tarfile lets some of it through as it came. A full disk is no
# damage.
_DAMAGED = (
    ContentError,
    tarfile.TarError,
    zlib.error,
    gzip.BadGzipFile,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
)
_GZIP = b"\x1f\x8b"
_CHUNK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unpacked:
    """What is in a layer: the digest of its tar, and the SHA-256 of the archive in it, or empty."""

    diff_id: str
    archive: str


# By the digest of a layer, which says all of what is in it: a promotion reads the same ones in several places.
_KNOWN: dict[str, _Unpacked] = {}


class _Hashing:
    """A stream that hashes what is read of it."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.seen = hashlib.sha256()

    def read(self, size: int) -> bytes:
        content = self._content.read(size)
        self.seen.update(content)
        return content


def attached(digest: str, what: str) -> str:
    """The tag under which cosign keeps what belongs to a digest: `sig` or `att`."""
    return f"{digest.replace(':', '-')}.{what}"


def collect(
    repository: Repository, digest: str, *, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign
) -> Evidence:
    """Everything about a digest, from the registry alone; `signers` are those whose signatures count.

    Raises:
        VerifyError: the repository has no such digest, or what it names is no image.
        ContentError: what is attached is not what cosign attaches.
        RegistryError: the registry does not answer.
    """
    image = registry.manifest(repository, digest)
    if image is None:
        raise VerifyError(
            f"{repository.at(digest)}: the registry has nothing with this digest. Is it the digest of the release "
            "(build/NAME/release.json, or `inv status`), and not the image's id?"
        )
    reference = repository.at(digest)
    if image.kind:
        raise VerifyError(
            f"{reference} is no image, but an artifact of type {image.kind!r:.100}. A release's image is `digest` in "
            "build/NAME/release.json, and `model` there the archive alone, which `inv fetch` verifies."
        )
    # Read before cosign is asked, which tells of damage in its own words: here it is damage, and can be made good.
    found = registry.manifest(repository, attached(digest, "sig"))
    there = len(found.layers) if found else 0
    signatures = tuple(
        _signature(payload, signer) for signer in signers for payload in cosign.signatures(reference, by=signer)
    )
    contents, damage = _contents(image, repository, registry)
    return Evidence(
        repository=repository,
        digest=digest,
        contents=contents,
        signatures=signatures,
        unknown=max(0, there - len(signatures)),
        attestations=_attestations(repository, digest, signers, registry, cosign),
        damage=damage,
    )


def _signature(payload: dict[str, Any], signer: Identity) -> Signature:
    place = payload["critical"]["identity"]["docker-reference"]
    return Signature(by=signer.name, repository=place, annotations=payload.get("optional") or {})


def _attestations(
    repository: Repository, digest: str, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign
) -> tuple[Attestation, ...]:
    """What is attached, whether or not it verifies."""
    found = registry.manifest(repository, attached(digest, "att"))
    if found is None:
        return ()
    raw = [_statement(_blob(registry, repository, layer.digest)) for layer in found.layers]
    # Where one of them is none, all of it is damage already: cosign might find more in it than we do.
    readable = raw if _NOTHING not in raw else []
    kinds = sorted({json.loads(payload)["predicateType"] for payload in readable})
    verified = {
        signer.name: {
            payload for kind in kinds for payload in cosign.attestations(repository.at(digest), kind=kind, by=signer)
        }
        for signer in signers
    }
    return tuple(_attestation(payload, verified) for payload in raw)


def _blob(registry: Registry, repository: Repository, digest: str) -> bytes:
    """What is attached, or nothing where the registry has it no more."""
    try:
        return registry.blob(repository, digest)
    except ContentError:
        return b""


def _statement(envelope: bytes) -> bytes:
    """The payload of a DSSE envelope; an empty statement where it is no in-toto statement in one.

    Anybody may have written it: nothing is known of its shape before.
    """
    try:
        payload = payload_of(envelope)
        statement = parsed(payload)
        whole = all(isinstance(each["digest"]["sha256"], str) for each in statement["subject"])
        # It becomes an argument of cosign's.
        return payload if whole and _KIND.fullmatch(statement["predicateType"]) else _NOTHING
    except (ValueError, KeyError, TypeError, IndexError):
        return _NOTHING


def _attestation(payload: bytes, verified: dict[str, set[bytes]]) -> Attestation:
    statement = json.loads(payload)
    predicate = statement.get("predicate")
    return Attestation(
        kind=str(statement.get("predicateType", "")),
        subjects=tuple(f"sha256:{each['digest']['sha256']}" for each in statement.get("subject", ())),
        predicate=predicate if isinstance(predicate, dict) else {},
        payload=hashlib.sha256(payload).hexdigest(),
        by=tuple(name for name, payloads in verified.items() if payload in payloads),
    )


def _contents(image: Manifest, repository: Repository, registry: Registry) -> tuple[Contents | None, tuple[str, ...]]:
    """The image's facts, and what of it is not what its digest says."""
    damage: list[str] = []
    archive = ""
    try:
        labels, diff_ids = _configured(registry.blob(repository, image.config.digest))
    except ContentError as error:
        return None, (str(error),)
    if len(diff_ids) != len(image.layers):
        damage.append(f"the configuration tells of {len(diff_ids)} layers, and the manifest has {len(image.layers)}")
    for layer, expected in zip(image.layers, diff_ids, strict=False):
        try:
            with registry.stream(repository, layer.digest) as chunks:
                found = _unpacked(layer.digest, chunks)
        except _DAMAGED as error:
            damage.append(str(error))
            continue
        archive = found.archive
        if found.diff_id != expected:
            damage.append(f"{layer.digest} unpacks to {found.diff_id}, and the configuration names {expected}")
    contents = Contents(
        config=image.config.digest,
        labels={name: value for name, value in labels.items() if name.startswith((LABEL, "org.opencontainers"))},
        layers=tuple(layer.digest for layer in image.layers),
        diff_ids=diff_ids,
        size=sum(layer.size for layer in image.layers) + image.config.size,
        archive=archive,
    )
    return contents, tuple(damage)


def _configured(content: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """The labels of an image, and the digests of what is in its layers, as its configuration has them.

    Anybody may have written it: https://github.com/opencontainers/image-spec/blob/main/config.md.
    """
    try:
        document = parsed(content, strict=True)
        labels = (document.get("config") or {}).get("Labels") or {}
        diff_ids = (document.get("rootfs") or {}).get("diff_ids") or ()
        return {str(name): str(value) for name, value in labels.items()}, tuple(map(str, diff_ids))
    except (ValueError, TypeError, AttributeError) as error:
        raise ContentError(f"the configuration {digest_of(content)} is none of an image ({error!r})") from error


def _unpacked(digest: str, chunks: Iterator[bytes]) -> _Unpacked:
    """Reads a layer to its end, which checks its digest, and unpacks it the first time."""
    with tempfile.TemporaryFile() as sent:
        for chunk in chunks:
            sent.write(chunk)
        if digest not in _KNOWN:
            sent.seek(0)
            packed = sent.read(len(_GZIP)) == _GZIP
            sent.seek(0)
            with gzip.GzipFile(fileobj=sent) if packed else nullcontext(sent) as content:
                reader = _Hashing(cast(IO[bytes], content))
                archive = _archive(reader)
                while reader.read(_CHUNK):
                    pass
            _KNOWN[digest] = _Unpacked(diff_id=f"sha256:{reader.seen.hexdigest()}", archive=archive)
    return _KNOWN[digest]


def _archive(content: _Hashing) -> str:
    """The SHA-256 of the archive in a layer, or empty."""
    with tarfile.open(fileobj=cast(IO[bytes], content), mode="r|") as layer:
        for member in layer:
            if member.isreg() and member.name.removeprefix("./").removeprefix("/") == _ARCHIVE:
                return hashlib.file_digest(cast(io.BufferedReader, layer.extractfile(member)), "sha256").hexdigest()
    return ""
