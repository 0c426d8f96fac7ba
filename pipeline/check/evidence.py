"""Holds an archive against the contract that lies beside it and against the one inside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts import File, Finding
from pipeline.check import schema
from pipeline.check.zipped import Zipped, open_archive

CONTRACT = "contract.json"
PROBES = "probes.safetensors"
# What the contract beside the archive says and the one inside it cannot: it is found out with the archive.
_ONLY_BESIDE = {"archive", "batching", "warm_up"}
INSIDE = "extra/contract.json"
SAMPLES = "samples.safetensors"
OPS = "ops.so"
MAX_CONTRACT = 2 * 2**20
_EXPORT = "Export the model again with `inv export`, and keep the files of one export together."


def parse(content: bytes) -> dict[str, Any]:
    """A contract's JSON object.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        contract = json.loads(content)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    if not isinstance(contract, dict):
        raise ValueError(f"it is a {type(contract).__name__}, not an object")
    return contract


def operators_of(contract: dict[str, Any]) -> tuple[list[str], str]:
    """The operator schemas that a contract names, and the torch that exported the archive, or "".

    Raises:
        ValueError: it names none, or what it names are no schemas.
    """
    operators, producer = contract.get("operators"), contract.get("producer")
    if not isinstance(operators, list) or not all(isinstance(text, str) for text in operators):
        raise ValueError("`operators` is no list of schemas")
    for text in operators:
        schema.parse(text)
    torch = producer.get("torch") if isinstance(producer, dict) else None
    return operators, torch[:50] if isinstance(torch, str) else ""


def contract_in(zipped: Zipped) -> bytes | None:
    """The contract that export put into an archive, as bytes; None in an archive from elsewhere.

    Raises:
        ValueError: it is too large to be one.
    """
    if INSIDE not in zipped.entries:
        return None
    size = zipped.entries[INSIDE].file_size
    if size > MAX_CONTRACT:
        raise ValueError(f"it has {size} bytes, more than {MAX_CONTRACT}")
    return zipped.read(INSIDE, limit=MAX_CONTRACT)


def compare_files(archive: File) -> Iterator[Finding]:
    """Whether the archive, the samples and the operators' library are the files that the contract beside them names."""
    path = archive.path.with_name(CONTRACT)
    try:
        contract = _beside(path)
        yield from _same_file(archive, _described(contract, "archive"))
        samples, described = path.with_name(SAMPLES), _described(contract, "samples")
        if samples.is_file():
            yield from _same_file(File.of(samples), described)
        else:
            yield _finding("no-samples", SAMPLES, f"{CONTRACT} is there, the samples that it names are not")
        if "ops" in contract:
            yield from _same_library(path.with_name(OPS), _described(contract, "ops"))
    except (OSError, ValueError) as error:
        yield _finding("bad-contract", CONTRACT, f"it is not a contract that export writes ({error!r:.200})")


def compare_contracts(archive: File) -> Iterator[Finding]:
    """Whether the contract beside the archive is the one inside it; in addition it names the files and a warm-up.

    Only for an archive in which `inspect` found no error, beside a contract in which `compare_files` found none.
    """
    beside = _beside(archive.path.with_name(CONTRACT))
    with archive.path.open("rb") as stream:
        content = contract_in(open_archive(stream))
    if content is None:
        yield _finding("contract", INSIDE, f"{CONTRACT} lies beside the archive, and none is inside it")
        return
    inside = parse(content)
    expected = {key: value for key, value in beside.items() if key not in _ONLY_BESIDE}
    expected["samples"] = {key: value for key, value in beside["samples"].items() if key != "file"}
    differing = sorted(key for key in expected.keys() | inside.keys() if expected.get(key) != inside.get(key))
    if differing:
        told = f"it differs from the one inside the archive in: {', '.join(differing)[:500]}"
        yield _finding("contract", CONTRACT, told)


def _described(contract: dict[str, Any], name: str) -> dict[str, Any]:
    """What a contract says of one of the files beside it."""
    described = contract.get(name)
    if not isinstance(described, dict):
        raise ValueError(f"`{name}` describes no file")
    return described


def accepted(archive: File) -> str:
    """The reason for which a person let a frozen branch through, as the contract beside the archive says; or ""."""
    found = _beside(archive.path.with_name(CONTRACT)).get("evidence", {})
    return str(found.get("accepted", "")) if isinstance(found, dict) else ""


def declared_operators(archive: File) -> tuple[str, ...]:
    """The schemas that the library beside an archive registers, by its contract; none without library or contract.

    What the contract says is a claim: only loading the library shows whether it is true.
    """
    path = archive.path.with_name(CONTRACT)
    try:
        declared = _beside(path)["ops"]["operators"] if path.with_name(OPS).is_file() else ()
        return tuple(map(str, declared))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _same_library(path: Path, claimed: dict[str, Any]) -> Iterator[Finding]:
    if claimed.get("file") != OPS or not isinstance(claimed.get("operators"), list):
        raise ValueError("its ops are not what export writes")
    if path.is_file():
        yield from _same_file(File.of(path), claimed)
    else:
        names = ", ".join(str(schema).partition("(")[0] for schema in claimed["operators"])[:500]
        yield _finding("no-library", OPS, f"{CONTRACT} names it as the library of {names}, and it is not there")


def _same_file(file: File, claimed: dict[str, Any]) -> Iterator[Finding]:
    if claimed.get("size") != file.size:
        told = f"it has {file.size} bytes, and {CONTRACT} says {claimed.get('size')}"
    elif claimed.get("sha256") != file.sha256:
        told = f"its sha256 is {file.sha256}, and {CONTRACT} says {claimed.get('sha256')}"
    else:
        return
    yield _finding("digest", file.path.name, f"{told}: it was changed, damaged, or comes from another export")


def _beside(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONTRACT:
        raise ValueError(f"it has more than {MAX_CONTRACT} bytes")
    return parse(path.read_bytes())


def _finding(rule: str, where: str, told: str) -> Finding:
    return Finding(rule=rule, level="error", where=where, message=told, fix=_EXPORT)
