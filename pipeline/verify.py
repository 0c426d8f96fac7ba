"""A digest in a registry, judged again on a machine that has nothing but a public key."""

from pipeline.errors import VerifyError
from pipeline.evidence import CHANNEL, Evidence, told
from pipeline.evidence.collecting import collect
from pipeline.evidence.judging import judge
from pipeline.oci import Registry, parse
from pipeline.signing import Cosign, Identity


def verify(reference: str, *, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign) -> Evidence:
    """Checks all that can be checked without building anything: every byte of the image against its digest, the
    archive inside against its label, each attestation's signature and subject, each verdict's subject, and that one
    signature made for this repository binds them all together.

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
    for signer in signers:
        if signer.key and not signer.key.is_file():
            raise VerifyError(
                f"{signer.key}: there is no such public key. Get it from whoever signs, and not from here."
            )
    evidence = collect(repository, digest, signers=signers, registry=registry, cosign=cosign)
    # Where it was signed for is asked of the signature: anybody may verify an image of any channel.
    places = [each.annotations.get(CHANNEL, "") for each in evidence.signatures]
    here = [
        place for place, each in zip(places, evidence.signatures, strict=True) if each.repository == str(repository)
    ]
    if findings := judge(evidence, channel=(here or places or [""])[-1]):
        raise VerifyError(told(f"{reference} does not verify", findings))
    return evidence
