"""A release in a registry in memory, and what may become of it."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import RegistryError
from pipeline.evidence import CHANNEL, EVIDENCE, RELEASES, binding
from pipeline.evidence.collecting import attached
from pipeline.oci import DOCKER_MANIFEST, Manifest, Repository, digest_of, manifest
from pipeline.promote import lock
from pipeline.promote import log as logs
from pipeline.promote.office import Office
from pipeline.signing import STATEMENT, attested
from tests.unit.evidence_values import RUNTIME, descriptions, evidence
from tests.unit.fake_registry import FakeRegistry


def layer_of(content: bytes) -> bytes:
    """A layer that holds an archive with this content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("model/model.pt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


def release(office: Office, content: bytes = b"weights", *, judged: str = "2026-11-25T11:00:00Z") -> str:
    """Puts a release of a tiny model into the registry, signed as `inv release` does; returns its digest."""
    store, where = office.registry, office.repository(RELEASES, "tiny")
    archive = f"sha256:{digest_of(content).removeprefix('sha256:')}"
    labels = {
        "io.torchyard.archive.digest": archive,
        "io.torchyard.runtime.digest": RUNTIME,
        "org.opencontainers.image.version": "1.0.0",
    }
    packed = layer_of(content)
    document = {"config": {"Labels": labels}, "rootfs": {"diff_ids": [digest_of(gzip.decompress(packed))]}}
    config = store.put_blob(where, json.dumps(document).encode(), media_type="config")
    layer = store.put_blob(where, packed, media_type="layer")
    image = replace(manifest(config, (layer,)), media_type=DOCKER_MANIFEST)
    store.put_manifest(where, RELEASES, image)
    layers, payloads = [], []
    for each in evidence().attestations:
        predicate = descriptions(config.digest, archive).get(each.kind) or json.loads(json.dumps(dict(each.predicate)))
        if each.verdict:
            predicate["verdict"]["at"] = judged
            predicate["verdict"]["digest"] = archive if each.verdict["gate"] == "check" else config.digest
        statement = statement_of(each.kind, predicate, image.digest)
        payloads.append(digest_of(statement).removeprefix("sha256:"))
        content, notes = attested(statement, cosign=office.cosign, key=office.key)
        layers.append(replace(store.put_blob(where, content, media_type="dsse"), annotations=notes))
    store.put_manifest(where, attached(image.digest, "att"), manifest(config, tuple(layers)))
    bound = {CHANNEL: RELEASES, EVIDENCE: binding(tuple(payloads))}
    office.cosign.sign(where.at(image.digest), key=office.key, annotations=bound)
    return image.digest


def statement_of(kind: str, predicate: dict[str, Any], digest: str) -> bytes:
    """An in-toto Statement about a digest."""
    subject = [{"name": "tiny", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    return json.dumps({"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate}).encode()


def tagged(office: Office, channel: str) -> str:
    """The digest that a channel's tag names; empty where there is none."""
    found = office.registry.manifest(office.repository(channel, "tiny"), channel)
    return found.digest if found else ""


def log_of(office: Office, channel: str = "staging") -> logs.Log:
    """A channel's promotion log, read and verified."""
    return logs.read(
        office.repository(channel, "tiny"),
        signers=office.policy.channel(channel).signers,
        registry=office.registry,
        cosign=office.cosign,
    )


def drop_an_attestation(office: Office, channel: str, digest: str) -> None:
    """Takes the last attestation of a digest away."""
    where, name = office.repository(channel, "tiny"), attached(digest, "att")
    found = office.registry.manifest(where, name)
    assert found
    office.registry.put_manifest(where, name, manifest(found.config, found.layers[1:]))


def lock_by(office: Office, **notes: str) -> None:
    """Leaves a lock that says this of who holds it."""
    where = office.repository("staging", "tiny")
    empty = office.registry.put_blob(where, b"{}", media_type="empty")
    office.registry.put_manifest(where, lock.TAG, manifest(empty, (empty,), **notes))


def asking_for_approval(office: Office) -> Office:
    """The same where every channel asks all signers for their approval."""
    approvers = tuple(office.policy.signers.values())
    channels = {name: replace(each, approvers=approvers) for name, each in office.policy.channels.items()}
    return replace(office, policy=replace(office.policy, channels=channels))


@contextmanager
def dying(office: Office, channel: str) -> Iterator[None]:
    """The registry does not answer when the channel's tag is moved, and whoever moves it is told so."""
    put = office.registry.put_manifest

    def refusing(repository: Repository, name: str, manifest: Manifest) -> None:
        if name == channel:
            raise RegistryError("The registry does not answer")
        put(repository, name, manifest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(office.registry, "put_manifest", refusing)
        with pytest.raises(RegistryError, match="does not answer"):
            yield


def lose_the_log(office: Office, how: str = "deleted") -> None:
    """Of a log that was overwritten, something is left: nonsense, or a manifest whose entries are gone."""
    store, where = office.registry, office.repository("staging", "tiny")
    assert isinstance(store, FakeRegistry)
    found = store.manifest(where, logs.TAG)
    assert found
    if how == "deleted":
        store.delete(where, logs.TAG)
    elif how == "nonsense":
        store.put_manifest(where, logs.TAG, Manifest(media_type="text/plain", content=b"[]"))
    elif how == "entries gone":
        gone = tuple(replace(layer, digest="sha256:" + "0" * 64) for layer in found.layers)
        store.put_manifest(where, logs.TAG, manifest(found.config, gone))
    else:
        store.put_manifest(where, logs.TAG, manifest(found.config, found.layers[1:]))
