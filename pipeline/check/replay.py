"""Loads an archive in a runtime image, where nothing else is and no network, and replays its samples."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.artifacts import File, Finding, Limits
from pipeline.check.evidence import CONTRACT, OPS, PROBES, SAMPLES
from pipeline.engine import Engine, Job, Mount
from pipeline.errors import ContainerFailed

_REPLAY = ("/usr/bin/python3.13", "-m", "server.replay")
# Memory for the runtime itself in MiB; beside it, four times the archive: as read, loaded, optimised, and its values.
_SPARE = 1024

# What the exit codes of server.replay mean, and what to do.
_MEANINGS: Mapping[int, tuple[str, str, str]] = {
    3: (
        "samples-disagree",
        "the runtime does not give the answers that the trained model gave",
        "Export again; raise `tolerance` in model.yaml only if a difference of this size is intended.",
    ),
    4: (
        "digest",
        "the files in the runtime are not the ones that the contract names",
        "Export the model again with `inv export`, and keep the files of one export together.",
    ),
    5: (
        "does-not-load",
        "the runtime cannot load the archive or the library of its operators",
        "Export with the torch version of the runtime, and load it once in a fresh process to see the same error.",
    ),
    6: (
        "bad-contract",
        "the runtime cannot read the contract or the samples",
        "Export the model again with `inv export` of the version of Torchyard that built the runtime.",
    ),
}

_REBUILD = "Build the runtime again with `inv images`; if that does not help, this is a fault in Torchyard."
_UNPROVEN = Finding(
    rule="no-samples",
    level="warning",
    where=CONTRACT,
    message="no contract lies beside the archive: it loads, but nothing says what it should answer",
    fix="Export the model with `inv export`, which writes a contract and samples beside the archive.",
)


def replay(archive: File, image: str, *, engine: Engine) -> tuple[tuple[Finding, ...], dict[str, float]]:
    """What went wrong, if anything, and what was measured.

    Measured are the number of `samples` and of `probes`, and `<output>.max_abs` and `<output>.max_rel` for each output.
    Without a contract beside it the archive is only loaded, and a warning says so.
    """
    lines: list[str] = []
    proven = archive.path.with_name(CONTRACT).is_file()
    try:
        engine.run(_job(archive, image, proven=proven), on_line=lines.append)
        report = _report(lines)
        if not proven and report["loaded"] is True:
            return (_UNPROVEN,), {}
        return (), _measured(report)
    except ContainerFailed as error:
        return (_failure(error, lines),), {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"the replay ended well, but its report cannot be read ({error!r:.200})"
        return (_finding("no-report", told + _quoted(lines), _REBUILD),), {}


def _job(archive: File, image: str, *, proven: bool) -> Job:
    """Shows the container the files of this archive and nothing else of their folder."""
    home = archive.path.absolute().parent
    mounts = [Mount(source=home / archive.path.name, target="/model/model.pt")]
    command = (*_REPLAY, "--archive", "/model/model.pt")
    if proven:
        names = (CONTRACT, SAMPLES, *(name for name in (PROBES, OPS) if (home / name).is_file()))
        mounts += [Mount(source=home / name, target=f"/model/{name}") for name in names]
        command = (*_REPLAY, "--model", "/model")
    memory = _SPARE + 4 * archive.size // 2**20
    return Job(image=image, command=command, limits=Limits(memory=memory, cpus=2, pids=256), mounts=tuple(mounts))


def _failure(error: ContainerFailed, lines: list[str]) -> Finding:
    rule, told, fix = _MEANINGS.get(
        error.code, ("replay-failed", f"the replay ended with exit code {error.code}", _REBUILD)
    )
    return _finding(rule, told + (_quoted(lines) or f": {error}"), fix)


def _report(lines: list[str]) -> dict[str, Any]:
    """The one JSON object that the replay prints, among whatever libraries print.

    Raises:
        ValueError: there is none.
    """
    for line in reversed(lines):
        with suppress(ValueError, RecursionError):
            report = json.loads(line)
            if isinstance(report, dict):
                return report
    raise ValueError("no line is a JSON object")


def _measured(report: Mapping[str, Any]) -> dict[str, float]:
    """The report's figures, flat. Raises ValueError, KeyError, TypeError or AttributeError if it is not of its form."""
    if int(report["samples"]) < 1:
        raise ValueError("no sample was replayed")
    measured = {kind: float(report[kind]) for kind in ("samples", "probes") if kind in report}
    for output, figures in sorted(report["outputs"].items()):
        measured |= {f"{output}.{figure}": float(value) for figure, value in sorted(figures.items())}
    return measured


def _quoted(lines: list[str]) -> str:
    """The last lines of the container, for a message."""
    return "".join(f"\n      | {line[:300]}" for line in lines[-20:] if line.strip())


def _finding(rule: str, told: str, fix: str) -> Finding:
    return Finding(rule=rule, level="error", where="in the runtime", message=told, fix=fix)
