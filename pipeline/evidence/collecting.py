"""A digest in a registry -> its evidence: everything is fetched, hashed again, and put to cosign."""

import base64
import hashlib
import io
import json
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any, cast

from pipeline.engine import LABEL
from pipeline.errors import RegistryError, VerifyError
from pipeline.evidence import Attestation, Contents, Evidence, Signature
from pipeline.oci import Manifest, Registry, Repository
from pipeline.signing import Cosign, Identity

_NOTHING = b"{}"
_ARCHIVE = "model/model.pt"


def attached(digest: str, what: str) -> str:
    """The tag under which cosign keeps what belongs to a digest: `sig` or `att`."""
    return f"{digest.replace(':', '-')}.{what}"


def collect(
    repository: Repository, digest: str, *, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign
) -> Evidence:
    """Everything about a digest, from the registry alone; `signers` are those whose signatures count.

    Raises:
        VerifyError: the repository has no such digest, or what it names is no image.
        RegistryError: the registry does not answer.
    """
    image = registry.manifest(repository, digest)
    if image is None:
        raise VerifyError(
            f"{repository.at(digest)}: the registry has nothing with this digest. Is it the digest of the release "
            "(build/NAME/release.json, or `inv status`), and not the image's id?"
        )
    contents, damage = _contents(image, repository, registry)
    reference = repository.at(digest)
    signatures = tuple(
        _signature(payload, signer) for signer in signers for payload in cosign.signatures(reference, by=signer)
    )
    found = registry.manifest(repository, attached(digest, "sig"))
    return Evidence(
        repository=repository,
        digest=digest,
        contents=contents,
        signatures=signatures,
        unknown=max(0, len(found.layers if found else ()) - len(signatures)),
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
    raw = [_statement(registry.blob(repository, layer.digest)) for layer in found.layers]
    kinds = sorted({json.loads(payload)["predicateType"] for payload in raw if payload != _NOTHING})
    verified = {
        signer.name: {
            payload for kind in kinds for payload in cosign.attestations(repository.at(digest), kind=kind, by=signer)
        }
        for signer in signers
    }
    return tuple(_attestation(payload, verified) for payload in raw)


def _statement(envelope: bytes) -> bytes:
    """The payload of a DSSE envelope; an empty statement where it is no in-toto statement in one.

    Anybody may have written it: nothing is known of its shape before.
    """
    try:
        payload = base64.b64decode(json.loads(envelope)["payload"], validate=True)
        statement = json.loads(payload)
        whole = all(isinstance(each["digest"]["sha256"], str) for each in statement["subject"])
        return payload if whole and isinstance(statement["predicateType"], str) else _NOTHING
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
        config = json.loads(registry.blob(repository, image.config.digest))
    except RegistryError as error:
        return None, (str(error),)
    for layer in image.layers:
        try:
            with registry.stream(repository, layer.digest) as chunks:
                archive = _hashed(chunks, wanted=layer == image.layers[-1])
        except (RegistryError, tarfile.TarError, zlib.error, EOFError, OSError) as error:
            damage.append(str(error))
    labels = (config.get("config") or {}).get("Labels") or {}
    contents = Contents(
        config=image.config.digest,
        labels={name: value for name, value in labels.items() if name.startswith((LABEL, "org.opencontainers"))},
        layers=tuple(layer.digest for layer in image.layers),
        diff_ids=tuple((config.get("rootfs") or {}).get("diff_ids") or ()),
        size=sum(layer.size for layer in image.layers) + image.config.size,
        archive=archive,
    )
    return contents, tuple(damage)


def _hashed(chunks: Iterator[bytes], *, wanted: bool) -> str:
    """Reads a layer to its end; in the one that is `wanted`, takes the SHA-256 of the archive."""
    if not wanted:
        for _ in chunks:
            pass
        return ""
    with tempfile.TemporaryFile() as compressed:
        for chunk in chunks:
            compressed.write(chunk)
        compressed.seek(0)
        with tarfile.open(fileobj=compressed, mode="r:*") as layer:
            for member in layer:
                if member.isreg() and member.name.removeprefix("./").removeprefix("/") == _ARCHIVE:
                    content = cast(io.BufferedReader, layer.extractfile(member))
                    return hashlib.file_digest(content, "sha256").hexdigest()
    return ""
