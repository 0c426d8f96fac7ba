"""Judges an archive against a runtime's facts on the host: without torch, and without running anything from it."""

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from pipeline.artifacts import Finding
from pipeline.check import evidence, schemas
from pipeline.check.pickled import attributes_in
from pipeline.check.runtime import RuntimeFacts, name_of
from pipeline.check.schemas import Archived
from pipeline.check.survey import MOST, Survey
from pipeline.check.zipped import NotAnArchive, Zipped, damaged, open_archive

MAX_CODE = 8 * 2**20
MAX_PICKLE = 8 * 2**20
# What torch wraps a saved function in: it has no mode, and `training` is always True.
_FUNCTION = "__torch__.PlaceholderModule"
_OPERATORS = f"{evidence.INSIDE}, operators"
_BY_SCHEMA = frozenset({"missing-operator", "changed-schema"})
_SAVE = 'Save it with torch.jit.save(torch.jit.script(model.eval()), "model.pt").'
# Its modules are listed in JSON and its code is in one file; torch reads it by a path of its own.
_LEGACY = Finding(
    rule="legacy-archive",
    level="error",
    where="model.json",
    message="the archive is in the format of torch 1.0 to 1.3, whose modules and weights are described in model.json; "
    "what such an archive needs cannot be told without loading it",
    fix="Load it with torch.jit.load in a place where it can do no harm, and save it again with torch.jit.save.",
)


def inspect(archive: BinaryIO, facts: RuntimeFacts) -> tuple[Finding, ...]:
    """Everything that can be said of a TorchScript archive without loading it; errors mean that it must not be.

    `archive` is a seekable stream of any bytes at all. What is read at once is bounded, whatever the file claims.
    """
    try:
        zipped = open_archive(archive)
        if damage := tuple(damaged(zipped)):
            return damage
        _require_torchscript(zipped)
    except NotAnArchive as reason:
        return reason.findings
    needed, torch, bad = _contract(zipped)
    archived = Archived(version=_version(zipped) or facts.archive_versions[1], torch=torch)
    exact: dict[str, set[str]] = {}
    for name, overload in map(name_of, needed):
        exact.setdefault(name, set()).add(overload)
    survey = Survey(facts=facts, archived=archived, exact=exact)
    unseen = tuple(_code(zipped, survey))
    compared = tuple(
        islice(
            schemas.compare(needed, facts, archived, where=lambda name: survey.where(name, _OPERATORS)),
            MOST,
        )
    )
    # Of one operator the contract says more than a call does.
    exactly = {finding.where for finding in compared}
    code = (found for found in survey.findings() if found.rule not in _BY_SCHEMA or found.where not in exactly)
    return (*_age(zipped, facts), *unseen, *code, *compared, *bad)


def _require_torchscript(zipped: Zipped) -> None:
    """Tells other zip files that PyTorch writes from TorchScript."""
    if "model.json" in zipped.entries:
        raise NotAnArchive(_LEGACY)
    if any(name.startswith("code/") and name.endswith(".py") for name in zipped.entries):
        return
    if "data.pkl" in zipped.entries:
        told = (
            "it was written by torch.save: a pickled nn.Module or weights, and loading a pickle runs code from the file"
        )
    elif any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in zipped.entries):
        told = "it is a program of torch.export, which TorchScript runtimes cannot load"
    else:
        told = f"it is a zip file without TorchScript code (it holds {', '.join(sorted(zipped.entries)[:5])})"
    raise NotAnArchive(Finding(rule="not-torchscript", level="error", where="the whole file", message=told, fix=_SAVE))


def _version(zipped: Zipped) -> int | None:
    """The archive's format number, None if it has none that can be read."""
    text = _version_text(zipped)
    return int(text) if text.isdigit() and len(text) < 10 else None


def _version_text(zipped: Zipped) -> bytes:
    return zipped.read(_version_place(zipped), limit=32).strip() if _version_place(zipped) in zipped.entries else b""


def _version_place(zipped: Zipped) -> str:
    """Where there are two places, PyTorch's reader takes `.data/version`."""
    return ".data/version" if ".data/version" in zipped.entries else "version"


def _age(zipped: Zipped, facts: RuntimeFacts) -> Iterator[Finding]:
    """Whether the runtime reads archives of this format."""
    text, number = _version_text(zipped), _version(zipped)
    first, last = facts.archive_versions
    if number is None:
        told = f"the archive's format number is {text!r}" if text else "the archive has no format number"
        fix = "Save it again with torch.jit.save."
    elif number > last:
        told = f"the archive has format {number}; the runtime (torch {facts.torch}) is older and reads up to {last}"
        fix = f"Export with torch {facts.torch}, or serve with a runtime of the torch that exported it."
    elif number < first:
        told = f"the archive has format {number}; the runtime (torch {facts.torch}) reads no older one than {first}"
        fix = "Load it with the torch that wrote it, and export the model again with a current one."
    else:
        return
    yield Finding(rule="archive-version", level="error", where=_version_place(zipped), message=told, fix=fix)


def _contract(zipped: Zipped) -> tuple[list[str], str, tuple[Finding, ...]]:
    """The schemas and the torch that the archive was exported with, and what is wrong with the contract inside it.

    Archives from elsewhere have no contract, and nothing is wrong with that.
    """
    try:
        content = evidence.contract_in(zipped)
        return (*evidence.operators_of(evidence.parse(content)), ()) if content is not None else ([], "", ())
    except ValueError as error:
        told, fix = f"it is not a contract that export writes ({error!s:.200})", "Export the model with `inv export`."
        bad = Finding(rule="bad-contract", level="error", where=evidence.INSIDE, message=told, fix=fix)
        return [], "", (bad,)


def _code(zipped: Zipped, survey: Survey) -> Iterator[Finding]:
    """Shows the survey all code files and pickles; yields what keeps it from seeing them."""
    names = sorted(name for name in zipped.entries if name.startswith("code/") and name.endswith(".py"))
    size = sum(zipped.entries[name].file_size for name in names)
    if size > MAX_CODE:
        yield _too_large("code/", size, MAX_CODE)
        return
    for name in names:
        survey.read(name, zipped.read(name, limit=MAX_CODE))
    for name in ("constants.pkl", "data.pkl"):
        if name in zipped.entries:
            yield from _attributes(zipped, name, survey)


def _attributes(zipped: Zipped, name: str, survey: Survey) -> Iterator[Finding]:
    """What a pickle of the archive says of custom classes, for the survey, and of modules in training mode."""
    size = zipped.entries[name].file_size
    if size > MAX_PICKLE:
        yield _too_large(name, size, MAX_PICKLE)
        return
    try:
        attributes = attributes_in(zipped.read(name, limit=MAX_PICKLE))
    except ValueError as error:
        told = f"it is not a pickle that torch.jit.save writes ({str(error)[:200]})"
        yield Finding(rule="bad-pickle", level="error", where=name, message=told, fix=_SAVE)
        return
    for custom in attributes.classes:
        survey.mention(custom, name)
    training = [name for name in attributes.training if name != _FUNCTION]
    if training:
        types = ", ".join(sorted({name.rpartition(".")[2] for name in training})[:5])
        yield Finding(
            rule="train-mode",
            level="error",
            where=name,
            message=f"the model was saved in training mode (training is True in {types}): dropout would drop values at "
            "random and batch norms would go by the batch in hand, so that answers change from request to request",
            fix="Call model.eval() before scripting or tracing, and export again.",
        )


def _too_large(where: str, size: int, limit: int) -> Finding:
    return Finding(
        rule="not-read",
        level="warning",
        where=where,
        message=f"it has {size} bytes, more than the {limit} that are read: what it asks of the runtime is unknown",
        fix="Move large tables of constants out of the code into tensors.",
    )
