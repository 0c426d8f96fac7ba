"""Channels whose tag, log and evidence do not agree, as status and later promotions see them."""

from dataclasses import replace

import pytest

from pipeline.artifacts import Finding
from pipeline.errors import PromoteError, VerifyError
from pipeline.evidence import RELEASES
from pipeline.evidence.collecting import attached
from pipeline.oci import Manifest
from pipeline.promote import log as logs
from pipeline.promote import promote
from pipeline.promote.drift import drift
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback
from pipeline.status import status
from pipeline.verify import verify
from tests.unit.evidence_values import NOW
from tests.unit.promote.offices import log_of, lose_the_log, release, tagged


def test_a_moved_tag_is_drift_and_stops_what_builds_on_it(office: Office) -> None:
    release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    other = release(office, b"other weights")
    where = office.repository("staging", "tiny")
    found = office.registry.manifest(office.repository(RELEASES, "tiny"), other)
    assert found
    office.registry.put_manifest(where, "staging", found)
    for to in ("staging", "production"):
        with pytest.raises(PromoteError, match="the tag was moved behind our back"):
            promote("tiny", to=to, now=NOW, office=office)


def test_older_evidence_that_is_put_back_is_noticed(office: Office) -> None:
    """It verifies in all that it says: only the log knows that it is no longer what was promoted."""
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    where = office.repository("staging", "tiny")
    older = {what: office.registry.manifest(where, attached(digest, what)) for what in ("att", "sig")}
    release(office, judged="2026-11-25T11:30:00Z")
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


def test_what_its_log_does_not_know_does_not_verify(office: Office) -> None:
    """Without it, nobody can tell whether the evidence is that of its promotion."""
    digest = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    lose_the_log(office)
    signers, where = tuple(office.policy.signers.values()), office.repository("staging", "tiny")
    with pytest.raises(VerifyError, match=r"(?s)1 to mend.*log-unknown"):
        verify(where.at(digest), signers=signers, registry=office.registry, cosign=office.cosign)
    where = office.repository("releases", "tiny")
    assert verify(where.at(digest), signers=signers, registry=office.registry, cosign=office.cosign)


def test_a_row_that_nobody_can_read_is_a_row_alone(office: Office) -> None:
    release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    nonsense = Manifest(media_type="text/plain", content=b"[]")
    office.registry.put_manifest(office.repository("staging", "tiny"), logs.TAG, nonsense)
    rows = {row.channel: row for row in status(("tiny",), now=NOW, office=office)}
    assert "is no manifest of an image" in rows["staging"].line()
    assert rows["releases"].problems == ()
    shown = rows["releases"].line()
    assert "check passed 0.0 d, audit passed 0.0 d, smoke passed 0.0 d" in shown
    assert shown.endswith("in order")


def test_drift_is_a_tag_that_the_log_does_not_end_with(office: Office) -> None:
    release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    log = log_of(office)
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
    first = release(office)
    promote("tiny", to="staging", now=NOW, office=office)
    second = release(office, b"other weights")
    promote("tiny", to="staging", now=NOW, office=office)
    store, where = office.registry, office.repository("staging", "tiny")

    def put_back(digest: str) -> Finding:
        found = store.manifest(where, digest)
        assert found
        store.put_manifest(where, "staging", found)
        (told,) = drift(log_of(office), digest, at=where, channel="staging")
        assert told.rule == "unfinished"
        assert "was not finished, or the tag was moved back behind our back" in told.message
        assert "If nobody's run broke off at 2026-11-25T12:00:00Z, when me@here wrote that entry, find out" in told.fix
        return told

    assert f"`inv promote --model tiny --to staging --digest {second}`" in put_back(first).fix
    assert promote("tiny", to="staging", digest=second, now=NOW, office=office)
    assert (tagged(office, "staging"), len(log_of(office).entries)) == (second, 2)
    rollback("tiny", channel="staging", reason="slower", now=NOW, office=office)
    told = put_back(second)
    assert f"`inv rollback --model tiny --channel staging --to {first} --reason WHY`" in told.fix
    rollback("tiny", channel="staging", to=first, reason="the tag was moved", now=NOW, office=office)
    assert (tagged(office, "staging"), len(log_of(office).entries)) == (first, 3)


def test_a_row_is_one_line_whatever_an_image_says(office: Office) -> None:
    release(office)
    row = next(status(("tiny",), now=NOW, office=office))
    line = replace(row, version="1\x1b[2K", trouble="a\nb").line()
    assert line.isprintable()
    assert (r"1\x1b[2K" in line, line.endswith(r"a\nb")) == (True, True)
