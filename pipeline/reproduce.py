"""A release made again from the materials that its provenance names, and which digests agree."""

from dataclasses import dataclass

from pipeline.artifacts import ModelSpec
from pipeline.errors import VerifyError
from pipeline.evidence import PROVENANCE, Evidence
from pipeline.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A thing that the release has and that was made again, by digest."""

    what: str
    recorded: str
    found: str

    @property
    def agrees(self) -> bool:
        """Whether it came out the same."""
        return self.recorded == self.found


def reproduce(evidence: Evidence, spec: ModelSpec, line: Line) -> tuple[Compared, ...]:
    """Trains, exports and assembles the model on a line of its own, and compares archive, model layer and image.

    Raises:
        VerifyError: the model's sources here are not those of the release; the message says which commit has them.
    """
    _require(evidence, spec)
    image = line.assemble
    if not (contents := evidence.contents):
        raise VerifyError(f"{evidence.repository.at(evidence.digest)}: the image cannot be read, so nothing compares.")
    data = {
        f"{name} data": (_recorded(evidence, f"{name} data"), split.sha256 and f"sha256:{split.sha256}")
        for name, split in image.archive.trained.data.items()
    }
    made = data | {
        "archive": (f"sha256:{contents.archive}", f"sha256:{image.archive.file.sha256}"),
        "model layer": (contents.diff_ids[-1], image.diff_ids[-1]),
        "image": (contents.config, image.digest),
    }
    return tuple(Compared(what=what, recorded=was, found=now) for what, (was, now) in made.items())


def _recorded(evidence: Evidence, name: str) -> str:
    """The digest of a material that provenance names, or empty."""
    found = evidence.attestation(PROVENANCE)
    made = found.predicate["buildDefinition"] if found else {}
    digests = [each.get("digest", {}) for each in made.get("resolvedDependencies", ()) if each.get("name") == name]
    return f"sha256:{digests[0]['sha256']}" if digests and "sha256" in digests[0] else ""


def _require(evidence: Evidence, spec: ModelSpec) -> None:
    found = evidence.attestation(PROVENANCE)
    made = found.predicate["buildDefinition"] if found else {}
    prefix = f"model_src/{spec.name}/"
    recorded = {
        each["name"].removeprefix(prefix): each["digest"]["sha256"]
        for each in made.get("resolvedDependencies", ())
        if each.get("name", "").startswith(prefix)
    }
    here = {file.path.relative_to(spec.folder).as_posix(): file.sha256 for file in spec.sources}
    if different := sorted(name for name in recorded.keys() | here.keys() if recorded.get(name) != here.get(name)):
        source = made.get("externalParameters", {}).get("source", {})
        revision = source.get("digest", {}).get("gitCommit", "unknown")
        raise VerifyError(
            f"{spec.name}: {', '.join(different)} differ from what was released. "
            f"Check out what it was made from: commit {revision} of {source.get('uri', 'unknown')}."
        )
