"""The gate between export and assembly: an archive against the runtime image that is to serve it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.artifacts import File, Finding, Verdict, accepted_branch
from pipeline.check import evidence
from pipeline.check.replay import replay
from pipeline.check.runtime import RuntimeFacts, facts_of
from pipeline.check.static import inspect
from pipeline.engine import Engine
from pipeline.errors import CheckError

__all__ = ["check", "inspect"]

_SHOWN = 50


def check(archive: Path, *, runtime: str, engine: Engine) -> Verdict:
    """Judges a TorchScript archive against a runtime image: on the host without loading it, then loaded there.

    With contract.json and samples.safetensors beside it, both must belong to it, and the samples are replayed in
    the runtime; an archive from elsewhere is only loaded. `measured` has the largest errors of each output.
    Operators that the runtime lacks must be in ops.so beside it, the library that the contract names.

    Raises:
        CheckError: they do not fit, or the archive is not sound. The message has every finding.
    """
    if not archive.is_file():
        raise CheckError(f"{archive}: there is no such file. Run `inv export` first, or name another archive.")
    image, facts = facts_of(runtime, engine=engine)
    subject = File.of(archive)
    findings = tuple(_static(subject, facts))
    measured: dict[str, float] = {}
    if not any(_is_error(finding) for finding in findings):
        replayed, measured = replay(subject, image.digest, engine=engine)
        findings = (*findings, *replayed)
    if any(_is_error(finding) for finding in findings):
        raise CheckError(_told(archive, runtime, findings))
    return Verdict(
        gate="check",
        digest=f"sha256:{subject.sha256}",
        against=image.digest,
        findings=findings,
        measured=measured,
    )


def _static(archive: File, facts: RuntimeFacts) -> Iterator[Finding]:
    """Everything that can be found without a container."""
    with archive.path.open("rb") as stream:
        findings = list(inspect(stream, facts.plus(evidence.declared_operators(archive))))
    if archive.path.with_name(evidence.CONTRACT).is_file():
        findings += evidence.compare_files(archive)
        if not any(_is_error(finding) for finding in findings):
            findings += evidence.compare_contracts(archive)
            findings += accepted_branch(evidence.accepted(archive))
    yield from findings


def _is_error(finding: Finding) -> bool:
    return finding.level == "error"


def _told(archive: Path, runtime: str, findings: Iterable[Finding]) -> str:
    """The findings for a person, the errors first."""
    ordered = sorted(findings, key=lambda finding: ("error", "warning", "info").index(finding.level))
    errors = sum(_is_error(finding) for finding in ordered)
    lines = [f"{archive} cannot be served by {runtime}: {errors} error{'s' if errors > 1 else ''}."]
    for finding in ordered[:_SHOWN]:
        lines += [f"  {finding.level} {finding.rule}, {finding.where}", f"    {finding.message}", f"    {finding.fix}"]
    if len(ordered) > _SHOWN:
        lines.append(f"  and {len(ordered) - _SHOWN} more")
    return "\n".join(lines)
