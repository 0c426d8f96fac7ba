"""What nobody can read of an image and its evidence is refused as damaged, or brought again."""

import errno
import gzip
import io
import json
import tarfile
import tempfile
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import ContentError, CosignError, PromoteError, VerifyError
from pipeline.evidence import RELEASES
from pipeline.evidence.collecting import attached
from pipeline.oci import DOCKER_MANIFEST, Manifest, manifest
from pipeline.promote import promote
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.signing import Identity
from pipeline.status import status
from tests.unit.evidence_values import NOW
from tests.unit.fake_registry import FakeCosign, FakeRegistry
from tests.unit.promote.offices import drop_an_attestation, layer_of, log_of, release


def test_evidence_that_is_damaged_in_a_channel_is_brought_again(office: Office) -> None:
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    drop_an_attestation(office, "staging", digest)
    with pytest.raises(PromoteError, match="evidence-missing"):
        promote("tiny", to="production", now=NOW, office=office)
    assert promote("tiny", to="staging", now=NOW, office=office)
    assert promote("tiny", to="production", now=NOW, office=office)


def test_an_archive_alone_is_no_image(office: Office) -> None:
    digest = release(office)
    store, where = office.registry, office.repository(RELEASES, "tiny")
    found = store.manifest(where, digest)
    assert found
    alone = manifest(found.config, found.layers, artifact="application/vnd.cncf.model.manifest.v1+json")
    store.put_manifest(where, alone.digest, alone)
    with pytest.raises(VerifyError, match=r"no image, but an artifact of type 'application/vnd\.cncf(.|\n)*inv fetch"):
        promote("tiny", to="staging", digest=alone.digest, now=NOW, office=office)


def test_attachments_that_nobody_can_read_are_brought_again(office: Office) -> None:
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store, where = office.registry, office.repository("staging", "tiny")
    for content in (b"{}", b"[" * 100_000):
        store.put_manifest(where, attached(digest, "att"), Manifest(media_type="text/plain", content=content))
        assert promote("tiny", to="staging", now=NOW, office=office)
    found = store.manifest(where, attached(digest, "att"))
    assert found
    lost = replace(found.layers[0], digest="sha256:" + "0" * 64)
    store.put_manifest(where, attached(digest, "att"), manifest(found.config, (lost, *found.layers[1:])))
    with pytest.raises(PromoteError, match="evidence-missing"):
        promote("tiny", to="production", now=NOW, office=office)
    assert promote("tiny", to="staging", now=NOW, office=office)
    assert promote("tiny", to="production", now=NOW, office=office)


def _sparse() -> bytes:
    """A tar that asks for a number where there is none: https://www.gnu.org/software/tar/manual/html_node/PAX-1.html"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("model/model.pt")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}
        member.size = 512
        archive.addfile(member, io.BytesIO(b"no number\n".ljust(512, b"\0")))
    return gzip.compress(out.getvalue(), mtime=0)


def _replaced(office: Office, *, config: bytes | None = None, layers: tuple[bytes, ...] = ()) -> None:
    """Puts an image with another configuration or other layers in the place of a release's."""
    store, where = office.registry, office.repository(RELEASES, "tiny")
    found = store.manifest(where, RELEASES)
    assert found
    used = found.config if config is None else store.put_blob(where, config, media_type="config")
    put = tuple(store.put_blob(where, each, media_type="layer") for each in layers) or found.layers
    store.put_manifest(where, RELEASES, replace(manifest(used, put), media_type=DOCKER_MANIFEST))


@pytest.mark.parametrize("layer", [b"no layer", gzip.compress(b"no tar"), layer_of(b"weights")[:-9], _sparse()])
def test_a_layer_that_nobody_can_read_is_refused_as_damaged(office: Office, layer: bytes) -> None:
    release(office)
    _replaced(office, layers=(layer,))
    with pytest.raises(PromoteError, match=r"content: (.|\n)*unsigned"):
        promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize("config", [b"[" * 100_000, b'{"config": 7}', b'{"config": {"Labels": 7}}', b"[]"])
def test_a_configuration_that_is_none_is_refused_as_damaged(office: Office, config: bytes) -> None:
    release(office)
    _replaced(office, config=config)
    with pytest.raises(PromoteError, match=r"content: (.|\n)*is none of an image"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_layers_that_the_configuration_does_not_tell_of_are_refused(office: Office) -> None:
    release(office)
    _replaced(office, layers=(layer_of(b"weights"), layer_of(b"more")))
    with pytest.raises(PromoteError, match=r"the configuration tells of 1 layers, and the manifest has 2"):
        promote("tiny", to="staging", now=NOW, office=office)
    _replaced(office, layers=(layer_of(b"other weights"),))
    with pytest.raises(PromoteError, match=r"unpacks to sha256:\w+, and the configuration names sha256:"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_a_configuration_of_which_an_engine_reads_another_part_is_refused(office: Office) -> None:
    release(office)
    store, where = office.registry, office.repository(RELEASES, "tiny")
    found = store.manifest(where, RELEASES)
    assert found
    config = store.blob(where, found.config.digest)
    _replaced(office, config=config[:-1] + b', "RootFS": {"diff_ids": []}}')
    with pytest.raises(PromoteError, match=r"the configuration tells of 0 layers, and the manifest has 1"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_a_full_disk_is_no_damage(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    release(office)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_what_we_cannot_read_of_attestations_is_damage_before_cosign_is_asked(office: Office) -> None:
    class Strict(FakeCosign):
        """Tells of what is in staging in a way that nobody can read, until it is brought again."""

        broken = True

        def attestations(self, reference: str, *, kind: str, by: Identity) -> tuple[bytes, ...]:
            if "/staging/" in reference and self.broken:
                raise CosignError("cosign verify-attestation accepted something")
            return super().attestations(reference, kind=kind, by=by)

        def copy(self, source: str, target: str) -> None:
            super().copy(source, target)
            self.broken = False

    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store, where = office.registry, office.repository("staging", "tiny")
    found = store.manifest(where, attached(digest, "att"))
    assert found
    assert isinstance(store, FakeRegistry)
    # Go reads over what it does not know.
    document = json.loads(store.blob(where, found.layers[0].digest))
    document["signatures"][0]["more"] = "@"
    number = json.dumps(document).replace('"@"', "1" * 5000)
    blob = store.put_blob(where, number.encode(), media_type="dsse")
    last = replace(found.layers[0], digest=blob.digest, size=blob.size)
    store.put_manifest(where, attached(digest, "att"), manifest(found.config, (last, *found.layers[1:])))
    assert promote("tiny", to="staging", now=NOW, office=replace(office, cosign=Strict(store)))


def test_a_cosign_that_fails_loses_no_log_and_brings_nothing_again(office: Office) -> None:
    """What could not be looked at is neither lost nor damaged."""

    class Failing(FakeCosign):
        def verifies(self, *_: Any, **__: Any) -> bool:
            raise CosignError("cosign verify-blob could not find out who signed")

    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    assert isinstance(office.registry, FakeRegistry)
    failing = replace(office, cosign=Failing(office.registry))
    with pytest.raises(CosignError):
        rollback("tiny", channel="staging", to=digest, reason="why", new_log=True, now=NOW, office=failing)

    class FailingThere(FakeCosign):
        def attestations(self, reference: str, *, kind: str, by: Identity) -> tuple[bytes, ...]:
            if "/staging/" in reference:
                raise CosignError("cosign verify-attestation could not find out who signed")
            return super().attestations(reference, kind=kind, by=by)

    with pytest.raises(CosignError):
        promote("tiny", to="staging", now=NOW, office=replace(office, cosign=FailingThere(office.registry)))
    row = next(row for row in status(("tiny",), now=NOW, office=failing) if row.channel == "staging")
    assert row.line().endswith("cosign verify-blob could not find out who signed")
    assert len(log_of(office).entries) == 1


@pytest.mark.parametrize("content", [b"{}", b"[" * 100_000])
def test_signatures_that_nobody_can_read_are_brought_again(office: Office, content: bytes) -> None:
    """cosign would tell of them in its own words; here it is damage, and can be made good."""

    class Strict(FakeCosign):
        def signatures(self, reference: str, *, by: Identity) -> tuple[dict[str, Any], ...]:
            try:
                return super().signatures(reference, by=by)
            except ContentError as error:
                raise CosignError("cosign verify could not find out who signed") from error

    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store = office.registry
    assert isinstance(store, FakeRegistry)
    nonsense = Manifest(media_type="text/plain", content=content)
    store.put_manifest(office.repository("staging", "tiny"), attached(digest, "sig"), nonsense)
    assert promote("tiny", to="staging", now=NOW, office=replace(office, cosign=Strict(store)))
    assert promote("tiny", to="production", now=NOW, office=office)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b"[" * 100_000),
        *(b'{"payload": 7}', b'{"payload": "e30="}', b'{"payload": "eyJzdWJqZWN0IjpbM119"}'),
    ],
)
def test_what_is_no_attestation_is_refused_as_one(office: Office, content: bytes) -> None:
    digest = release(office)
    where = office.repository(RELEASES, "tiny")
    found = office.registry.manifest(where, attached(digest, "att"))
    assert found
    blob = office.registry.put_blob(where, content, media_type="dsse")
    store = office.registry
    store.put_manifest(where, attached(digest, "att"), manifest(found.config, (*found.layers[1:], blob)))
    with pytest.raises(PromoteError, match="evidence-of-another-digest"):
        promote("tiny", to="staging", now=NOW, office=office)
