"""The promotion log on registries in memory: what is no entry, and what breaks the chain."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PromoteError
from pipeline.evidence import PROMOTION, RELEASES
from pipeline.evidence.collecting import attached
from pipeline.oci import Manifest, Repository, manifest
from pipeline.promote import log as logs
from pipeline.promote import promote
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.signing import envelope
from tests.unit.evidence_values import NOW
from tests.unit.fake_registry import FakeCosign, FakeRegistry
from tests.unit.promote.offices import log_of, lose_the_log, release, tagged

KEY = Path("keys/cosign.key")


def test_a_log_of_another_place_is_refused(office: Office) -> None:
    release(office)
    for to in ("staging", "production"):
        promote("tiny", to=to, now=NOW, office=office)
    release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    store, (staging, production) = office.registry, (office.repository(to, "tiny") for to in ("staging", "production"))
    for name in (logs.TAG, "staging"):
        found = store.manifest(staging, name)
        assert found
        store.put_manifest(production, "production" if name == "staging" else name, found)
    assert {problem.rule for problem in log_of(office, "production").problems} == {"log-of-another-place"}
    acts: tuple[Callable[[], object], ...] = (
        lambda: promote("tiny", to="production", now=NOW, office=office),
        lambda: rollback("tiny", channel="production", reason="slower", now=NOW, office=office),
    )
    for act in acts:
        with pytest.raises(PromoteError, match="log-of-another-place"):
            act()


def test_a_log_that_is_overwritten_in_the_same_moment_moves_no_tag(office: Office) -> None:
    class Raced(FakeRegistry):
        """Somebody else's log takes the place of ours as soon as it is written."""

        def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
            super().put_manifest(repository, name, manifest)
            if name == logs.TAG:
                super().put_manifest(repository, name, replace(manifest, content=manifest.content + b" "))

    store = Raced()
    office = replace(office, registry=store, cosign=FakeCosign(store))
    release(office)
    with pytest.raises(PromoteError, match="somebody else wrote it in the same moment"):
        promote("tiny", to="staging", now=NOW, office=office)
    assert tagged(office, "staging") == ""


def test_a_log_without_its_first_entry_is_broken(office: Office) -> None:
    release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    where = office.repository("staging", "tiny")
    found = office.registry.manifest(where, logs.TAG)
    assert found
    assert log_of(office).problems == ()
    for layers in (found.layers[1:], found.layers[::-1], (found.layers[0], *found.layers)):
        office.registry.put_manifest(where, logs.TAG, manifest(found.config, layers))
        assert {problem.rule for problem in log_of(office).problems} == {"log-chain"}


def test_an_entry_of_what_is_no_digest_is_none(office: Office) -> None:
    """Commands that are advised name it."""
    release(office)
    entry = promote("tiny", to="staging", now=NOW, office=office)
    assert entry
    store, where = office.registry, office.repository("staging", "tiny")
    found = store.manifest(where, logs.TAG)
    assert found
    for digest, problems in ((entry.digest, []), (f"{entry.digest}; rm -rf ~", ["log-entry"])):
        content = logs.signed(replace(entry, digest=digest), repository=where, cosign=office.cosign, key=KEY)
        blob = store.put_blob(where, content, media_type="dsse")
        store.put_manifest(where, logs.TAG, manifest(found.config, (blob,)))
        assert [problem.rule for problem in log_of(office).problems] == problems


def test_an_entry_with_a_deep_structure_for_a_word_is_none(office: Office) -> None:
    """Anybody may write it, and the cure for a broken log has to work on it, too."""
    release(office)
    entry = promote("tiny", to="staging", now=NOW, office=office)
    assert entry
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    store, where = office.registry, office.repository("staging", "tiny")
    found = store.manifest(where, logs.TAG)
    assert found
    statement = {
        "predicateType": PROMOTION,
        "subject": [{"name": str(where)}],
        "predicate": asdict(entry) | {"reason": deep},
    }
    content = envelope(json.dumps(statement).encode(), cosign=office.cosign, key=KEY)
    store.put_manifest(where, logs.TAG, manifest(found.config, (store.put_blob(where, content, media_type="dsse"),)))
    assert [problem.rule for problem in log_of(office).problems] == ["log-entry"]


def test_what_the_signers_of_a_channel_do_not_verify_gets_into_no_log(office: Office) -> None:
    """Where our public key is not beside the private one, only the signature tells whose it is."""
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    theirs = replace(office, key=Path("keys/theirs.key"))
    store, where = office.registry, office.repository("staging", "tiny")
    for new_log in (False, True):
        if new_log:
            lose_the_log(office, "first entry gone")
        before = store.manifest(where, logs.TAG), tagged(office, "staging")
        with pytest.raises(PromoteError, match=r"theirs\.pub signs verifies under no key of the signers of staging"):
            rollback("tiny", channel="staging", to=first, reason="why", new_log=new_log, now=NOW, office=theirs)
        assert (store.manifest(where, logs.TAG), tagged(office, "staging")) == before


@pytest.mark.parametrize("name", ["Payload", "payload", "more"])
def test_an_envelope_that_somebody_might_read_otherwise_is_none(office: Office, name: str) -> None:
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store = office.registry
    for where, tag in (
        (office.repository("staging", "tiny"), logs.TAG),
        (office.repository(RELEASES, "tiny"), attached(digest, "att")),
    ):
        found = store.manifest(where, tag)
        assert found
        whole = store.blob(where, found.layers[-1].digest)
        payload = json.loads(whole)["payload"]
        blob = store.put_blob(where, whole[:-1] + f',"{name}":"{payload}"}}'.encode(), media_type="dsse")
        last = replace(found.layers[-1], digest=blob.digest, size=blob.size)
        store.put_manifest(where, tag, manifest(found.config, (*found.layers[:-1], last)))
    assert [each.rule for each in log_of(office).problems] == ["log-entry"]
    with pytest.raises(PromoteError, match="evidence-of-another-digest"):
        promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize("signatures", [None, [], [7], [{}], [{"sig": "https://example.com"}], [{"sig": "AAAA"}]])
def test_a_log_whose_newest_entry_is_not_signed_is_broken(office: Office, signatures: object) -> None:
    release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store, where = office.registry, office.repository("staging", "tiny")
    found = store.manifest(where, logs.TAG)
    assert found
    document = json.loads(store.blob(where, found.layers[0].digest)) | {"signatures": signatures}
    blob = store.put_blob(where, json.dumps(document).encode(), media_type="dsse")
    store.put_manifest(where, logs.TAG, manifest(found.config, (blob,)))
    assert [problem.rule for problem in log_of(office).problems] == ["log-signature"]
