"""Registries in memory, and a cosign whose signatures anybody can make who knows the key's path."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.errors import ContentError
from pipeline.evidence.collecting import attached
from pipeline.oci import Blob, Manifest, Repository, digest_of, manifest
from pipeline.signing import Identity, Key, encoded
from pipeline.sigstore import Claimed

_SIGNATURE = "application/vnd.dev.cosign.simplesigning.v1+json"


class FakeRegistry:
    """Implements `pipeline.oci.Registry`."""

    def __init__(self) -> None:
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._blobs: dict[str, bytes] = {}

    def manifest(self, repository: Repository, name: str) -> Manifest | None:
        return self._manifests.get((str(repository), name))

    def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
        self._manifests[str(repository), name] = manifest
        self._manifests[str(repository), manifest.digest] = manifest

    def delete(self, repository: Repository, tag: str) -> None:
        """Takes a tag away, as somebody may who can write there."""
        del self._manifests[str(repository), tag]

    def blob(self, repository: Repository, digest: str) -> bytes:
        if digest not in self._blobs:
            raise ContentError(f"The registry at {repository.host} refuses GET of {digest} with 404")
        return self._blobs[digest]

    @contextmanager
    def stream(self, repository: Repository, digest: str) -> Iterator[Iterator[bytes]]:
        yield iter((self.blob(repository, digest),))

    def put_blob(self, repository: Repository, content: bytes, *, media_type: str) -> Blob:  # noqa: ARG002
        digest = digest_of(content)
        self._blobs[digest] = content
        return Blob(media_type=media_type, digest=digest, size=len(content))

    def tags(self, repository: Repository) -> tuple[str, ...]:
        names = (name for where, name in self._manifests if where == str(repository))
        return tuple(sorted(name for name in names if not name.startswith("sha256:")))


class FakeCosign:
    """Implements `pipeline.signing.Cosign` over a FakeRegistry: a signature is the hash of content and key's name, or,
    without a key, of content and whom `claimed` names."""

    def __init__(self, registry: FakeRegistry, *, claimed: Claimed | None = None) -> None:
        self._registry = registry
        self._claimed = claimed

    def sign(self, reference: str, *, key: Key, annotations: Mapping[str, str]) -> None:
        where, digest = _split(reference)
        payload = {
            "critical": {"identity": {"docker-reference": str(where)}, "image": {"docker-manifest-digest": digest}},
            "optional": dict(annotations),
        }
        content = json.dumps(payload, sort_keys=True).encode()
        notes = (("signature", self.sign_bytes(content, key=key)),)
        blob = self._registry.put_blob(where, content, media_type=_SIGNATURE)
        signed = Blob(media_type=_SIGNATURE, digest=blob.digest, size=blob.size, annotations=notes)
        found = self._registry.manifest(where, attached(digest, "sig"))
        layers = found.layers if found else ()
        if signed not in layers:
            self._registry.put_manifest(where, attached(digest, "sig"), manifest(blob, (*layers, signed)))

    def sign_bytes(self, content: bytes, *, key: Key) -> str:
        if key:
            return _hash(content, key.stem)
        assert self._claimed
        cert = base64.b64encode(json.dumps([self._claimed.identity, self._claimed.issuer]).encode()).decode()
        return json.dumps({"base64Signature": _hash(content, cert), "cert": cert})

    def logged(self, envelope: bytes, certificate: str) -> str:
        return _hash(envelope, certificate)

    def signatures(self, reference: str, *, by: Identity) -> tuple[dict[str, Any], ...]:
        where, digest = _split(reference)
        found = self._registry.manifest(where, attached(digest, "sig"))
        contents = [(layer, self._registry.blob(where, layer.digest)) for layer in (found.layers if found else ())]
        good = (content for layer, content in contents if self._fits(content, dict(layer.annotations)["signature"], by))
        payloads = (json.loads(content) for content in good)
        return tuple(each for each in payloads if each["critical"]["image"]["docker-manifest-digest"] == digest)

    def attestations(self, reference: str, *, kind: str, by: Identity) -> tuple[bytes, ...]:
        where, digest = _split(reference)
        found = self._registry.manifest(where, attached(digest, "att"))
        good = []
        try:
            contents = [self._registry.blob(where, layer.digest) for layer in (found.layers if found else ())]
        except ContentError:
            # As the real one: where it cannot read one of them, it verifies none.
            return ()
        for content, layer in zip(contents, found.layers if found else (), strict=True):
            notes = dict(layer.annotations)
            try:
                document = json.loads(content)
                statement, signature = base64.b64decode(document["payload"]), document["signatures"][0]["sig"]
                if certificate := notes.get("dev.sigstore.cosign/certificate"):
                    assert notes["dev.sigstore.cosign/bundle"] == self.logged(content, certificate)
                    signature = json.dumps(
                        {"base64Signature": signature, "cert": base64.b64encode(certificate.encode()).decode()}
                    )
                told = json.loads(statement)
                about = [f"sha256:{each['digest']['sha256']}" for each in told["subject"]]
            except (ValueError, KeyError, TypeError, RecursionError):
                # The real one passes over what is no envelope, too.
                continue
            if self._fits(encoded(statement), signature, by) and told["predicateType"] == kind and digest in about:
                good.append(statement)
        return tuple(good)

    def verifies(self, content: bytes, signature: str, *, by: Identity) -> bool:
        return self._fits(content, signature, by)

    def copy(self, source: str, target: str) -> None:
        where, digest = _split(source)
        there = Repository(host=target.partition("/")[0], path=target.partition("/")[2].rpartition(":")[0])
        for name in (digest, attached(digest, "sig"), attached(digest, "att")):
            if found := self._registry.manifest(where, name):
                self._registry.put_manifest(there, name, found)

    def generate(self) -> tuple[str, str]:
        return "private", "public"

    def _fits(self, content: bytes, signature: str, by: Identity) -> bool:
        if by.key:
            return signature == _hash(content, by.key.stem)
        if not signature.startswith("{"):
            return False
        document = json.loads(signature)
        identity, issuer = json.loads(base64.b64decode(document["cert"]))
        whole = document["base64Signature"] == _hash(content, document["cert"])
        return whole and by.is_claimed(Claimed(identity=identity, issuer=issuer))


def _hash(content: bytes, by: str) -> str:
    return base64.b64encode(hashlib.sha256(content + by.encode()).digest()).decode()


def _split(reference: str) -> tuple[Repository, str]:
    place, _, digest = reference.partition("@")
    host, _, path = place.partition("/")
    return Repository(host=host, path=path), digest
