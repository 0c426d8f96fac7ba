"""A digest in a registry, judged again on a machine that has nothing but a public key."""

from pipeline.artifacts import Finding
from pipeline.errors import VerifyError
from pipeline.evidence import CHANNEL, RELEASES, Evidence, finding, told
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge
from pipeline.oci import Registry, Repository, parse
from pipeline.progress import say
from pipeline.promote import log as logs
from pipeline.promote.drift import exchanged
from pipeline.signing import Cosign, Identity


def verify(reference: str, *, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign) -> Evidence:
    """Checks all that can be checked without building anything: every byte of the image against its digest, the
    archive inside against its label, each attestation's signature and subject, each verdict's subject, that one
    signature made for this repository binds them all together, and in a channel that its log is there and knows it with
    these. Says so where that log was begun again.

    Raises:
        VerifyError: the reference names no digest, or something does not hold; the message lists everything at once.
        RegistryError: the registry does not answer.
    """
    repository, digest = parse(reference)
    if not digest.startswith("sha256:"):
        raise VerifyError(
            f"{reference} names no digest. A tag can mean something else tomorrow: "
            f"verify {repository}@sha256:<64 hex digits>, which `inv status` shows."
        )
    evidence = collect(repository, digest, signers=signers, registry=registry, cosign=cosign)
    # Where it was signed for is asked of the signature: anybody may verify an image of any channel.
    # An approval is signed for no place.
    signed = [each for each in evidence.signatures if CHANNEL in each.annotations]
    here = [each for each in signed if each.repository == str(repository)]
    channel = (here or signed)[-1].annotations[CHANNEL] if signed else ""
    log = logs.read(repository, signers=signers, registry=registry, cosign=cosign)
    known = next((entry for entry in reversed(log.entries) if entry.digest == digest), None)
    unknown = () if known or not here or channel in {"", RELEASES} else (_unknown(reference, repository),)
    if findings := (*judge(evidence, channel=channel), *log.problems, *exchanged(known, evidence), *unknown):
        raise VerifyError(told(f"{reference} does not verify", findings))
    if log.begun:
        say(f"  {repository}: {log.begun}")
    return evidence


def _unknown(reference: str, repository: Repository) -> Finding:
    text = f"the channel's log at {repository} does not know it: that was lost or put back, or promotion broke off"
    cure = "`inv status` shows what the log knows; promote it again, or restore the log."
    return finding("log-unknown", reference, text, cure)
