"""Rollbacks, and logs that are lost and begun again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import PromoteError, RegistryError, VerifyError
from pipeline.evidence import RELEASES
from pipeline.oci import Manifest, Repository
from pipeline.promote import log as logs
from pipeline.promote import promote
from pipeline.promote.drift import drift
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.status import status
from pipeline.verify import verify
from tests.unit.evidence_values import NOW
from tests.unit.fake_registry import FakeCosign, FakeRegistry
from tests.unit.promote.offices import dying, log_of, lose_the_log, release, tagged


def test_what_was_there_before_is_put_back_and_the_reason_kept(office: Office) -> None:
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    assert tagged(office, "staging") == second
    entry = rollback("tiny", channel="staging", reason="it is slower", now=NOW, office=office)
    assert (entry.digest, entry.reason, entry.sequence) == (first, "it is slower", 3)
    assert tagged(office, "staging") == first
    assert [each.action for each in log_of(office).entries] == ["promote", "promote", "rollback"]
    with pytest.raises(PromoteError, match="the log has no sha256:77 to go back to"):
        rollback("tiny", channel="staging", to="sha256:77", reason="why not", now=NOW, office=office)
    with pytest.raises(PromoteError, match="needs a reason"):
        rollback("tiny", channel="staging", reason=" ", now=NOW, office=office)


def test_a_rollback_goes_back_to_nothing_that_was_put_away(office: Office) -> None:
    digests = [release(office, content) for content in (b"one", b"two", b"three")]
    for content in (b"one", b"two", b"three"):
        release(office, content)
        promote("tiny", to="staging", now=NOW, office=office)
    back = [rollback("tiny", channel="staging", reason="slower", now=NOW, office=office).digest for _ in range(2)]
    assert back == [digests[1], digests[0]]
    with pytest.raises(PromoteError, match="no digest before the current one"):
        rollback("tiny", channel="staging", reason="slower", now=NOW, office=office)
    assert rollback("tiny", channel="staging", to=digests[1], reason="it was the data", now=NOW, office=office)
    release(office, b"three")
    promote("tiny", to="staging", now=NOW, office=office)
    release(office, b"two")
    promote("tiny", to="staging", now=NOW, office=office)
    # Promoted once more, it is good again.
    assert rollback("tiny", channel="staging", reason="slower", now=NOW, office=office).digest == digests[2]


def test_a_promotion_that_may_not_be_repeated_any_more_is_completed_as_a_rollback(office: Office) -> None:
    first = release(office, b"one")
    for to in ("staging", "production"):
        promote("tiny", to=to, now=NOW, office=office)
    second = release(office, b"two")
    promote("tiny", to="staging", now=NOW, office=office)
    with dying(office, "production"):
        promote("tiny", to="production", now=NOW, office=office)
    assert tagged(office, "production") == first
    third = release(office, b"three")
    promote("tiny", to="staging", now=NOW, office=office)
    with pytest.raises(PromoteError, match=f"has {third} now"):
        promote("tiny", to="production", digest=second, now=NOW, office=office)
    where = office.repository("production", "tiny")
    (told,) = drift(log_of(office, "production"), first, at=where, channel="production")
    assert f"`inv rollback --model tiny --channel production --to {second} --reason WHY`" in told.fix
    rollback("tiny", channel="production", to=second, reason="it broke off", now=NOW, office=office)
    assert tagged(office, "production") == second
    assert drift(log_of(office, "production"), second, at=where, channel="production") == ()


def test_a_lost_log_is_not_healed_by_itself(office: Office) -> None:
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    promote("tiny", to="production", now=NOW, office=office)
    lose_the_log(office)
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
    assert log_of(office).entries == ()


@pytest.mark.parametrize("how", ["deleted", "nonsense", "entries gone", "first entry gone"])
def test_a_lost_log_is_begun_again_by_whom_says_why(
    office: Office, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    lose_the_log(office, how)
    store, where = office.registry, office.repository("staging", "tiny")
    left = store.manifest(where, logs.TAG)
    with pytest.raises(PromoteError, match="needs a reason"):
        rollback("tiny", channel="staging", to=first, reason="", new_log=True, now=NOW, office=office)
    with pytest.raises(PromoteError, match=f"a digest that you vouch for.*staging names {second} now"):
        rollback("tiny", channel="staging", reason="the disk broke", new_log=True, now=NOW, office=office)
    assert store.manifest(where, logs.TAG) == left

    entry = rollback("tiny", channel="staging", to=first, reason="the disk broke", new_log=True, now=NOW, office=office)
    assert (entry.sequence, entry.action, entry.digest, entry.reason) == (1, "begin", first, "the disk broke")
    log = log_of(office)
    assert (log.entries, log.problems, tagged(office, "staging")) == ((entry,), (), first)
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
    assert [each.sequence for each in log_of(office).entries] == [1, 2]
    assert rollback("tiny", channel="staging", reason="slower", now=NOW, office=office).digest == first


def test_what_a_log_says_is_no_terminals_command(office: Office) -> None:
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    lose_the_log(office)
    reason = "lost\n\x1b[2Ktiny production in order"
    rollback("tiny", channel="staging", to=digest, reason=reason, new_log=True, now=NOW, office=office)
    assert log_of(office).begun.endswith(r"by me@here: lost\n\x1b[2Ktiny production in order")
    row = next(row for row in status(("tiny",), now=NOW, office=office) if row.channel == "staging")
    assert row.begun

    class Refusing(FakeCosign):
        """Finds no signature of the log's."""

        def verifies(self, *_: object, **__: object) -> bool:
            return False

    assert isinstance(office.registry, FakeRegistry)
    office = replace(office, cosign=Refusing(office.registry))
    row = next(row for row in status(("tiny",), now=NOW, office=office) if row.channel == "staging")
    assert (row.begun, "log-signature" in row.problems) == ("", True)


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
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    where = office.repository("staging", "tiny")
    lose_the_log(office, "first entry gone")
    broken = store.manifest(where, logs.TAG)
    with pytest.raises(RegistryError, match="refuses PUT"):
        rollback("tiny", channel="staging", to=digest, reason="why", new_log=True, now=NOW, office=office)
    assert store.manifest(where, logs.TAG) == broken
    lose_the_log(office, "entries gone")
    rollback("tiny", channel="staging", to=digest, reason="why", new_log=True, now=NOW, office=office)
    assert [each.action for each in log_of(office).entries] == ["begin"]


def test_a_log_that_is_whole_is_not_begun_again(office: Office) -> None:
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    with pytest.raises(PromoteError, match="the log is there and whole, with 1 entries"):
        rollback("tiny", channel="staging", to=digest, reason="a drill", new_log=True, now=NOW, office=office)
    lose_the_log(office)
    rollback("tiny", channel="staging", to=digest, reason="a drill", new_log=True, now=NOW, office=office)
    with pytest.raises(PromoteError, match="the log is there and whole, with 1 entries"):
        rollback("tiny", channel="staging", to=digest, reason="again", new_log=True, now=NOW, office=office)
    assert len(log_of(office).entries) == 1


def test_only_what_a_signer_signed_for_the_channel_begins_a_log(office: Office, tmp_path: Path) -> None:
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    other = release(office, b"other weights")
    lose_the_log(office)
    with pytest.raises(VerifyError, match="the registry has nothing with this digest"):
        rollback("tiny", channel="staging", to=other, reason="why", new_log=True, now=NOW, office=office)
    office.cosign.copy(office.repository(RELEASES, "tiny").at(other), f"{office.repository('staging', 'tiny')}:x")
    with pytest.raises(PromoteError, match="signature-of-another-place"):
        rollback("tiny", channel="staging", to=other, reason="why", new_log=True, now=NOW, office=office)
    (tmp_path / "cosign.pub").write_bytes(b"theirs")
    theirs = replace(office, key=tmp_path / "cosign.key")
    with pytest.raises(PromoteError, match="none of the signers of staging"):
        rollback("tiny", channel="staging", to=digest, reason="why", new_log=True, now=NOW, office=theirs)
    assert log_of(office).entries == ()


def test_a_log_that_was_begun_again_before_the_tag_moved_is_completed(office: Office) -> None:
    store, staging = office.registry, office.repository("staging", "tiny")
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    for new_log in (True, False):
        lose_the_log(office)
        with dying(office, "staging"):
            rollback("tiny", channel="staging", to=first, reason="lost", new_log=True, now=NOW, office=office)
        assert tagged(office, "staging") == second
        row = next(row for row in status(("tiny",), now=NOW, office=office) if row.channel == "staging")
        assert row.problems == ("unfinished",)
        entry = rollback("tiny", channel="staging", to=first, reason="lost", new_log=new_log, now=NOW, office=office)
        assert (log_of(office).entries, tagged(office, "staging")) == ((entry,), first)
        found = store.manifest(staging, second)
        assert found
        store.put_manifest(staging, "staging", found)
