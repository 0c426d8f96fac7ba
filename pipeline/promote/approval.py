"""Approvals: signatures that a digest, with the evidence that it has, may go to a channel."""

from collections.abc import Iterator

from pipeline.artifacts import Finding
from pipeline.errors import PromoteError
from pipeline.evidence import APPROVES, EVIDENCE, Evidence, finding, told
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge
from pipeline.policy import Channel
from pipeline.promote.lock import hold
from pipeline.promote.office import Office, is_among
from pipeline.signing import Cosign, Key, me


def approve(model: str, *, to: str, digest: str = "", office: Office) -> str:
    """Signs that a digest, with what is attached to it now, may go to a channel; returns the digest.

    It is signed with our key where it comes from, and has to verify there. What else the channel asks of it is judged
    when it is promoted.

    Raises:
        PromoteError: the channel before has no image, it does not verify, or nobody asks for our approval.
    """
    channel = office.policy.channel(to)
    source = office.repository(channel.source, model)
    digest = digest or office.current(channel.source, model)
    evidence = collect(source, digest, signers=channel.signers, registry=office.registry, cosign=office.cosign)
    if findings := (*judge(evidence, channel=channel.source), *_unasked(office.key, channel)):
        raise PromoteError(told(f"{model} {digest} cannot be approved for {to}", findings))
    # cosign reads all signatures and writes them with ours: nobody else may do so in between.
    with hold(source, office.holder, registry=office.registry):
        notes = {APPROVES: to, EVIDENCE: evidence.bound}
        office.cosign.sign(source.at(digest), key=office.key, annotations=notes)
        given = set(approvals(evidence, channel, office.cosign))
    if not any(each.name in given for each in channel.approvers if is_among(office.key, (each,))):
        raise PromoteError(f"{source.at(digest)}: the approval is not there afterwards. Give it again.")
    return digest


def approvals(evidence: Evidence, channel: Channel, cosign: Cosign) -> Iterator[str]:
    """The approvers whose approval of a digest and its evidence for a channel verifies, by name."""
    given = {APPROVES: channel.name, EVIDENCE: evidence.bound}
    for approver in channel.approvers:
        for each in cosign.signatures(evidence.repository.at(evidence.digest), by=approver):
            place, notes = each["critical"]["identity"]["docker-reference"], each.get("optional") or {}
            if place == str(evidence.repository) and given.items() <= notes.items():
                yield approver.name


def _unasked(key: Key, channel: Channel) -> Iterator[Finding]:
    """An approval that nobody asks for would only look like one."""
    if not channel.approvers or not is_among(key, channel.approvers):
        asked = ", ".join(each.name for each in channel.approvers) or "nobody"
        text = f"is who would approve, and {channel.name} asks for the approval of {asked}"
        cure = "Add it in promotion.toml to [signers] and to the channel's approvers, or have one of them do it."
        yield finding("not-an-approver", me(key).shown, text, cure)
