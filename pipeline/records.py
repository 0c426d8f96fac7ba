"""A value <-> JSON on disk: atomic, with paths relative to the record, equal for equal runs."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import cattrs
from cattrs.errors import BaseValidationError

from pipeline.artifacts import File, sha256_of
from pipeline.errors import RecordError

T = TypeVar("T")
_LEFTOVERS = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".DS_Store"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Generic[T]):
    """A value as a record holds it, with the digest of everything that it was made from."""

    value: T
    inputs: str


def digest_of(*parts: object) -> str:
    """The digest, `sha256:` and 64 hex digits, of what a step is made from.

    Files count by content and not by place; everything else by its canonical JSON.
    """
    converter = cattrs.Converter()
    converter.register_unstructure_hook(File, lambda file: [file.path.name, file.sha256, file.size])
    converter.register_unstructure_hook(Path, lambda _: None)
    canonical = json.dumps([converter.unstructure(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def contents_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder` by its relative path, without what tools leave behind."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not _LEFTOVERS & set(path.parts))
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def write(path: Path, value: object, *, inputs: str) -> None:
    """Writes `value` (a dataclass) and the digest of its inputs to `path`, the whole of it or nothing."""
    content = {"inputs": inputs, **_converter(path.parent).unstructure(value)}
    write_atomic(path, json.dumps(content, indent=2, sort_keys=False) + "\n")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replaces the file at `path` by `content`, text in UTF-8; a reader sees all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with half.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def read(path: Path, kind: type[T]) -> Recorded[T]:
    """Reads the record at `path` as a `kind`.

    Raises:
        RecordError: there is none, or it is not a record of that kind.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        inputs = str(content.pop("inputs"))
        return Recorded(value=_converter(path.parent).structure(content, kind), inputs=inputs)
    except FileNotFoundError:
        raise RecordError(f"{path}: there is no such record. Run `inv {path.stem}` for this model first.") from None
    except (ValueError, KeyError, TypeError, BaseValidationError) as error:
        raise RecordError(
            f"{path}: not a record of {kind.__name__} ({error}). "
            f"It was written by another version of Torchyard or edited; run `inv {path.stem} --force`."
        ) from error


def plain(value: object) -> Any:
    """A value without paths as JSON has it."""
    return cattrs.Converter().unstructure(value)


def structured(content: Mapping[str, Any], kind: type[T]) -> T:
    """JSON that a container wrote, as a `kind` without paths.

    Raises:
        BaseValidationError: it is no such value.
    """
    return cattrs.Converter(forbid_extra_keys=True).structure(content, kind)


def fresh(path: Path, kind: type[T], *, inputs: str) -> T | None:
    """The value at `path` if it was made from the same `inputs` and its files are still what it names, else None."""
    try:
        recorded = read(path, kind)
    except RecordError:
        return None
    intact = recorded.inputs == inputs and all(file.is_intact() for file in files_in(recorded.value))
    return recorded.value if intact else None


def files_in(value: object) -> Iterator[File]:
    """Every File that a value carries along, however deep, other than the model's sources."""
    if isinstance(value, File):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.name != "sources":
                yield from files_in(getattr(value, field.name))


def _converter(folder: Path) -> cattrs.Converter:
    """A converter that writes paths relative to `folder` and reads them back as absolute ones."""
    home = folder.absolute()
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(Path, lambda path: Path(os.path.relpath(path, home)).as_posix())
    converter.register_structure_hook(Path, lambda text, _: Path(os.path.normpath(home / text)))
    return converter
