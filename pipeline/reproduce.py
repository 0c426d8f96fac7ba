"""A release made again from the materials that its provenance names, and which digests agree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cattrs.errors import BaseValidationError

from pipeline import records
from pipeline.artifacts import Decided, ModelSpec
from pipeline.errors import VerifyError
from pipeline.evidence import PROVENANCE, Evidence
from pipeline.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A thing by its digest in the release and here; `is_tool` are images that it was made with, which may differ as
    long as the same comes out."""

    what: str
    recorded: str
    found: str
    is_tool: bool = False

    @property
    def agrees(self) -> bool:
        """Whether it came out the same."""
        return self.recorded == self.found


def reproduce(evidence: Evidence, spec: ModelSpec, line: Callable[[Decided], Line]) -> tuple[Compared, ...]:
    """Trains, exports and assembles the model on a line of its own; compares what it is made from, and what it made.

    The line is given what the release chose by measurement, and what a person accepted for it.

    Raises:
        VerifyError: the model's sources here are not those of the release, and the message says which commit has them;
            or its provenance does not tell what was decided.
    """
    _require(evidence, spec)
    image = line(_decided(evidence)).assemble
    if not (contents := evidence.contents):
        raise VerifyError(f"{evidence.repository.at(evidence.digest)}: the image cannot be read, so nothing compares.")
    archive, trained = image.archive, image.archive.trained
    tools = {"pytorch-cuda": trained.trainer, "torchscript-runtime": image.runtime}
    told = {f"{name} data": split.sha256 and f"sha256:{split.sha256}" for name, split in trained.data.items()}
    told |= {"weights": f"sha256:{trained.weights.sha256}", "samples": f"sha256:{archive.samples.sha256}"}
    made = {
        "archive": (f"sha256:{contents.archive}", f"sha256:{archive.file.sha256}"),
        "model layer": (contents.diff_ids[-1], image.diff_ids[-1]),
        "image": (contents.config, image.digest),
    }
    compared = {what: (_recorded(evidence, what), now) for what, now in (tools | told).items()} | made
    return tuple(
        Compared(what=what, recorded=was, found=now, is_tool=what in tools) for what, (was, now) in compared.items()
    )


def device(evidence: Evidence) -> str:
    """What the release is served on, as provenance tells; empty where it does not."""
    return str(_made(evidence).get("externalParameters", {}).get("device", ""))


def _decided(evidence: Evidence) -> Decided:
    made = _made(evidence).get("internalParameters", {})
    try:
        chosen = {
            "precision": made["precision"],
            "memory_format": made["memoryFormat"],
            "batch_size": made["batchSize"],
            "runs": {each["sample"]: each["runs"] for each in made["warmUp"]},
        }
        return records.structured({"accepted": made["accepted"], "chosen": chosen}, Decided)
    except (KeyError, TypeError, BaseValidationError) as error:
        raise VerifyError(
            f"{evidence.repository.at(evidence.digest)}: its provenance does not tell what was accepted and chosen "
            f"({error!r:.200}). Release it again, and then reproduce that."
        ) from error


def _made(evidence: Evidence) -> Mapping[str, Any]:
    """How it was made, as provenance tells. Whoever may sign wrote it; what verified names what is looked up here."""
    found = evidence.attestation(PROVENANCE)
    made: Mapping[str, Any] = found.predicate["buildDefinition"] if found else {}
    return made


def _recorded(evidence: Evidence, name: str) -> str:
    """The digest of a material that provenance names, or empty."""
    named = (each for each in _made(evidence).get("resolvedDependencies", ()) if each.get("name") == name)
    digests = [each.get("digest", {}) for each in named]
    return f"sha256:{digests[0]['sha256']}" if digests and "sha256" in digests[0] else ""


def _require(evidence: Evidence, spec: ModelSpec) -> None:
    made = _made(evidence)
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
