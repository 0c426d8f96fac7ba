"""Promotion on registries in memory: what moves, what is refused, and what a broken run leaves."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import PromoteError, ReleaseError
from pipeline.evidence import RELEASES
from pipeline.evidence.collecting import attached
from pipeline.oci import Registry, Repository, manifest
from pipeline.promote import lock, promote
from pipeline.promote.lock import Holder
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.sigstore import TOKEN
from pipeline.status import status
from tests.unit.evidence_values import NOW
from tests.unit.fake_registry import FakeCosign, FakeRegistry
from tests.unit.promote.offices import drop_an_attestation, dying, log_of, release, tagged


def test_a_digest_goes_through_the_channels_unchanged(office: Office) -> None:
    digest = release(office)
    for to in ("staging", "production"):
        entry = promote("tiny", to=to, now=NOW, office=office)
        assert entry
        assert (entry.digest, entry.channel, entry.version) == (digest, to, "1.0.0")
        assert promote("tiny", to=to, now=NOW, office=office) is None
    assert tagged(office, "staging") == tagged(office, "production") == digest


def test_a_dry_run_writes_nothing(office: Office) -> None:
    release(office)
    assert promote("tiny", to="staging", dry_run=True, now=NOW, office=office) is None
    assert office.registry.tags(office.repository("staging", "tiny")) == ()


def test_whoever_is_no_signer_of_a_channel_changes_nothing_there(office: Office, tmp_path: Path) -> None:
    first = release(office)
    channel = office.policy.channel("staging")
    asked = replace(channel, signers=(replace(channel.signers[0], key=tmp_path / "asked" / "cosign.pub"),))
    policy = replace(office.policy, channels={**office.policy.channels, "staging": asked})
    there = replace(office, policy=policy, key=tmp_path / "cosign.key")
    (tmp_path / "asked").mkdir()
    for path in (tmp_path / "asked" / "cosign.pub", tmp_path / "cosign.pub"):
        path.write_bytes(b"ours")
    assert promote("tiny", to="staging", dry_run=True, now=NOW, office=there) is None
    (tmp_path / "cosign.pub").write_bytes(b"theirs")
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*none of the signers of staging"):
        promote("tiny", to="staging", now=NOW, office=there)
    assert office.registry.tags(office.repository("staging", "tiny")) == ()
    promote("tiny", to="staging", now=NOW, office=office)
    second = release(office, b"others")
    promote("tiny", to="staging", now=NOW, office=office)
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*none of the signers of staging"):
        rollback("tiny", channel="staging", reason="slower", now=NOW, office=there)
    assert [entry.digest for entry in log_of(office).entries] == [first, second]


def test_a_workflow_promotes_without_a_key(keyless: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = release(keyless)
    for to in ("staging", "production"):
        assert promote("tiny", to=to, now=NOW, office=keyless)
    assert tagged(keyless, "production") == digest
    assert log_of(keyless).problems == ()
    monkeypatch.setenv(TOKEN, os.environ[TOKEN].replace("a.", "a.e30=.", 1))
    with pytest.raises(ReleaseError, match="no token of OpenID Connect"):
        promote("tiny", to="staging", now=NOW, office=keyless)


def test_a_refusal_lists_every_condition_and_writes_nothing(office: Office) -> None:
    digest = release(office)
    where = office.repository(RELEASES, "tiny")
    found = office.registry.manifest(where, attached(digest, "att"))
    assert found
    office.registry.put_manifest(where, attached(digest, "att"), manifest(found.config, found.layers[1:]))
    with pytest.raises(PromoteError) as refused:
        promote("tiny", to="staging", now=NOW + timedelta(days=40), office=office)
    told = str(refused.value)
    assert [rule for rule in ("evidence-missing", "evidence-changed", "verdict-too-old") if rule in told] == [
        *("evidence-missing", "evidence-changed", "verdict-too-old")
    ]
    assert office.registry.tags(office.repository("staging", "tiny")) == ()


def test_newer_evidence_of_the_same_image_goes_through_the_channels(office: Office) -> None:
    digest = release(office)
    for to in ("staging", "production"):
        promote("tiny", to=to, now=NOW, office=office)
    later = NOW + timedelta(days=20)
    with pytest.raises(PromoteError, match="verdict-too-old"):
        promote("tiny", to="production", now=later, office=office)
    assert release(office, judged="2026-12-15T11:00:00Z") == digest
    for to in ("staging", "production"):
        entry = promote("tiny", to=to, now=later, office=office)
        assert entry
        assert (entry.sequence, entry.digest, entry.reason) == (2, digest, "the same image with other evidence")
        assert promote("tiny", to=to, now=later, office=office) is None
    assert {row.problems for row in status(("tiny",), now=later, office=office)} == {()}


def test_a_run_that_ended_before_the_tag_moved_is_completed(office: Office) -> None:
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = release(office, b"other weights")
    acts: tuple[Callable[[], object], ...] = (
        lambda: promote("tiny", to="staging", now=NOW, office=office),
        lambda: rollback("tiny", channel="staging", reason="it is slower", now=NOW, office=office),
    )
    for act in acts:
        before, entries = tagged(office, "staging"), len(log_of(office).entries)
        with dying(office, "staging"):
            act()
        assert tagged(office, "staging") == before
        row = next(each for each in status(("tiny",), now=NOW, office=office) if each.channel == "staging")
        assert row.problems == ("unfinished",)
        act()
        assert len(log_of(office).entries) == entries + 1
        assert tagged(office, "staging") == (second if before == first else first)
    with dying(office, "staging"):
        rollback("tiny", channel="staging", to=second, reason="it was the data", now=NOW, office=office)
    drop_an_attestation(office, "staging", second)
    with pytest.raises(PromoteError, match="evidence-missing"):
        rollback("tiny", channel="staging", reason="it was the data", now=NOW, office=office)
    assert tagged(office, "staging") == first


def test_evidence_that_is_exchanged_on_the_way_is_noticed(office: Office) -> None:
    """Older evidence, with an older signature for this very channel: all of it verifies."""
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store, staging = office.registry, office.repository("staging", "tiny")
    older = {what: store.manifest(staging, attached(digest, what)) for what in ("att", "sig")}
    release(office, judged="2026-11-25T11:30:00Z")

    class Exchanging(FakeCosign):
        def copy(self, source: str, target: str) -> None:
            super().copy(source, target)
            for what, found in older.items():
                assert found
                store.put_manifest(staging, attached(digest, what), found)

    assert isinstance(store, FakeRegistry)
    with pytest.raises(PromoteError, match="arrived with other evidence than was judged"):
        promote("tiny", to="staging", now=NOW, office=replace(office, cosign=Exchanging(store)))
    assert len(log_of(office).entries) == 1


def test_what_was_put_back_while_the_lock_was_waited_for_is_not_promoted(office: Office) -> None:
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    original = lock.hold

    @contextmanager
    def late(where: Repository, holder: Holder, *, registry: Registry) -> Iterator[Callable[[], None]]:
        if where == office.repository("production", "tiny"):
            rollback("tiny", channel="staging", reason="slower", now=NOW, office=office)
        with original(where, holder, registry=registry) as still:
            yield still

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.promote.hold", late)
        with pytest.raises(PromoteError, match=rf"may not go to production any more(.|\n)*has {first} now"):
            promote("tiny", to="production", now=NOW, office=office)
    assert (tagged(office, "staging"), tagged(office, "production")) == (first, "")
    assert first != second


def test_a_dry_run_is_refused_for_the_same_reasons(office: Office) -> None:
    digest = release(office)
    drop_an_attestation(office, RELEASES, digest)
    told = []
    for dry_run in (True, False):
        with pytest.raises(PromoteError) as refused:
            promote("tiny", to="staging", dry_run=dry_run, now=NOW + timedelta(days=40), office=office)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "evidence-missing" in told[0]


def test_a_copy_leaves_no_tag_that_means_something_else(office: Office) -> None:
    """`sha256-<hex>` is where a client looks for what refers to a digest, if a registry has no API for that."""
    digest = release(office)
    copied = []

    class Copying(FakeCosign):
        def copy(self, source: str, target: str) -> None:
            copied.append(target.rpartition(":")[2])
            super().copy(source, target)

    assert isinstance(office.registry, FakeRegistry)
    promote("tiny", to="staging", now=NOW, office=replace(office, cosign=Copying(office.registry)))
    assert copied == [digest.replace("sha256:", "image-")]


def test_nothing_comes_from_an_empty_channel(office: Office) -> None:
    with pytest.raises(PromoteError, match="there is nothing in releases"):
        promote("tiny", to="staging", now=NOW, office=office)
