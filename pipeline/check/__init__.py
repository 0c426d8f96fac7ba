"""The gate between export and assembly: an archive against the runtime image that is to serve it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.artifacts import File, Finding, Verdict, accepted_branch
from pipeline.check import evidence, foreign
from pipeline.check.replay import replay
from pipeline.check.runtime import RuntimeFacts, facts_of
from pipeline.check.static import inspect
from pipeline.engine import Engine, Image
from pipeline.errors import CheckError

__all__ = ["check", "examine", "facts_of", "inspect"]

_SHOWN = 50


def check(archive: Path, *, runtime: str, engine: Engine) -> Verdict:
    """Judges a TorchScript archive against a runtime image: on the host without loading it, then loaded there.

    With contract.json and samples.safetensors beside it, both must belong to it, and the samples are replayed in
    the runtime; an archive from elsewhere is only loaded, and so is any in an image that Torchyard did not build.
    `measured` has the largest errors of each output.

    Raises:
        CheckError: they do not fit, or the archive is not sound. The message has every finding.
    """
    if not archive.is_file():
        raise CheckError(f"{archive}: there is no such file. Run `inv export` first, or name another archive.")
    image, facts = facts_of(runtime, engine=engine)
    subject = File.of(archive)
    findings, measured = examine(subject, image, facts, engine=engine)
    if any(_is_error(finding) for finding in findings):
        raise CheckError(_told(archive, runtime, findings))
    return Verdict(
        gate="check",
        digest=f"sha256:{subject.sha256}",
        against=image.digest,
        findings=findings,
        measured=measured,
    )


def examine(
    archive: File, image: Image, facts: RuntimeFacts, *, engine: Engine, load: bool = True
) -> tuple[tuple[Finding, ...], dict[str, float]]:
    """All findings about an archive and a runtime image, and what was measured.

    It is loaded in the image only if nothing speaks against that, and not at all without `load`.
    """
    findings = tuple(_static(archive, facts))
    if not load or any(_is_error(finding) for finding in findings):
        return findings, {}
    if facts.foreign:
        return (*findings, foreign.load(archive, image.digest, engine=engine)), {}
    replayed, measured = replay(archive, image.digest, engine=engine)
    return (*findings, *replayed), measured


def _static(archive: File, facts: RuntimeFacts) -> Iterator[Finding]:
    """Everything that can be found without a container."""
    with archive.path.open("rb") as stream:
        findings = list(inspect(stream, facts))
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
