"""Approvals: what they count for, and whose are taken."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import PromoteError
from pipeline.evidence import RELEASES
from pipeline.evidence.collecting import attached
from pipeline.promote import promote
from pipeline.promote.approval import approve
from pipeline.promote.office import Office
from pipeline.verify import verify
from tests.unit.evidence_values import NOW
from tests.unit.promote.offices import asking_for_approval, drop_an_attestation, release


def test_an_approval_is_no_signature_for_a_place(office: Office) -> None:
    office = asking_for_approval(office)
    signers = tuple(office.policy.signers.values())
    reference = office.repository(RELEASES, "tiny").at(release(office))
    approve("tiny", to="staging", office=office)
    assert verify(reference, signers=signers, registry=office.registry, cosign=office.cosign)
    promote("tiny", to="staging", now=NOW, office=office)
    approve("tiny", to="production", office=office)
    reference = reference.replace("/releases/", "/staging/")
    assert verify(reference, signers=signers, registry=office.registry, cosign=office.cosign)


def test_an_approval_counts_for_its_channel_and_digest(office: Office) -> None:
    digest = release(office)
    office = asking_for_approval(office)
    with pytest.raises(PromoteError, match="approval: local"):
        promote("tiny", to="staging", now=NOW, office=office)
    assert approve("tiny", to="staging", office=office) == digest
    assert promote("tiny", to="staging", now=NOW, office=office)
    release(office, b"other weights")
    with pytest.raises(PromoteError, match="approval: local"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_an_approval_counts_for_the_evidence_that_it_was_given_for(office: Office) -> None:
    office = asking_for_approval(office)
    digest = release(office)
    assert approve("tiny", to="staging", office=office) == digest
    assert release(office, judged="2026-11-25T11:30:00Z") == digest
    with pytest.raises(PromoteError, match="approval: local"):
        promote("tiny", to="staging", now=NOW, office=office)
    approve("tiny", to="staging", office=office)
    assert promote("tiny", to="staging", now=NOW, office=office)


def test_only_what_verifies_is_approved_and_only_by_who_is_asked(office: Office, tmp_path: Path) -> None:
    digest = release(office)
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*staging asks for the approval of nobody"):
        approve("tiny", to="staging", office=office)
    asked = asking_for_approval(office)
    (tmp_path / "cosign.pub").write_bytes(b"somebody else's")
    with pytest.raises(PromoteError, match=r"(?s)1 to mend.*not-an-approver.*staging asks for the approval of local"):
        approve("tiny", to="staging", office=replace(asked, key=tmp_path / "cosign.key"))
    drop_an_attestation(asked, RELEASES, digest)
    with pytest.raises(PromoteError, match=r"cannot be approved for staging(.|\n)*evidence-missing"):
        approve("tiny", to="staging", office=asked)
    signatures = office.registry.manifest(office.repository(RELEASES, "tiny"), attached(digest, "sig"))
    assert signatures
    assert len(signatures.layers) == 1
