"""Where archives are kept beside a registry: an OCI image layout a digest, in object storage, a folder or Git LFS.

`<store>/<model>/sha256/<digest of the manifest>/` is written once and never changed, so that whoever writes at the same
time writes elsewhere. https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.errors import VerifyError
from pipeline.oci import MANIFEST, Manifest, digest_of
from pipeline.settings import has_secret
from pipeline.signing import Cosign, Identity, Key, me, shown
from pipeline.stores import lfs

_REFERENCE = re.compile(r"(?P<store>[a-z0-9+]+://.+?)/(?P<model>[a-z0-9][a-z0-9._-]*)@(?P<digest>sha256:[0-9a-f]{64})")
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_SIGNATURE = "signature.json"
_TRIES = 5


class Files(Protocol):
    """Files below one place, by paths with slashes. Every method raises RegistryError when a store refuses."""

    def read(self, path: str) -> bytes | None:
        """What a file holds, or None where there is none."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Makes a file, whole or not at all."""
        ...

    def has(self, path: str, size: int) -> bool:
        """Whether there is a file of so many bytes."""
        ...


def is_stored(reference: str) -> bool:
    """Whether something is in such a store, and not in a registry."""
    return "://" in reference


@contextmanager
def opened(url: str, *, saying: str = "") -> Iterator[Files]:
    """The files of a store; what was written is kept when the block is left. `saying` is why, where that is noted.

    Raises:
        RegistryError: the store does not answer or refuses, or its driver is not installed; in Git LFS `lfs.Raced`,
            when somebody else was faster.
    """
    if url.startswith(lfs.PREFIX):
        with lfs.opened(url, saying=saying) as checkout:
            yield checkout
    else:
        from pipeline.stores import objects  # noqa: PLC0415 (fsspec takes its time, and most need no such store)

        yield objects.opened(url)


def keep(url: str, model: str, manifest: Manifest, blobs: Mapping[str, bytes], *, cosign: Cosign, key: Key) -> str:
    """Puts a model's manifest and its blobs, by digest, into a store, signed for this place; returns its reference.

    What is there is not sent again, and not signed twice.

    Raises:
        RegistryError: as `opened`.
    """
    number = 1
    while True:
        try:
            with opened(url, saying=f"{model}: {manifest.digest}") as files:
                _put(files, url, model, manifest, blobs, cosign=cosign, key=key)
        except lfs.Raced:
            if number == _TRIES:
                raise
            number += 1
        else:
            return f"{url}/{model}@{manifest.digest}"


def _put(
    files: Files, url: str, model: str, manifest: Manifest, blobs: Mapping[str, bytes], *, cosign: Cosign, key: Key
) -> None:
    """Writes what is not there; the manifest last, so that where it is, everything is."""
    home, place = _home(model, manifest.digest), f"{url}/{model}"
    wanted = {"oci-layout": _LAYOUT, "index.json": _index(manifest)}
    wanted |= {_path(digest): content for digest, content in blobs.items()}
    for path, content in wanted.items():
        if not files.has(f"{home}/{path}", len(content)):
            files.write(f"{home}/{path}", content)
    if not _is_signed(files.read(f"{home}/{_SIGNATURE}"), place, manifest.digest, me(key), cosign):
        payload = _payload(place, manifest.digest)
        signed = {"payload": base64.b64encode(payload).decode(), "signature": cosign.sign_bytes(payload, key=key)}
        files.write(f"{home}/{_SIGNATURE}", json.dumps(signed).encode())
    if not files.has(f"{home}/{_path(manifest.digest)}", len(manifest.content)):
        files.write(f"{home}/{_path(manifest.digest)}", manifest.content)


def taken(reference: str, *, signers: tuple[Identity, ...], cosign: Cosign) -> tuple[Manifest, dict[str, bytes]]:
    """A model's manifest and blobs out of a store, by digest, verified.

    Raises:
        VerifyError: no signature for this place by one of the signers verifies, something is missing or is not what its
            digest says, or the reference has a secret in it.
        RegistryError: as `opened`.
    """
    if has_secret(reference):
        raise VerifyError(
            "The reference has a password or a token in it, which would be in every message. "
            "Leave it to what the store's SDK or git knows."
        )
    found = _REFERENCE.fullmatch(reference)
    if not found:
        raise VerifyError(f"{reference} names no digest. Fetch s3://bucket/folder/<model>@sha256:<64 hex digits>.")
    model, digest = found["model"], found["digest"]
    home = _home(model, digest)
    with opened(found["store"]) as files:
        content = _blob(files, home, digest, reference)
        signed, place = files.read(f"{home}/{_SIGNATURE}"), f"{found['store']}/{model}"
        if not any(_is_signed(signed, place, digest, signer, cosign) for signer in signers):
            raise VerifyError(
                f"{reference}: no signature for this place verifies under {shown(signers)}. "
                "Do not use it; have it released again by whoever may sign."
            )
        manifest = Manifest(media_type=MANIFEST, content=content)
        return manifest, {each.digest: _blob(files, home, each.digest, reference) for each in manifest.layers}


def _home(model: str, digest: str) -> str:
    return f"{model}/{digest.replace(':', '/')}"


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _index(manifest: Manifest) -> bytes:
    """Names the manifest, for other tools; nothing here relies on it."""
    entry = {"mediaType": MANIFEST, "digest": manifest.digest, "size": len(manifest.content)}
    return json.dumps({"schemaVersion": 2, "manifests": [entry]}, separators=(",", ":")).encode()


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


def _blob(files: Files, home: str, digest: str, reference: str) -> bytes:
    content = files.read(f"{home}/{_path(digest)}")
    if content is None:
        raise VerifyError(f"{reference}: there is no {digest} there. The digest is that of `model` in release.json.")
    if digest_of(content) != digest:
        raise VerifyError(f"{reference}: what lies there as {digest} is {digest_of(content)}. Do not use it.")
    return content
