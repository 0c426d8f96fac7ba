"""Promotion and rollback on registries in memory: what moves, what is refused, and what a broken run leaves."""

import base64
import errno
import gzip
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import policy
from pipeline.artifacts import Finding
from pipeline.errors import ContentError, CosignError, PromoteError, RegistryError, ReleaseError, VerifyError
from pipeline.evidence import CHANNEL, EVIDENCE, RELEASES, binding
from pipeline.evidence.collecting import attached
from pipeline.oci import DOCKER_MANIFEST, Manifest, Registry, Repository, digest_of, manifest
from pipeline.promote import lock, promote
from pipeline.promote import log as logs
from pipeline.promote.approval import approve
from pipeline.promote.drift import drift
from pipeline.promote.lock import Holder
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.settings import HOME
from pipeline.signing import STATEMENT, Identity, Key, attested
from pipeline.sigstore import GITHUB, TOKEN, Claimed
from pipeline.status import status
from pipeline.verify import verify
from tests.unit.evidence_values import NOW, RUNTIME, descriptions, evidence
from tests.unit.fake_registry import FakeCosign, FakeRegistry

KEY = Path("keys/cosign.key")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_SETTLE", 0.0)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    store = FakeRegistry()
    text = (HOME / "promotion.toml").read_text().replace("~/.config/torchyard/cosign.pub", "/keys/cosign.pub")
    (tmp_path / "promotion.toml").write_text(text)
    return Office(
        policy=policy.load(tmp_path / "promotion.toml"),
        releases="127.0.0.1:5000/releases",
        registry=store,
        cosign=FakeCosign(store),
        key=KEY,
        holder=Holder(name="me@here", process=1, machine="here"),
    )


def _layer(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("model/model.pt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


def _release(office: Office, content: bytes = b"weights", *, judged: str = "2026-11-25T11:00:00Z") -> str:
    """Puts a release of a tiny model into the registry, signed as `inv release` does; returns its digest."""
    store, where = office.registry, office.repository(RELEASES, "tiny")
    archive = f"sha256:{digest_of(content).removeprefix('sha256:')}"
    labels = {
        "io.torchyard.archive.digest": archive,
        "io.torchyard.runtime.digest": RUNTIME,
        "org.opencontainers.image.version": "1.0.0",
    }
    packed = _layer(content)
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
        statement = _statement(each.kind, predicate, image.digest)
        payloads.append(digest_of(statement).removeprefix("sha256:"))
        content, notes = attested(statement, cosign=office.cosign, key=office.key)
        layers.append(replace(store.put_blob(where, content, media_type="dsse"), annotations=notes))
    store.put_manifest(where, attached(image.digest, "att"), manifest(config, tuple(layers)))
    bound = {CHANNEL: RELEASES, EVIDENCE: binding(tuple(payloads))}
    office.cosign.sign(where.at(image.digest), key=office.key, annotations=bound)
    return image.digest


def _statement(kind: str, predicate: dict[str, Any], digest: str) -> bytes:
    subject = [{"name": "tiny", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    return json.dumps({"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate}).encode()


def _has(office: Office, channel: str) -> str:
    found = office.registry.manifest(office.repository(channel, "tiny"), channel)
    return found.digest if found else ""


def _log(office: Office, channel: str = "staging") -> logs.Log:
    return logs.read(
        office.repository(channel, "tiny"),
        signers=office.policy.channel(channel).signers,
        registry=office.registry,
        cosign=office.cosign,
    )


def test_a_digest_goes_through_the_channels_unchanged(office: Office) -> None:
    digest = _release(office)
    for to in ("staging", "production"):
        entry = promote("tiny", to=to, now=NOW, office=office)
        assert entry
        assert (entry.digest, entry.channel, entry.version) == (digest, to, "1.0.0")
        assert promote("tiny", to=to, now=NOW, office=office) is None
    assert _has(office, "staging") == _has(office, "production") == digest


def test_a_dry_run_writes_nothing(office: Office) -> None:
    _release(office)
    assert promote("tiny", to="staging", dry_run=True, now=NOW, office=office) is None
    assert office.registry.tags(office.repository("staging", "tiny")) == ()


def test_whoever_is_no_signer_of_a_channel_changes_nothing_there(office: Office, tmp_path: Path) -> None:
    first = _release(office)
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
    second = _release(office, b"others")
    promote("tiny", to="staging", now=NOW, office=office)
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*none of the signers of staging"):
        rollback("tiny", channel="staging", reason="slower", now=NOW, office=there)
    assert [entry.digest for entry in _log(office).entries] == [first, second]


@pytest.fixture
def keyless(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """The same by a workflow that signs without a key."""
    claimed = Claimed(identity="https://github.com/octo/yard/.github/workflows/c.yml@refs/heads/main", issuer=GITHUB)
    claims = {"iss": GITHUB, "job_workflow_ref": claimed.identity.removeprefix("https://github.com/")}
    monkeypatch.setenv(TOKEN, f"a.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}.b")
    text = (tmp_path / "promotion.toml").read_text()
    signer = f'{{ identity = "{claimed.identity}", issuer = "{GITHUB}" }}'
    (tmp_path / "promotion.toml").write_text(text.replace('"/keys/cosign.pub"', signer))
    store = office.registry
    assert isinstance(store, FakeRegistry)
    return replace(
        office, policy=policy.load(tmp_path / "promotion.toml"), cosign=FakeCosign(store, claimed=claimed), key=None
    )


def test_a_workflow_promotes_without_a_key(keyless: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = _release(keyless)
    for to in ("staging", "production"):
        assert promote("tiny", to=to, now=NOW, office=keyless)
    assert _has(keyless, "production") == digest
    assert _log(keyless).problems == ()
    monkeypatch.setenv(TOKEN, os.environ[TOKEN].replace("a.", "a.e30=.", 1))
    with pytest.raises(ReleaseError, match="no token of OpenID Connect"):
        promote("tiny", to="staging", now=NOW, office=keyless)


def test_a_refusal_lists_every_condition_and_writes_nothing(office: Office) -> None:
    digest = _release(office)
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


def test_what_was_there_before_is_put_back_and_the_reason_kept(office: Office) -> None:
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    assert _has(office, "staging") == second
    entry = rollback("tiny", channel="staging", reason="it is slower", now=NOW, office=office)
    assert (entry.digest, entry.reason, entry.sequence) == (first, "it is slower", 3)
    assert _has(office, "staging") == first
    assert [each.action for each in _log(office).entries] == ["promote", "promote", "rollback"]
    with pytest.raises(PromoteError, match="the log has no sha256:77 to go back to"):
        rollback("tiny", channel="staging", to="sha256:77", reason="why not", now=NOW, office=office)
    with pytest.raises(PromoteError, match="needs a reason"):
        rollback("tiny", channel="staging", reason=" ", now=NOW, office=office)


def test_a_rollback_goes_back_to_nothing_that_was_put_away(office: Office) -> None:
    digests = [_release(office, content) for content in (b"one", b"two", b"three")]
    for content in (b"one", b"two", b"three"):
        _release(office, content)
        promote("tiny", to="staging", now=NOW, office=office)
    back = [rollback("tiny", channel="staging", reason="slower", now=NOW, office=office).digest for _ in range(2)]
    assert back == [digests[1], digests[0]]
    with pytest.raises(PromoteError, match="no digest before the current one"):
        rollback("tiny", channel="staging", reason="slower", now=NOW, office=office)
    assert rollback("tiny", channel="staging", to=digests[1], reason="it was the data", now=NOW, office=office)
    _release(office, b"three")
    promote("tiny", to="staging", now=NOW, office=office)
    _release(office, b"two")
    promote("tiny", to="staging", now=NOW, office=office)
    # Promoted once more, it is good again.
    assert rollback("tiny", channel="staging", reason="slower", now=NOW, office=office).digest == digests[2]


def test_newer_evidence_of_the_same_image_goes_through_the_channels(office: Office) -> None:
    digest = _release(office)
    for to in ("staging", "production"):
        promote("tiny", to=to, now=NOW, office=office)
    later = NOW + timedelta(days=20)
    with pytest.raises(PromoteError, match="verdict-too-old"):
        promote("tiny", to="production", now=later, office=office)
    assert _release(office, judged="2026-12-15T11:00:00Z") == digest
    for to in ("staging", "production"):
        entry = promote("tiny", to=to, now=later, office=office)
        assert entry
        assert (entry.sequence, entry.digest, entry.reason) == (2, digest, "the same image with other evidence")
        assert promote("tiny", to=to, now=later, office=office) is None
    assert {row.problems for row in status(("tiny",), now=later, office=office)} == {()}


def _without_an_attestation(office: Office, channel: str, digest: str) -> None:
    where, name = office.repository(channel, "tiny"), attached(digest, "att")
    found = office.registry.manifest(where, name)
    assert found
    office.registry.put_manifest(where, name, manifest(found.config, found.layers[1:]))


def test_evidence_that_is_damaged_in_a_channel_is_brought_again(office: Office) -> None:
    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    _without_an_attestation(office, "staging", digest)
    with pytest.raises(PromoteError, match="evidence-missing"):
        promote("tiny", to="production", now=NOW, office=office)
    assert promote("tiny", to="staging", now=NOW, office=office)
    assert promote("tiny", to="production", now=NOW, office=office)


def test_a_log_of_another_place_is_refused(office: Office) -> None:
    _release(office)
    for to in ("staging", "production"):
        promote("tiny", to=to, now=NOW, office=office)
    _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    store, (staging, production) = office.registry, (office.repository(to, "tiny") for to in ("staging", "production"))
    for name in (logs.TAG, "staging"):
        found = store.manifest(staging, name)
        assert found
        store.put_manifest(production, "production" if name == "staging" else name, found)
    assert {problem.rule for problem in _log(office, "production").problems} == {"log-of-another-place"}
    acts: tuple[Callable[[], object], ...] = (
        lambda: promote("tiny", to="production", now=NOW, office=office),
        lambda: rollback("tiny", channel="production", reason="slower", now=NOW, office=office),
    )
    for act in acts:
        with pytest.raises(PromoteError, match="log-of-another-place"):
            act()


def test_whoever_loses_the_lock_while_he_signs_writes_nothing(office: Office) -> None:
    class Slow(FakeCosign):
        """Somebody else takes the lock while an entry of the log is signed."""

        def sign_bytes(self, content: bytes, *, key: Key) -> str:
            _held(office, holder="you@there", process="7", machine="there", nonce="1", until=str(time.time() + 60))
            return super().sign_bytes(content, key=key)

    _release(office)
    assert isinstance(office.registry, FakeRegistry)
    slow = replace(office, cosign=Slow(office.registry))
    with pytest.raises(PromoteError, match=r"you@there \(process 7\) is promoting .* Nothing of yours was done"):
        promote("tiny", to="staging", now=NOW, office=slow)
    assert (_log(office).entries, _has(office, "staging")) == ((), "")
    # The lock is still the other's.
    with pytest.raises(PromoteError, match=r"you@there \(process 7\)"):
        promote("tiny", to="staging", now=NOW, office=office)


def _held(office: Office, **notes: str) -> None:
    where = office.repository("staging", "tiny")
    empty = office.registry.put_blob(where, b"{}", media_type="empty")
    office.registry.put_manifest(where, lock.TAG, manifest(empty, (empty,), **notes))


@pytest.mark.parametrize(
    "notes",
    [
        {"nonce": None},
        {"until": "soon"},
        {"process": "seven"},
        {"until": "inf"},
        {"until": "nan"},
        {"until": "7200"},
        {"holder": "me@here", "machine": "here", "process": "9" * 30},
    ],
)
def test_what_is_no_lock_holds_nobody_up(office: Office, notes: dict[str, Any]) -> None:
    _release(office)
    whole = {"holder": "you@there", "process": "7", "machine": "there", "nonce": "1", "until": "60"} | notes
    if whole["until"].isdigit():
        whole["until"] = str(time.time() + int(whole["until"]))
    _held(office, **{name: value for name, value in whole.items() if value})
    assert promote("tiny", to="staging", now=NOW, office=office)


def test_a_manifest_that_is_none_holds_nobody_up(office: Office) -> None:
    _release(office)
    nonsense = Manifest(media_type="text/plain", content=b"[]")
    office.registry.put_manifest(office.repository("staging", "tiny"), lock.TAG, nonsense)
    assert promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize(("machine", "taken"), [("here", True), ("there", False)])
def test_only_what_a_run_on_this_machine_left_is_taken_over(office: Office, machine: str, taken: bool) -> None:
    """A process of another machine with the same name says nothing of one here."""
    _release(office)
    gone = str(2**22 + 1)
    _held(office, holder="me@here", process=gone, machine=machine, nonce="1", until=str(time.time() + 60))
    if taken:
        assert promote("tiny", to="staging", now=NOW, office=office)
        return
    with pytest.raises(PromoteError, match=r"me@here \(process \d+\) is promoting"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_who_holds_a_lock_is_no_terminals_command(office: Office) -> None:
    _release(office)
    until = str(time.time() + 60)
    _held(office, holder="you\n\x1b[2K", process="7", machine="there", nonce="1", until=until)
    with pytest.raises(PromoteError, match=r"you\\n\\x1b\[2K \(process 7\) is promoting"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_two_runs_that_call_themselves_the_same_are_two(office: Office) -> None:
    where = office.repository("staging", "tiny")
    with lock.hold(where, office.holder, registry=office.registry) as still:
        still()
        with lock.hold(where, office.holder, registry=office.registry), pytest.raises(PromoteError, match="me@here"):
            still()


def test_a_log_that_is_overwritten_in_the_same_moment_moves_no_tag(office: Office) -> None:
    class Raced(FakeRegistry):
        """Somebody else's log takes the place of ours as soon as it is written."""

        def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
            super().put_manifest(repository, name, manifest)
            if name == logs.TAG:
                super().put_manifest(repository, name, replace(manifest, content=manifest.content + b" "))

    store = Raced()
    office = replace(office, registry=store, cosign=FakeCosign(store))
    _release(office)
    with pytest.raises(PromoteError, match="somebody else wrote it in the same moment"):
        promote("tiny", to="staging", now=NOW, office=office)
    assert _has(office, "staging") == ""


def _asking_for_approval(office: Office) -> Office:
    approvers = tuple(office.policy.signers.values())
    channels = {name: replace(each, approvers=approvers) for name, each in office.policy.channels.items()}
    return replace(office, policy=replace(office.policy, channels=channels))


def test_an_approval_is_no_signature_for_a_place(office: Office) -> None:
    office = _asking_for_approval(office)
    signers = tuple(office.policy.signers.values())
    reference = office.repository(RELEASES, "tiny").at(_release(office))
    approve("tiny", to="staging", office=office)
    assert verify(reference, signers=signers, registry=office.registry, cosign=office.cosign)
    promote("tiny", to="staging", now=NOW, office=office)
    approve("tiny", to="production", office=office)
    reference = reference.replace("/releases/", "/staging/")
    assert verify(reference, signers=signers, registry=office.registry, cosign=office.cosign)


class _Dying(FakeRegistry):
    """Fails when the tag of staging is moved, until it is mended."""

    broken = False

    def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
        if self.broken and name == "staging":
            raise RegistryError("The registry does not answer")
        super().put_manifest(repository, name, manifest)


def test_a_run_that_ended_before_the_tag_moved_is_completed(office: Office) -> None:
    store = _Dying()
    office = replace(office, registry=store, cosign=FakeCosign(store))
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = _release(office, b"other weights")
    acts: tuple[Callable[[], object], ...] = (
        lambda: promote("tiny", to="staging", now=NOW, office=office),
        lambda: rollback("tiny", channel="staging", reason="it is slower", now=NOW, office=office),
    )
    for act in acts:
        before, entries = _has(office, "staging"), len(_log(office).entries)
        store.broken = True
        with pytest.raises(RegistryError):
            act()
        assert _has(office, "staging") == before
        row = next(each for each in status(("tiny",), now=NOW, office=office) if each.channel == "staging")
        assert row.problems == ("unfinished",)
        store.broken = False
        act()
        assert len(_log(office).entries) == entries + 1
        assert _has(office, "staging") == (second if before == first else first)
    store.broken = True
    with pytest.raises(RegistryError):
        rollback("tiny", channel="staging", to=second, reason="it was the data", now=NOW, office=office)
    store.broken = False
    _without_an_attestation(office, "staging", second)
    with pytest.raises(PromoteError, match="evidence-missing"):
        rollback("tiny", channel="staging", reason="it was the data", now=NOW, office=office)
    assert _has(office, "staging") == first


def test_a_moved_tag_is_drift_and_stops_what_builds_on_it(office: Office) -> None:
    _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    other = _release(office, b"other weights")
    where = office.repository("staging", "tiny")
    found = office.registry.manifest(office.repository(RELEASES, "tiny"), other)
    assert found
    office.registry.put_manifest(where, "staging", found)
    for to in ("staging", "production"):
        with pytest.raises(PromoteError, match="the tag was moved behind our back"):
            promote("tiny", to=to, now=NOW, office=office)


def test_an_approval_counts_for_its_channel_and_digest(office: Office) -> None:
    digest = _release(office)
    office = _asking_for_approval(office)
    with pytest.raises(PromoteError, match="approval: local"):
        promote("tiny", to="staging", now=NOW, office=office)
    assert approve("tiny", to="staging", office=office) == digest
    assert promote("tiny", to="staging", now=NOW, office=office)
    _release(office, b"other weights")
    with pytest.raises(PromoteError, match="approval: local"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_an_approval_counts_for_the_evidence_that_it_was_given_for(office: Office) -> None:
    office = _asking_for_approval(office)
    digest = _release(office)
    assert approve("tiny", to="staging", office=office) == digest
    assert _release(office, judged="2026-11-25T11:30:00Z") == digest
    with pytest.raises(PromoteError, match="approval: local"):
        promote("tiny", to="staging", now=NOW, office=office)
    approve("tiny", to="staging", office=office)
    assert promote("tiny", to="staging", now=NOW, office=office)


def test_only_what_verifies_is_approved_and_only_by_who_is_asked(office: Office, tmp_path: Path) -> None:
    digest = _release(office)
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*staging asks for the approval of nobody"):
        approve("tiny", to="staging", office=office)
    asked = _asking_for_approval(office)
    (tmp_path / "cosign.pub").write_bytes(b"somebody else's")
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*not-an-approver.*staging asks for the approval of local"):
        approve("tiny", to="staging", office=replace(asked, key=tmp_path / "cosign.key"))
    _without_an_attestation(asked, RELEASES, digest)
    with pytest.raises(PromoteError, match=r"cannot be approved for staging(.|\n)*evidence-missing"):
        approve("tiny", to="staging", office=asked)
    signatures = office.registry.manifest(office.repository(RELEASES, "tiny"), attached(digest, "sig"))
    assert signatures
    assert len(signatures.layers) == 1


def test_older_evidence_that_is_put_back_is_noticed(office: Office) -> None:
    """It verifies in all that it says: only the log knows that it is no longer what was promoted."""
    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    where = office.repository("staging", "tiny")
    older = {what: office.registry.manifest(where, attached(digest, what)) for what in ("att", "sig")}
    _release(office, judged="2026-11-25T11:30:00Z")
    promote("tiny", to="staging", now=NOW, office=office)
    for what, found in older.items():
        assert found
        office.registry.put_manifest(where, attached(digest, what), found)
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*evidence-exchanged"):
        promote("tiny", to="production", now=NOW, office=office)
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*evidence-exchanged"):
        rollback("tiny", channel="staging", to=digest, reason="a drill", now=NOW, office=office)
    rows = {row.channel: row.problems for row in status(("tiny",), now=NOW, office=office)}
    assert rows == {"releases": (), "staging": ("evidence-exchanged",)}
    signers = tuple(office.policy.signers.values())
    with pytest.raises(VerifyError, match=r"(?s)1 to mend.*evidence-exchanged"):
        verify(where.at(digest), signers=signers, registry=office.registry, cosign=office.cosign)
    assert promote("tiny", to="staging", now=NOW, office=office)
    assert promote("tiny", to="production", now=NOW, office=office)


def test_a_row_that_nobody_can_read_is_a_row_alone(office: Office) -> None:
    _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    nonsense = Manifest(media_type="text/plain", content=b"[]")
    office.registry.put_manifest(office.repository("staging", "tiny"), logs.TAG, nonsense)
    rows = {row.channel: row for row in status(("tiny",), now=NOW, office=office)}
    assert "is no manifest of an image" in rows["staging"].line()
    assert rows["releases"].problems == ()
    shown = rows["releases"].line()
    assert "check passed 0.0 d, audit passed 0.0 d, smoke passed 0.0 d" in shown
    assert shown.endswith("in order")


def test_evidence_that_is_exchanged_on_the_way_is_noticed(office: Office) -> None:
    """Older evidence, with an older signature for this very channel: all of it verifies."""
    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store, staging = office.registry, office.repository("staging", "tiny")
    older = {what: store.manifest(staging, attached(digest, what)) for what in ("att", "sig")}
    _release(office, judged="2026-11-25T11:30:00Z")

    class Exchanging(FakeCosign):
        def copy(self, source: str, target: str) -> None:
            super().copy(source, target)
            for what, found in older.items():
                assert found
                store.put_manifest(staging, attached(digest, what), found)

    assert isinstance(store, FakeRegistry)
    with pytest.raises(PromoteError, match="arrived with other evidence than was judged"):
        promote("tiny", to="staging", now=NOW, office=replace(office, cosign=Exchanging(store)))
    assert len(_log(office).entries) == 1


def test_what_was_put_back_while_the_lock_was_waited_for_is_not_promoted(office: Office) -> None:
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = _release(office, b"other weights")
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
    assert (_has(office, "staging"), _has(office, "production")) == (first, "")
    assert first != second


def test_a_dry_run_is_refused_for_the_same_reasons(office: Office) -> None:
    digest = _release(office)
    _without_an_attestation(office, RELEASES, digest)
    told = []
    for dry_run in (True, False):
        with pytest.raises(PromoteError) as refused:
            promote("tiny", to="staging", dry_run=dry_run, now=NOW + timedelta(days=40), office=office)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "evidence-missing" in told[0]


def test_attachments_that_nobody_can_read_are_brought_again(office: Office) -> None:
    digest = _release(office)
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


@pytest.mark.parametrize("layer", [b"no layer", gzip.compress(b"no tar"), _layer(b"weights")[:-9], _sparse()])
def test_a_layer_that_nobody_can_read_is_refused_as_damaged(office: Office, layer: bytes) -> None:
    _release(office)
    _replaced(office, layers=(layer,))
    with pytest.raises(PromoteError, match=r"content: (.|\n)*unsigned"):
        promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize("config", [b"[" * 100_000, b'{"config": 7}', b'{"config": {"Labels": 7}}', b"[]"])
def test_a_configuration_that_is_none_is_refused_as_damaged(office: Office, config: bytes) -> None:
    _release(office)
    _replaced(office, config=config)
    with pytest.raises(PromoteError, match=r"content: (.|\n)*is none of an image"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_layers_that_the_configuration_does_not_tell_of_are_refused(office: Office) -> None:
    _release(office)
    _replaced(office, layers=(_layer(b"weights"), _layer(b"more")))
    with pytest.raises(PromoteError, match=r"the configuration tells of 1 layers, and the manifest has 2"):
        promote("tiny", to="staging", now=NOW, office=office)
    _replaced(office, layers=(_layer(b"other weights"),))
    with pytest.raises(PromoteError, match=r"unpacks to sha256:\w+, and the configuration names sha256:"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_a_full_disk_is_no_damage(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    _release(office)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_a_copy_leaves_no_tag_that_means_something_else(office: Office) -> None:
    """`sha256-<hex>` is where a client looks for what refers to a digest, if a registry has no API for that."""
    digest = _release(office)
    copied = []

    class Copying(FakeCosign):
        def copy(self, source: str, target: str) -> None:
            copied.append(target.rpartition(":")[2])
            super().copy(source, target)

    assert isinstance(office.registry, FakeRegistry)
    promote("tiny", to="staging", now=NOW, office=replace(office, cosign=Copying(office.registry)))
    assert copied == [digest.replace("sha256:", "image-")]


def test_a_log_without_its_first_entry_is_broken(office: Office) -> None:
    _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    where = office.repository("staging", "tiny")
    found = office.registry.manifest(where, logs.TAG)
    assert found
    assert _log(office).problems == ()
    for layers in (found.layers[1:], found.layers[::-1], (found.layers[0], *found.layers)):
        office.registry.put_manifest(where, logs.TAG, manifest(found.config, layers))
        assert {problem.rule for problem in _log(office).problems} == {"log-chain"}


def test_an_entry_of_what_is_no_digest_is_none(office: Office) -> None:
    """Commands that are advised name it."""
    _release(office)
    entry = promote("tiny", to="staging", now=NOW, office=office)
    assert entry
    store, where = office.registry, office.repository("staging", "tiny")
    found = store.manifest(where, logs.TAG)
    assert found
    for digest, problems in ((entry.digest, []), (f"{entry.digest}; rm -rf ~", ["log-entry"])):
        content = logs.signed(replace(entry, digest=digest), repository=where, cosign=office.cosign, key=KEY)
        blob = store.put_blob(where, content, media_type="dsse")
        store.put_manifest(where, logs.TAG, manifest(found.config, (blob,)))
        assert [problem.rule for problem in _log(office).problems] == problems


def test_drift_is_a_tag_that_the_log_does_not_end_with(office: Office) -> None:
    _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    log = _log(office)
    assert log.current
    where = office.repository("staging", "tiny")
    assert drift(log, log.current.digest, at=where, channel="staging") == ()
    assert drift(log, "", at=where, channel="staging", unfinished=log.current.digest) == ()
    (behind,) = drift(log, "", at=where, channel="staging")
    (moved,) = drift(log, "sha256:7", at=where, channel="staging")
    (lost,) = drift(replace(log, entries=()), "sha256:7", at=where, channel="staging")
    assert (behind.rule, moved.rule, lost.rule) == ("unfinished", "drift", "log-lost")
    # The commands are of what was asked about, whatever the log says; of one that is broken there are none.
    said = replace(log.current, model="x; rm -rf ~", channel="x; rm -rf ~", by="me\x1b[2K")
    (behind,) = drift(replace(log, entries=(said,)), "", at=where, channel="staging")
    assert f"inv promote --model tiny --to staging --digest {said.digest}`" in behind.fix
    assert ("rm -rf" in behind.fix, r"me\x1b[2K wrote" in behind.fix) == (False, True)
    (behind,) = drift(replace(log, problems=(behind,)), "", at=where, channel="staging")
    assert behind.fix == "Put the log right first."


def test_a_tag_that_is_one_entry_behind_is_told_as_both_that_it_may_be(office: Office) -> None:
    """Whether a promotion broke off, or somebody put the tag back: the same command puts it right."""
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    store, where = office.registry, office.repository("staging", "tiny")

    def put_back(digest: str) -> Finding:
        found = store.manifest(where, digest)
        assert found
        store.put_manifest(where, "staging", found)
        (told,) = drift(_log(office), digest, at=where, channel="staging")
        assert told.rule == "unfinished"
        assert "was not finished, or the tag was moved back behind our back" in told.message
        assert "If nobody's run broke off at 2026-11-25T12:00:00Z, when me@here wrote that entry, find out" in told.fix
        return told

    assert f"`inv promote --model tiny --to staging --digest {second}`" in put_back(first).fix
    assert promote("tiny", to="staging", digest=second, now=NOW, office=office)
    assert (_has(office, "staging"), len(_log(office).entries)) == (second, 2)
    rollback("tiny", channel="staging", reason="slower", now=NOW, office=office)
    told = put_back(second)
    assert f"`inv rollback --model tiny --channel staging --to {first} --reason WHY`" in told.fix
    rollback("tiny", channel="staging", to=first, reason="the tag was moved", now=NOW, office=office)
    assert (_has(office, "staging"), len(_log(office).entries)) == (first, 3)


def test_a_promotion_that_may_not_be_repeated_any_more_is_completed_as_a_rollback(office: Office) -> None:
    class Still(FakeRegistry):
        """Moves no tag of production while it is held."""

        held = False

        def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
            if self.held and name == "production":
                raise RegistryError("The registry does not answer")
            super().put_manifest(repository, name, manifest)

    store = Still()
    office = replace(office, registry=store, cosign=FakeCosign(store))
    first = _release(office, b"one")
    for to in ("staging", "production"):
        promote("tiny", to=to, now=NOW, office=office)
    second = _release(office, b"two")
    promote("tiny", to="staging", now=NOW, office=office)
    store.held = True
    with pytest.raises(RegistryError):
        promote("tiny", to="production", now=NOW, office=office)
    store.held = False
    assert _has(office, "production") == first
    third = _release(office, b"three")
    promote("tiny", to="staging", now=NOW, office=office)
    with pytest.raises(PromoteError, match=f"has {third} now"):
        promote("tiny", to="production", digest=second, now=NOW, office=office)
    where = office.repository("production", "tiny")
    (told,) = drift(_log(office, "production"), first, at=where, channel="production")
    assert f"`inv rollback --model tiny --channel production --to {second} --reason WHY`" in told.fix
    rollback("tiny", channel="production", to=second, reason="it broke off", now=NOW, office=office)
    assert _has(office, "production") == second
    assert drift(_log(office, "production"), second, at=where, channel="production") == ()


def _lose_the_log(office: Office, how: str = "deleted") -> None:
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


def test_a_lost_log_is_not_healed_by_itself(office: Office) -> None:
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    promote("tiny", to="production", now=NOW, office=office)
    _lose_the_log(office)
    acts: tuple[Callable[[], object], ...] = (
        lambda: promote("tiny", to="staging", now=NOW, office=office),
        lambda: promote("tiny", to="production", now=NOW, office=office),
    )
    for act in acts:
        with pytest.raises(PromoteError, match=r"(?s)log-lost.*there is no log: it was lost.*rollback --new-log --to"):
            act()
    for to in ("", first):
        with pytest.raises(PromoteError, match="there is no log, so nothing says what it had before"):
            rollback("tiny", channel="staging", to=to, reason="slower", now=NOW, office=office)
    rows = {row.channel: row.problems for row in status(("tiny",), now=NOW, office=office)}
    assert rows == {"releases": (), "staging": ("log-lost",), "production": ()}
    assert _log(office).entries == ()


@pytest.mark.parametrize("how", ["deleted", "nonsense", "entries gone", "first entry gone"])
def test_a_lost_log_is_begun_again_by_whom_says_why(
    office: Office, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    _lose_the_log(office, how)
    store, where = office.registry, office.repository("staging", "tiny")
    left = store.manifest(where, logs.TAG)
    with pytest.raises(PromoteError, match="needs a reason"):
        rollback("tiny", channel="staging", to=first, reason="", new_log=True, now=NOW, office=office)
    with pytest.raises(PromoteError, match=f"a digest that you vouch for.*staging names {second} now"):
        rollback("tiny", channel="staging", reason="the disk broke", new_log=True, now=NOW, office=office)
    assert store.manifest(where, logs.TAG) == left

    entry = rollback("tiny", channel="staging", to=first, reason="the disk broke", new_log=True, now=NOW, office=office)
    assert (entry.sequence, entry.action, entry.digest, entry.reason) == (1, "begin", first, "the disk broke")
    log = _log(office)
    assert (log.entries, log.problems, _has(office, "staging")) == ((entry,), (), first)
    assert store.manifest(where, f"{logs.TAG}-{left.digest.removeprefix('sha256:')}" if left else "nothing") == left

    # It stays to be seen, whatever comes after it.
    for digest in (first, second):
        promote("tiny", to="staging", digest=digest, now=NOW, office=office)
        begun = "log begun again on 2026-11-25 by me@here: the disk broke"
        row = next(row for row in status(("tiny",), now=NOW, office=office) if row.channel == "staging")
        assert (row.digest, row.problems) == (digest, ())
        assert row.line().endswith(f"in order; {begun}")
        capsys.readouterr()
        signers = tuple(office.policy.signers.values())
        verify(where.at(digest), signers=signers, registry=store, cosign=office.cosign)
        assert f"  {where}: {begun}" in capsys.readouterr().out
    assert [each.sequence for each in _log(office).entries] == [1, 2]
    assert rollback("tiny", channel="staging", reason="slower", now=NOW, office=office).digest == first


def test_what_a_log_says_is_no_terminals_command(office: Office) -> None:
    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    _lose_the_log(office)
    reason = "lost\n\x1b[2Ktiny production in order"
    rollback("tiny", channel="staging", to=digest, reason=reason, new_log=True, now=NOW, office=office)
    assert _log(office).begun.endswith(r"by me@here: lost\n\x1b[2Ktiny production in order")
    row = next(row for row in status(("tiny",), now=NOW, office=office) if row.channel == "staging")
    assert row.begun

    class Refusing(FakeCosign):
        """Finds no signature of the log's."""

        def verifies(self, content: bytes, signature: str, *, by: Identity) -> bool:  # noqa: ARG002
            return False

    assert isinstance(office.registry, FakeRegistry)
    office = replace(office, cosign=Refusing(office.registry))
    row = next(row for row in status(("tiny",), now=NOW, office=office) if row.channel == "staging")
    assert (row.begun, "log-signature" in row.problems) == ("", True)


def test_a_row_is_one_line_whatever_an_image_says(office: Office) -> None:
    _release(office)
    row = next(status(("tiny",), now=NOW, office=office))
    line = replace(row, version="1\x1b[2K", trouble="a\nb").line()
    assert line.isprintable()
    assert (r"1\x1b[2K" in line, line.endswith(r"a\nb")) == (True, True)


def test_a_broken_log_that_cannot_be_kept_is_not_replaced(office: Office) -> None:
    """Only where its entries are lost there is nothing to keep."""

    class Keeping(FakeRegistry):
        """Takes no log under another tag."""

        def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
            if name.startswith(f"{logs.TAG}-"):
                raise RegistryError("The registry refuses PUT")
            super().put_manifest(repository, name, manifest)

    store = Keeping()
    office = replace(office, registry=store, cosign=FakeCosign(store))
    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    where = office.repository("staging", "tiny")
    _lose_the_log(office, "first entry gone")
    broken = store.manifest(where, logs.TAG)
    with pytest.raises(RegistryError, match="refuses PUT"):
        rollback("tiny", channel="staging", to=digest, reason="why", new_log=True, now=NOW, office=office)
    assert store.manifest(where, logs.TAG) == broken
    _lose_the_log(office, "entries gone")
    rollback("tiny", channel="staging", to=digest, reason="why", new_log=True, now=NOW, office=office)
    assert [each.action for each in _log(office).entries] == ["begin"]


def test_what_the_signers_of_a_channel_do_not_verify_gets_into_no_log(office: Office) -> None:
    """Where our public key is not beside the private one, only the signature tells whose it is."""
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    theirs = replace(office, key=Path("keys/theirs.key"))
    store, where = office.registry, office.repository("staging", "tiny")
    for new_log in (False, True):
        if new_log:
            _lose_the_log(office, "first entry gone")
        before = store.manifest(where, logs.TAG), _has(office, "staging")
        with pytest.raises(PromoteError, match=r"theirs\.pub signs verifies under no key of the signers of staging"):
            rollback("tiny", channel="staging", to=first, reason="why", new_log=new_log, now=NOW, office=theirs)
        assert (store.manifest(where, logs.TAG), _has(office, "staging")) == before


@pytest.mark.parametrize("name", ["Payload", "payload", "more"])
def test_an_envelope_that_somebody_might_read_otherwise_is_none(office: Office, name: str) -> None:
    digest = _release(office)
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
    assert [each.rule for each in _log(office).problems] == ["log-entry"]
    with pytest.raises(PromoteError, match="evidence-of-another-digest"):
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

    digest = _release(office)
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


def test_a_log_that_is_whole_is_not_begun_again(office: Office) -> None:
    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    with pytest.raises(PromoteError, match="the log is there and whole, with 1 entries"):
        rollback("tiny", channel="staging", to=digest, reason="a drill", new_log=True, now=NOW, office=office)
    _lose_the_log(office)
    rollback("tiny", channel="staging", to=digest, reason="a drill", new_log=True, now=NOW, office=office)
    with pytest.raises(PromoteError, match="the log is there and whole, with 1 entries"):
        rollback("tiny", channel="staging", to=digest, reason="again", new_log=True, now=NOW, office=office)
    assert len(_log(office).entries) == 1


def test_only_what_a_signer_signed_for_the_channel_begins_a_log(office: Office, tmp_path: Path) -> None:
    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    other = _release(office, b"other weights")
    _lose_the_log(office)
    with pytest.raises(VerifyError, match="the registry has nothing with this digest"):
        rollback("tiny", channel="staging", to=other, reason="why", new_log=True, now=NOW, office=office)
    office.cosign.copy(office.repository(RELEASES, "tiny").at(other), f"{office.repository('staging', 'tiny')}:x")
    with pytest.raises(PromoteError, match="signature-of-another-place"):
        rollback("tiny", channel="staging", to=other, reason="why", new_log=True, now=NOW, office=office)
    (tmp_path / "cosign.pub").write_bytes(b"theirs")
    theirs = replace(office, key=tmp_path / "cosign.key")
    with pytest.raises(PromoteError, match="none of the signers of staging"):
        rollback("tiny", channel="staging", to=digest, reason="why", new_log=True, now=NOW, office=theirs)
    assert _log(office).entries == ()


def test_a_log_that_was_begun_again_before_the_tag_moved_is_completed(office: Office) -> None:
    store = _Dying()
    office = replace(office, registry=store, cosign=FakeCosign(store))
    first = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = _release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    for new_log in (True, False):
        _lose_the_log(office)
        store.broken = True
        with pytest.raises(RegistryError):
            rollback("tiny", channel="staging", to=first, reason="lost", new_log=True, now=NOW, office=office)
        store.broken = False
        assert _has(office, "staging") == second
        row = next(row for row in status(("tiny",), now=NOW, office=office) if row.channel == "staging")
        assert row.problems == ("unfinished",)
        entry = rollback("tiny", channel="staging", to=first, reason="lost", new_log=new_log, now=NOW, office=office)
        assert (_log(office).entries, _has(office, "staging")) == ((entry,), first)
        found = store.manifest(office.repository("staging", "tiny"), second)
        assert found
        store.put_manifest(office.repository("staging", "tiny"), "staging", found)


def test_a_cosign_that_fails_loses_no_log_and_brings_nothing_again(office: Office) -> None:
    """What could not be looked at is neither lost nor damaged."""

    class Failing(FakeCosign):
        def verifies(self, *_: Any, **__: Any) -> bool:
            raise CosignError("cosign verify-blob could not find out who signed")

    digest = _release(office)
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
    assert len(_log(office).entries) == 1


@pytest.mark.parametrize("content", [b"{}", b"[" * 100_000])
def test_signatures_that_nobody_can_read_are_brought_again(office: Office, content: bytes) -> None:
    """cosign would tell of them in its own words; here it is damage, and can be made good."""

    class Strict(FakeCosign):
        def signatures(self, reference: str, *, by: Identity) -> tuple[dict[str, Any], ...]:
            try:
                return super().signatures(reference, by=by)
            except ContentError as error:
                raise CosignError("cosign verify could not find out who signed") from error

    digest = _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store = office.registry
    assert isinstance(store, FakeRegistry)
    nonsense = Manifest(media_type="text/plain", content=content)
    store.put_manifest(office.repository("staging", "tiny"), attached(digest, "sig"), nonsense)
    assert promote("tiny", to="staging", now=NOW, office=replace(office, cosign=Strict(store)))
    assert promote("tiny", to="production", now=NOW, office=office)


def test_nothing_comes_from_an_empty_channel(office: Office) -> None:
    with pytest.raises(PromoteError, match="there is nothing in releases"):
        promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b"[" * 100_000),
        *(b'{"payload": 7}', b'{"payload": "e30="}', b'{"payload": "eyJzdWJqZWN0IjpbM119"}'),
    ],
)
def test_what_is_no_attestation_is_refused_as_one(office: Office, content: bytes) -> None:
    digest = _release(office)
    where = office.repository(RELEASES, "tiny")
    found = office.registry.manifest(where, attached(digest, "att"))
    assert found
    blob = office.registry.put_blob(where, content, media_type="dsse")
    store = office.registry
    store.put_manifest(where, attached(digest, "att"), manifest(found.config, (*found.layers[1:], blob)))
    with pytest.raises(PromoteError, match="evidence-of-another-digest"):
        promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize("signatures", [None, [], [7], [{}], [{"sig": "https://example.com"}], [{"sig": "AAAA"}]])
def test_a_log_whose_newest_entry_is_not_signed_is_broken(office: Office, signatures: object) -> None:
    _release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    store, where = office.registry, office.repository("staging", "tiny")
    found = store.manifest(where, logs.TAG)
    assert found
    document = json.loads(store.blob(where, found.layers[0].digest)) | {"signatures": signatures}
    blob = store.put_blob(where, json.dumps(document).encode(), media_type="dsse")
    store.put_manifest(where, logs.TAG, manifest(found.config, (blob,)))
    assert [problem.rule for problem in _log(office).problems] == ["log-signature"]
