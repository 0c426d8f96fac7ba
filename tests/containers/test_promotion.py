"""Promotions with real registries and real cosign, and every attack on them refused in its own words.

Each test works in channels of its own, into which it promotes the one release that all share.
"""

import base64
import gzip
import json
import os
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
import pytest

from pipeline import images, pins, policy, registry
from pipeline.artifacts import Release
from pipeline.engine.credentials import credentials
from pipeline.engine.docker import DockerEngine
from pipeline.errors import PipelineError, PromoteError, RegistryError
from pipeline.evidence import (
    CHANNEL,
    EVIDENCE,
    PROVENANCE,
    TEST_RESULT,
    binding,
)
from pipeline.evidence.collecting import attached
from pipeline.keys import keys
from pipeline.oci import DOCKER_MANIFEST, Blob, Manifest, Repository, digest_of, manifest
from pipeline.oci.http import HttpRegistry
from pipeline.promote import log as logs
from pipeline.promote import promote
from pipeline.promote.approval import approve
from pipeline.promote.lock import Holder, hold, machine
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.release import Desk
from pipeline.settings import HOME
from pipeline.signing import Identity, Key, ToolCosign, attested, envelope, me
from pipeline.status import status
from pipeline.verify import verify
from tests.containers.conftest import REGISTRIES

NAME = "tiny"


@pytest.fixture(scope="session")
def stranger(cosign: ToolCosign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("stranger") / "cosign.key"
    keys(private, cosign=cosign)
    return private


@dataclass(frozen=True, slots=True, kw_only=True)
class Yard:
    """The channels of one test: staging in the first registry, production in the second."""

    office: Office
    digest: str

    def repository(self, channel: str) -> Repository:
        return self.office.repository(channel, NAME)

    def promote(self, to: str, **options: Any) -> logs.Entry | None:
        return promote(NAME, to=to, office=self.office, **{"now": datetime.now(UTC)} | options)

    def tag(self, channel: str) -> str | None:
        found = self.office.registry.manifest(self.repository(channel), channel)
        return found.digest if found else None


def _named_after(request: pytest.FixtureRequest) -> str:
    """What a repository of a test is called."""
    return re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")


@pytest.fixture
def yard(released: Release, desk: Desk, tmp_path: Path, request: pytest.FixtureRequest) -> Yard:
    """Channels named after the test."""
    name = _named_after(request)
    text = (HOME / "promotion.toml").read_text()
    text = text.replace("~/.config/torchyard/cosign.pub", str(me(desk.key).key))
    text = text.replace("127.0.0.1:5000/staging", f"127.0.0.1:{REGISTRIES[0]}/{name}/staging")
    text = text.replace("127.0.0.1:5000/production", f"127.0.0.1:{REGISTRIES[1]}/{name}/production")
    (tmp_path / "promotion.toml").write_text(text)
    office = Office(
        policy=policy.load(tmp_path / "promotion.toml"),
        releases=f"127.0.0.1:{REGISTRIES[0]}/releases",
        registry=desk.registry,
        cosign=desk.cosign,
        key=desk.key,
        holder=Holder(name="somebody@here", process=os.getpid(), machine=machine()),
    )
    return Yard(office=office, digest=released.digest)


def test_from_release_to_production_and_back(yard: Yard) -> None:
    assert yard.promote("staging", dry_run=True) is None
    assert yard.tag("staging") is None
    first = yard.promote("staging")
    assert first
    assert (first.sequence, first.previous) == (1, "")
    assert yard.promote("staging") is None
    assert yard.promote("production")
    assert yard.tag("staging") == yard.tag("production") == yard.digest
    with pytest.raises(PromoteError, match="the log has no digest before the current one to go back to"):
        rollback(NAME, channel="production", reason="it smells", now=datetime.now(UTC), office=yard.office)
    entry = rollback(
        NAME, channel="production", to=yard.digest, reason="a drill", now=datetime.now(UTC), office=yard.office
    )
    assert (entry.sequence, entry.reason) == (2, "a drill")
    rows = {row.channel: row for row in status((NAME,), now=datetime.now(UTC), office=yard.office)}
    assert {name: row.problems for name, row in rows.items()} == {"releases": (), "staging": (), "production": ()}
    assert rows["production"].digest == yard.digest
    assert rows["production"].signers == ("local",)


def _refused(yard: Yard, to: str = "staging", **options: Any) -> str:
    with pytest.raises(PipelineError) as refused:
        yard.promote(to, **options)
    assert yard.tag(to) != yard.digest
    return str(refused.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forger:
    """Somebody who can write to the registry, and has a key of his own."""

    yard: Yard
    key: Path

    @property
    def source(self) -> Repository:
        """A copy of the release, in releases of this test's own."""
        return self.yard.repository("releases")

    def put(self, what: str, *layers: Blob) -> None:
        """Puts other layers in the place of what is attached, with a configuration that fits."""
        store = self.yard.office.registry
        document = {"rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]}}
        kind = self.attachments(what).config.media_type
        config = store.put_blob(self.source, json.dumps(document).encode(), media_type=kind)
        store.put_manifest(self.source, attached(self.yard.digest, what), manifest(config, layers))

    def attachments(self, what: str) -> Manifest:
        found = self.yard.office.registry.manifest(self.source, attached(self.yard.digest, what))
        assert found
        return found

    def statements(self) -> list[bytes]:
        """What is attested of the release."""
        store = self.yard.office.registry
        envelopes = [store.blob(self.source, layer.digest) for layer in self.attachments("att").layers]
        return [base64.b64decode(json.loads(each)["payload"]) for each in envelopes]

    def sign(self, digest: str, statements: list[bytes], key: Key) -> None:
        bound = binding(tuple(digest_of(each).removeprefix("sha256:") for each in statements))
        notes = {CHANNEL: "releases", EVIDENCE: bound}
        self.yard.office.cosign.sign(self.source.at(digest), key=key, annotations=notes)

    def release(self, digest: str, statements: list[dict[str, Any]]) -> None:
        """Attests these of a digest, with our key, in the place of all that was, and signs it."""
        office, encoded, layers = self.yard.office, [json.dumps(each).encode() for each in statements], []
        for each, layer in zip(encoded, self.attachments("att").layers, strict=True):
            content, notes = attested(each, cosign=office.cosign, key=office.key)
            blob = office.registry.put_blob(self.source, content, media_type=layer.media_type)
            layers.append(replace(blob, annotations=notes))
        made = manifest(self.attachments("att").config, tuple(layers))
        office.registry.put_manifest(self.source, attached(digest, "att"), made)
        self.sign(digest, encoded, office.key)


@pytest.fixture
def forger(yard: Yard, stranger: Path, request: pytest.FixtureRequest) -> Forger:
    """With the release copied, unsigned, to releases of this test's own, where it is signed again with our key."""
    name = _named_after(request)
    office = replace(yard.office, releases=f"127.0.0.1:{REGISTRIES[0]}/{name}/releases")
    forged = Forger(yard=replace(yard, office=office), key=stranger)
    original = yard.repository("releases")
    office.cosign.copy(original.at(yard.digest), f"{forged.source}:releases")
    return forged


def _sign(forger: Forger, key: Key) -> None:
    forger.sign(forger.yard.digest, forger.statements(), key)


def test_a_signature_copied_from_another_repository_is_refused(forger: Forger) -> None:
    told = _refused(forger.yard)
    assert "signature-of-another-place" in told
    assert "releases/tiny as releases, and not for this repository" in told


def test_a_signature_copied_from_another_stage_is_refused(yard: Yard) -> None:
    """First with the repository that it was made for, as of another channel there; then into production's."""
    yard.promote("staging")
    office, staging = yard.office, yard.repository("staging")
    channel = office.policy.channel("production")
    there = replace(channel, folder=office.policy.channel("staging").folder)
    moved = replace(office, policy=replace(office.policy, channels={**office.policy.channels, "production": there}))
    with pytest.raises(PromoteError, match=rf"signature-of-another-place(.|\n)*is signed for {staging} as staging"):
        rollback(NAME, channel="production", to=yard.digest, reason="an attack", now=datetime.now(UTC), office=moved)
    office.cosign.copy(staging.at(yard.digest), f"{yard.repository('production')}:production")
    row = next(row for row in status((NAME,), now=datetime.now(UTC), office=office) if row.channel == "production")
    assert (row.digest, row.problems) == (yard.digest, ("signature-of-another-place", "log-lost"))


def test_an_unsigned_image_is_refused(forger: Forger) -> None:
    forger.put("sig")
    assert "unsigned: " in _refused(forger.yard)


def test_a_signature_by_another_key_is_refused(forger: Forger) -> None:
    forger.put("sig")
    _sign(forger, forger.key)
    assert "signature-by-another-key" in _refused(forger.yard)


def test_an_attestation_that_is_removed_duplicated_or_changed_is_refused(forger: Forger) -> None:
    _sign(forger, forger.yard.office.key)
    whole, store = forger.attachments("att"), forger.yard.office.registry
    assert forger.yard.promote("staging", dry_run=True) is None

    forger.put("att", *whole.layers[:-1])
    told = _refused(forger.yard)
    assert f"evidence-missing: {TEST_RESULT} smoke" in told
    assert "evidence-changed" in told

    forger.put("att", *whole.layers, whole.layers[-1])
    told = _refused(forger.yard)
    assert f"evidence-duplicated: {TEST_RESULT} smoke" in told

    statement = base64.b64decode(json.loads(store.blob(forger.source, whole.layers[-1].digest))["payload"])
    better = statement.replace(b'"WARNED"', b'"PASSED"').replace(b'"at":"20', b'"at":"19')
    forged = envelope(better, cosign=forger.yard.office.cosign, key=forger.key)
    blob = store.put_blob(forger.source, forged, media_type=whole.layers[-1].media_type)
    forger.put("att", *whole.layers[:-1], blob)
    told = _refused(forger.yard)
    assert f"evidence-signature: {TEST_RESULT} smoke" in told

    elsewhere = statement.replace(forger.yard.digest.removeprefix("sha256:").encode(), b"e" * 64)
    copied = envelope(elsewhere, cosign=forger.yard.office.cosign, key=forger.yard.office.key)
    blob = store.put_blob(forger.source, copied, media_type=whole.layers[-1].media_type)
    forger.put("att", *whole.layers[:-1], blob)
    told = _refused(forger.yard)
    assert "evidence-of-another-digest" in told
    assert f"is about sha256:{'e' * 64} and was copied here" in told


def test_a_verdict_that_is_too_old_is_refused(yard: Yard) -> None:
    told = _refused(yard, now=datetime.now(UTC) + timedelta(days=31))
    assert told.count("verdict-too-old") == 3
    assert "staging takes none older than 30 days" in told


def test_a_stage_cannot_be_skipped(yard: Yard) -> None:
    assert "there is nothing in staging, so nothing can come from there" in _refused(yard, "production")
    told = _refused(yard, "production", digest="sha256:" + "f" * 64)
    assert "the registry has nothing with this digest" in told


def _swapped(forger: Forger, document: dict[str, Any]) -> str:
    """What a promotion says to another manifest in the release's place, with all that hung on that."""
    store = forger.yard.office.registry
    swapped = Manifest(media_type=DOCKER_MANIFEST, content=json.dumps(document).encode())
    store.put_manifest(forger.source, "releases", swapped)
    for what in ("sig", "att"):
        store.put_manifest(forger.source, attached(swapped.digest, what), forger.attachments(what))
    return _refused(forger.yard)


def test_a_swapped_archive_is_refused(forger: Forger) -> None:
    """The layer is exchanged and the manifest follows, and then the configuration as well."""
    store, digest = forger.yard.office.registry, forger.yard.digest
    found = store.manifest(forger.source, digest)
    assert found
    other = BytesIO()
    with tarfile.open(fileobj=other, mode="w:gz") as layer:
        member = tarfile.TarInfo("model/model.pt")
        member.size = 4
        layer.addfile(member, BytesIO(b"evil"))
    blob = store.put_blob(forger.source, other.getvalue(), media_type=found.layers[-1].media_type)
    document = json.loads(found.content)
    document["layers"][-1] |= {"digest": blob.digest, "size": blob.size}
    told = _swapped(forger, document)
    assert f"content: {forger.source}" in told
    assert f"{blob.digest} unpacks to sha256:" in told

    # Whoever does it well changes the configuration, too.
    config = json.loads(store.blob(forger.source, found.config.digest))
    config["rootfs"]["diff_ids"][-1] = digest_of(gzip.decompress(other.getvalue()))
    put = store.put_blob(forger.source, json.dumps(config).encode(), media_type=found.config.media_type)
    document["config"] |= {"digest": put.digest, "size": put.size}
    told = _swapped(forger, document)
    assert "archive: " in told
    assert "the archive inside is" in told
    assert "evidence-of-another-digest" in told
    assert "unsigned" in told or "signature-by-another-key" in told


def test_bytes_changed_on_the_registrys_disk_are_noticed(released: Release, forger: Forger) -> None:
    layer = forger.yard.office.registry.manifest(forger.source, released.digest)
    assert layer
    digest = layer.layers[-1].digest.removeprefix("sha256:")
    path = f"/var/lib/registry/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}"
    client = docker.from_env()
    container = client.containers.get(f"torchyard-registry-{REGISTRIES[0]}")
    chunks, _ = container.get_archive(f"{path}/data")
    original = b"".join(chunks)
    forged = BytesIO()
    with tarfile.open(fileobj=forged, mode="w") as archive:
        member = tarfile.TarInfo("data")
        member.size, member.uid, member.gid = layer.layers[-1].size, 65532, 65532
        archive.addfile(member, BytesIO(b"\0" * member.size))
    try:
        assert container.put_archive(path, forged.getvalue())
        told = _refused(forger.yard)
    finally:
        container.put_archive(path, original)
        client.close()
    assert "content: " in told
    assert "the registry gives something else, with the digest sha256:" in told


def test_a_tag_moved_behind_our_back_is_refused_and_put_right(yard: Yard, released: Release) -> None:
    yard.promote("staging")
    store, where = yard.office.registry, yard.repository("staging")
    found = store.manifest(where, released.digest)
    assert found
    other = Manifest(media_type=found.media_type, content=found.content + b"\n")
    store.put_manifest(where, "staging", other)
    told = _refused(yard, "production", digest=yard.digest)
    assert f"names {other.digest}, and the log says {yard.digest}: the tag was moved behind our back" in told
    row = next(row for row in status((NAME,), now=datetime.now(UTC), office=yard.office) if row.channel == "staging")
    assert "drift" in row.problems
    now = datetime.now(UTC)
    rollback(NAME, channel="staging", to=yard.digest, reason="the tag was moved", now=now, office=yard.office)
    assert yard.tag("staging") == yard.digest
    assert yard.promote("production", dry_run=True) is None


def test_a_changed_log_is_refused(yard: Yard) -> None:
    yard.promote("staging")
    now = datetime.now(UTC)
    rollback(NAME, channel="staging", to=yard.digest, reason="the true reason", now=now, office=yard.office)
    store, where = yard.office.registry, yard.repository("staging")
    whole = store.manifest(where, logs.TAG)
    assert whole

    def forged(number: int) -> Manifest:
        document = json.loads(store.blob(where, whole.layers[number].digest))
        statement = base64.b64decode(document["payload"]).replace(b"somebody@here", b"nobody@there!")
        document["payload"] = base64.b64encode(statement).decode()
        blob = store.put_blob(where, json.dumps(document).encode(), media_type=whole.layers[0].media_type)
        layers = (*whole.layers[:number], blob, *whole.layers[number + 1 :])
        return manifest(whole.config, layers)

    store.put_manifest(where, logs.TAG, forged(0))
    assert "log-chain: " in _refused(yard, "production")
    store.put_manifest(where, logs.TAG, forged(1))
    assert "log-signature: " in _refused(yard, "production")
    store.put_manifest(where, logs.TAG, manifest(whole.config, whole.layers[1:]))
    assert "log-chain: " in _refused(yard, "production")
    store.put_manifest(where, logs.TAG, whole)
    assert yard.promote("production", dry_run=True) is None


def test_a_lost_log_is_begun_again_by_whom_says_why(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    yard.promote("staging")
    store, where, now = yard.office.registry, yard.repository("staging"), datetime.now(UTC)
    whole = store.manifest(where, logs.TAG)
    assert whole
    # Our registry deletes nothing; a log without an entry is as good as none.
    lost = manifest(whole.config, ())
    store.put_manifest(where, logs.TAG, lost)
    with pytest.raises(PromoteError, match=r"(?s)log-lost.*it was lost.*inv rollback --new-log"):
        yard.promote("staging")
    begin = partial(rollback, NAME, channel="staging", to=yard.digest, new_log=True, now=now, office=yard.office)
    with pytest.raises(PromoteError, match="needs a reason"):
        begin(reason="")
    entry = begin(reason="the disk broke")
    assert (entry.sequence, entry.action, entry.previous, entry.reason) == (1, "begin", "", "the disk broke")
    assert (_log(yard, "staging").entries, _log(yard, "staging").problems) == ((entry,), ())
    assert store.manifest(where, f"{logs.TAG}-{lost.digest.removeprefix('sha256:')}") == lost
    with pytest.raises(PromoteError, match="the log is there and whole"):
        begin(reason="again")
    row = next(row for row in status((NAME,), now=now, office=yard.office) if row.channel == "staging")
    assert (row.problems, row.begun) == ((), f"log begun again on {entry.at[:10]} by somebody@here: the disk broke")
    capsys.readouterr()
    signers = tuple(yard.office.policy.signers.values())
    verify(where.at(yard.digest), signers=signers, registry=store, cosign=yard.office.cosign)
    assert row.begun in capsys.readouterr().out
    assert yard.promote("staging") is None
    assert yard.promote("production", dry_run=True) is None


def _log(yard: Yard, channel: str) -> logs.Log:
    signers = yard.office.policy.channel(channel).signers
    return logs.read(
        yard.repository(channel), signers=signers, registry=yard.office.registry, cosign=yard.office.cosign
    )


def test_of_two_promotions_at_once_one_wins_and_nothing_is_lost(yard: Yard) -> None:
    def run(name: str) -> str:
        racer = replace(yard.office, holder=Holder(name=name, process=os.getpid(), machine=machine()))
        try:
            return str(promote(NAME, to="staging", now=datetime.now(UTC), office=racer))
        except PromoteError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        told = list(pool.map(run, ("one@here", "two@there")))
    lost = [each for each in told if "was first. Nothing of yours was done" in each]
    assert len(lost) <= 1
    log = _log(yard, "staging")
    assert (len(log.entries), log.problems) == (1, ())
    assert yard.tag("staging") == yard.digest


def test_who_holds_the_lock_keeps_others_out_until_he_is_gone(yard: Yard) -> None:
    where, store = yard.repository("staging"), yard.office.registry
    theirs = Holder(name="two@there", process=1, machine="there")
    with hold(where, theirs, registry=store) as still:
        with pytest.raises(PromoteError, match=r"two@there \(process 1\) is promoting or rolling back just now"):
            yard.promote("staging")
        still()
    # A run of ours that was killed left its lock behind.
    gone = replace(yard.office.holder, process=2**22 + 1)
    with hold(where, gone, registry=store) as still:
        assert yard.promote("staging")
        with pytest.raises(PromoteError, match="the lock is gone: another took it over and is done"):
            still()


def _twin(forger: Forger) -> str:
    """Another digest with the same image in it, released as well: its manifest has a line more."""
    store, where = forger.yard.office.registry, forger.source
    found = store.manifest(where, forger.yard.digest)
    assert found
    other = Manifest(media_type=found.media_type, content=found.content + b"\n")
    store.put_manifest(where, other.digest, other)
    subject = [{"name": str(where), "digest": {"sha256": other.digest.removeprefix("sha256:")}}]
    forger.release(other.digest, [each | {"subject": subject} for each in map(json.loads, forger.statements())])
    return other.digest


def test_of_two_digests_at_once_none_is_lost(forger: Forger) -> None:
    """Whoever comes second is refused, or comes after the first: the log has what was said to be done, and the tag is
    the newest of it."""
    _sign(forger, forger.yard.office.key)
    digests = (forger.yard.digest, _twin(forger))

    def run(number: int) -> logs.Entry | str:
        office = replace(forger.yard.office, holder=Holder(name=f"{number}@here", process=number, machine=str(number)))
        try:
            found = promote(NAME, to="staging", digest=digests[number], now=datetime.now(UTC), office=office)
        except PromoteError as error:
            return str(error)
        assert found
        return found

    with ThreadPoolExecutor() as pool:
        told = list(pool.map(run, (0, 1)))
    done = [each for each in told if isinstance(each, logs.Entry)]
    assert done
    assert all("was first. Nothing of yours was done" in each for each in told if isinstance(each, str))
    log = _log(forger.yard, "staging")
    assert ({entry.digest for entry in log.entries}, log.problems) == ({entry.digest for entry in done}, ())
    assert log.current
    assert forger.yard.tag("staging") == log.current.digest
    # Whoever was refused goes on from there.
    behind = next(digest for digest in digests if digest != log.current.digest)
    entry = forger.yard.promote("staging", digest=behind)
    assert entry
    assert (entry.sequence, forger.yard.tag("staging")) == (len(log.entries) + 1, behind)
    now = datetime.now(UTC)
    back = rollback(NAME, channel="staging", reason="slower", now=now, office=forger.yard.office)
    assert back.digest == forger.yard.tag("staging") == log.current.digest


class _Dying(HttpRegistry):
    """A registry that ends when it is about to be written to at this tag."""

    def __init__(self, engine: DockerEngine, port: int, tag: str) -> None:
        super().__init__(credentials)
        self._tag, self._stop = tag, partial(registry.stop, port, engine=engine)

    def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
        if name == self._tag:
            self._stop()
        super().put_manifest(repository, name, manifest)


class _DyingCopy(ToolCosign):
    """Ends the registry that it is about to copy to."""

    def copy(self, source: str, target: str) -> None:
        registry.stop(REGISTRIES[1], engine=self._engine)
        super().copy(source, target)


@pytest.mark.parametrize("moment", ["copy", logs.TAG, "production"])
def test_a_registry_that_dies_on_the_way_is_made_up_for(yard: Yard, engine: DockerEngine, moment: str) -> None:
    """Before the image is copied, before the log has it, and before the tag is moved."""
    yard.promote("staging")
    office = replace(yard.office, registry=_Dying(engine, REGISTRIES[1], moment))
    if moment == "copy":
        office = replace(
            office, cosign=_DyingCopy(engine=engine, tools=images.release_tools(pins.load(), engine=engine))
        )
    with pytest.raises(RegistryError, match="does not answer"):
        replace(yard, office=office).promote("production")
    registry.start(REGISTRIES[1], pins=pins.load(), engine=engine, registry=HttpRegistry(credentials))
    assert yard.tag("production") is None
    entry = yard.promote("production")
    assert entry
    assert (entry.sequence, yard.tag("production")) == (1, yard.digest)
    assert (len(_log(yard, "production").entries), _log(yard, "production").problems) == (1, ())


def test_whoever_has_to_approve_does_so_with_his_own_key(yard: Yard, stranger: Path) -> None:
    boss = Identity(name="boss", key=me(stranger).key)
    channels = dict(yard.office.policy.channels)
    channels["production"] = replace(channels["production"], approvers=(boss,))
    yard = replace(yard, office=replace(yard.office, policy=replace(yard.office.policy, channels=channels)))
    yard.promote("staging")
    assert "approval: boss" in _refused(yard, "production")
    with pytest.raises(PromoteError, match="production asks for the approval of boss"):
        approve(NAME, to="production", office=yard.office)
    assert approve(NAME, to="production", office=replace(yard.office, key=stranger)) == yard.digest
    # It is no signature for a place: what is approved verifies as before, also for those who do not know him.
    reference, signers = yard.repository("staging").at(yard.digest), tuple(yard.office.policy.signers.values())
    assert verify(reference, signers=signers, registry=yard.office.registry, cosign=yard.office.cosign)
    assert yard.promote("production")
    rows = {row.channel: row.problems for row in status((NAME,), now=datetime.now(UTC), office=yard.office)}
    assert rows == {"releases": (), "staging": (), "production": ()}


def test_older_evidence_that_is_put_back_is_noticed(forger: Forger) -> None:
    """It verifies in all that it says: only the log knows that it is no longer what was promoted."""
    _sign(forger, forger.yard.office.key)
    forger.yard.promote("staging")
    store, where = forger.yard.office.registry, forger.yard.repository("staging")
    older = {what: store.manifest(where, attached(forger.yard.digest, what)) for what in ("att", "sig")}
    # As after another `inv release` of the same image.
    statements = [json.loads(each) for each in forger.statements()]
    made = next(each for each in statements if each["predicateType"] == PROVENANCE)
    made["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2026-01-01T00:00:00Z"
    forger.release(forger.yard.digest, statements)
    assert forger.yard.promote("staging")
    for what, found in older.items():
        assert found
        store.put_manifest(where, attached(forger.yard.digest, what), found)
    assert "evidence-exchanged" in _refused(forger.yard, "production")
    assert forger.yard.promote("staging")
    assert forger.yard.promote("production")


def test_evidence_that_was_removed_from_a_channel_is_brought_again(yard: Yard) -> None:
    yard.promote("staging")
    where, name = yard.repository("staging"), attached(yard.digest, "att")
    found = yard.office.registry.manifest(where, name)
    assert found
    yard.office.registry.put_manifest(where, name, manifest(found.config, found.layers[1:]))
    with pytest.raises(PromoteError, match="evidence-missing"):
        yard.promote("production")
    entry = yard.promote("staging")
    assert entry
    assert entry.sequence == 2
    assert yard.promote("staging") is None
    assert yard.promote("production", dry_run=True) is None
