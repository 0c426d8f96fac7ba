"""Where archives are kept beside a registry: an OCI image layout a model, in object storage, a folder or Git LFS.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.errors import VerifyError
from pipeline.oci import MANIFEST, Manifest, digest_of
from pipeline.signing import Cosign, Identity, Key

_REFERENCE = re.compile(r"(?P<store>[a-z0-9+]+://.+?)/(?P<model>[a-z0-9._-]+)@(?P<digest>sha256:[0-9a-f]{64})")
_LAYOUT = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}


class Files(Protocol):
    """Files below one place, by paths with slashes."""

    def read(self, path: str) -> bytes | None:
        """What a file holds, or None where there is none."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Makes a file, whole or not at all."""
        ...

    def has(self, path: str) -> bool:
        """Whether there is a file."""
        ...


def is_stored(reference: str) -> bool:
    """Whether something is in such a store, and not in a registry."""
    return "://" in reference


@contextmanager
def opened(url: str, *, saying: str = "") -> Iterator[Files]:
    """The files of a store; what was written is kept when the block is left. `saying` is why, where that is noted.

    Raises:
        RegistryError: the store does not answer or refuses, or its driver is not installed.
    """
    from pipeline.stores import lfs, objects  # noqa: PLC0415 (they are files of this one)

    with lfs.opened(url, saying=saying) if url.startswith(lfs.PREFIX) else objects.opened(url) as files:
        yield files


def keep(url: str, model: str, manifest: Manifest, blobs: Mapping[str, bytes], *, cosign: Cosign, key: Key) -> str:
    """Puts a model's manifest and its blobs, by digest, into a store, signed for this place; returns its reference.

    The manifest is written last, so that what is there is whole, and what is there is not sent again.

    Raises:
        RegistryError: as `opened`.
    """
    place, number = f"{url}/{model}", manifest.digest.removeprefix("sha256:")
    reference = f"{place}@{manifest.digest}"
    payload = _payload(place, manifest.digest)
    signed = {"payload": base64.b64encode(payload).decode(), "signature": cosign.sign_bytes(payload, key=key)}
    with opened(url, saying=f"{model}: {manifest.digest}") as files:
        wanted = {f"blobs/sha256/{digest.removeprefix('sha256:')}": content for digest, content in blobs.items()}
        for path, content in {**_LAYOUT, **wanted}.items():
            if not files.has(f"{model}/{path}"):
                files.write(f"{model}/{path}", content)
        files.write(f"{model}/signatures/{number}.json", json.dumps(signed).encode())
        files.write(f"{model}/blobs/sha256/{number}", manifest.content)
        files.write(f"{model}/index.json", _index(files.read(f"{model}/index.json"), manifest))
    return reference


def taken(reference: str, *, signer: Identity, cosign: Cosign) -> tuple[Manifest, dict[str, bytes]]:
    """A model's manifest and blobs out of a store, by digest, verified.

    Raises:
        VerifyError: nobody's signature for this place verifies, or something is missing or is not what its digest says.
        RegistryError: as `opened`.
    """
    found = _REFERENCE.fullmatch(reference)
    if not found:
        raise VerifyError(f"{reference} names no digest. Fetch s3://bucket/folder/<model>@sha256:<64 hex digits>.")
    model, digest = found["model"], found["digest"]
    with opened(found["store"]) as files:
        content = _blob(files, model, digest, reference)
        signed = files.read(f"{model}/signatures/{digest.removeprefix('sha256:')}.json")
        if not _is_signed(signed, f"{found['store']}/{model}", digest, signer, cosign):
            raise VerifyError(
                f"{reference}: no signature for this place verifies under {signer.shown}. "
                "Do not use it; have it released again by whoever may sign."
            )
        manifest = Manifest(media_type=MANIFEST, content=content)
        return manifest, {each.digest: _blob(files, model, each.digest, reference) for each in manifest.layers}


def _payload(place: str, digest: str) -> bytes:
    """https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md, of what is in no registry."""
    critical = {
        "identity": {"docker-reference": place},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}, sort_keys=True, separators=(",", ":")).encode()


def _is_signed(signed: bytes | None, place: str, digest: str, signer: Identity, cosign: Cosign) -> bool:
    try:
        document: dict[str, Any] = json.loads(signed or b"")
        payload, signature = base64.b64decode(document["payload"]), str(document["signature"])
    except (ValueError, KeyError, TypeError):
        return False
    return payload == _payload(place, digest) and cosign.verifies(payload, signature, by=signer)


def _blob(files: Files, model: str, digest: str, reference: str) -> bytes:
    content = files.read(f"{model}/blobs/sha256/{digest.removeprefix('sha256:')}")
    if content is None:
        raise VerifyError(f"{reference}: there is no {digest} there. The digest is that of `model` in release.json.")
    if digest_of(content) != digest:
        raise VerifyError(f"{reference}: what lies there as {digest} is {digest_of(content)}. Do not use it.")
    return content


def _index(before: bytes | None, manifest: Manifest) -> bytes:
    """Names all manifests of a layout; nothing here relies on it, and other tools find them by it."""
    document: dict[str, Any] = json.loads(before) if before else {"schemaVersion": 2, "manifests": []}
    entry = {"mediaType": MANIFEST, "digest": manifest.digest, "size": len(manifest.content)}
    others = [each for each in document["manifests"] if each["digest"] != manifest.digest]
    return json.dumps(document | {"manifests": [*others, entry]}, separators=(",", ":")).encode()
