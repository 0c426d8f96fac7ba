"""Judges an archive against a runtime's facts on the host: without torch, and without running anything from it."""

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from pipeline.artifacts import Finding
from pipeline.check import evidence, schemas
from pipeline.check.pickled import attributes_in
from pipeline.check.runtime import RuntimeFacts
from pipeline.check.survey import MOST, Survey
from pipeline.check.zipped import NotAnArchive, Zipped, damaged, open_archive

MAX_CODE = 8 * 2**20
MAX_PICKLE = 8 * 2**20
# What torch wraps a saved function in: it has no mode, and `training` is always True.
_FUNCTION = "__torch__.PlaceholderModule"
_SAVE = 'Save it with torch.jit.save(torch.jit.script(model.eval()), "model.pt").'


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
    code = tuple(_code(zipped, facts))
    told = {finding.message for finding in code}
    contract = (finding for finding in _contract(zipped, facts) if finding.message not in told)
    return (*_version(zipped, facts), *code, *contract)


def _require_torchscript(zipped: Zipped) -> None:
    """Tells other zip files that PyTorch writes from TorchScript."""
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


def _version(zipped: Zipped, facts: RuntimeFacts) -> Iterator[Finding]:
    """The archive's format number; where there are two places, PyTorch's reader takes `.data/version`."""
    name = ".data/version" if ".data/version" in zipped.entries else "version"
    text = zipped.read(name, limit=32).strip() if name in zipped.entries else b""
    first, last = facts.archive_versions
    if not (text.isdigit() and len(text) < 10):
        told = f"the archive's format number is {text!r}" if text else "the archive has no format number"
        fix = "Save it again with torch.jit.save."
    elif int(text) > last:
        told = f"the archive has format {int(text)}; the runtime (torch {facts.torch}) is older and reads up to {last}"
        fix = f"Export with torch {facts.torch}, or serve with a runtime of the torch that exported it."
    elif int(text) < first:
        told = f"the archive has format {int(text)}; the runtime (torch {facts.torch}) reads no older one than {first}"
        fix = "Load it with the torch that wrote it, and export the model again with a current one."
    else:
        return
    yield Finding(rule="archive-version", level="error", where=name, message=told, fix=fix)


def _contract(zipped: Zipped, facts: RuntimeFacts) -> Iterator[Finding]:
    """The schemas that the archive was exported with; archives from elsewhere have no contract."""
    try:
        content = evidence.contract_in(zipped)
        if content is None:
            return
        needed = [str(schema) for schema in evidence.parse(content)["operators"]]
    except (ValueError, KeyError, TypeError) as error:
        told, fix = f"it is not a contract that export writes ({error!r:.200})", "Export the model with `inv export`."
        yield Finding(rule="bad-contract", level="error", where=evidence.INSIDE, message=told, fix=fix)
        return
    yield from islice(schemas.compare(needed, facts, where=f"{evidence.INSIDE}, operators"), MOST)


def _code(zipped: Zipped, facts: RuntimeFacts) -> Iterator[Finding]:
    """Operators, custom classes, device literals and training mode, over all code files and pickles."""
    survey = Survey(facts)
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
    yield from survey.findings()


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
