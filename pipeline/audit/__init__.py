"""The audit gate: an image's configuration and every file of every layer against the rules of a serving image."""

from pipeline.artifacts import Finding, Verdict, accepted_branch
from pipeline.audit import archive
from pipeline.audit.contents import Contents
from pipeline.audit.rules import RULES
from pipeline.engine import ACCEPTED, Engine
from pipeline.errors import AuditError


def audit(reference: str, *, engine: Engine) -> Verdict:
    """Judges the image that `reference` names; nothing from it is run.

    The verdict carries the findings that are no errors and, as `measured`, the number of layers, the number of
    entries in them and the bytes of their files.

    Raises:
        AuditError: there is no such image, it cannot be read, or it breaks a rule; the message lists every finding.
    """
    image = engine.find(reference)
    if image is None:
        raise AuditError(
            f"{reference}: the engine has no such image, so there is nothing to audit. "
            "Build it with `inv build-serving --model NAME`, or name one that `docker image ls` shows."
        )
    # By digest, so that the verdict holds for this image even when the tag moves meanwhile.
    with engine.save(image.digest) as stream:
        contents = archive.read(stream, name=reference)
    findings = judge(contents)
    if any(finding.level == "error" for finding in findings):
        raise AuditError(_message(reference, image.digest, findings))
    return Verdict(
        gate="audit",
        digest=image.digest,
        against="",
        findings=(*findings, *accepted_branch(image.labels.get(ACCEPTED, ""))),
        measured={
            "layers": len(contents.layers),
            "files": len(contents.placed),
            "bytes": sum(placed.entry.size for placed in contents.placed),
        },
    )


def judge(contents: Contents) -> tuple[Finding, ...]:
    """Every finding of every rule, in the order of the table and each once."""
    return tuple(
        dict.fromkeys(
            Finding(rule=rule.name, level=rule.level, where=where, message=message, fix=rule.fix)
            for rule in RULES
            for where, message in rule.look(contents)
        )
    )


def _message(reference: str, digest: str, findings: tuple[Finding, ...]) -> str:
    errors = [finding for finding in findings if finding.level == "error"]
    warnings = [finding for finding in findings if finding.level != "error"]
    parts = [f"{reference} ({digest}) breaks the rules of a serving image: {len(errors)} to mend."]
    for finding in [*errors, *warnings]:
        label = finding.rule if finding.level == "error" else f"{finding.rule} ({finding.level})"
        parts.append(f"{label}: {finding.where}\n  {finding.message}\n  Fix: {finding.fix}")
    return "\n\n".join(parts)
