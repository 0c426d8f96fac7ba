"""Images that Torchyard did not build: what they can load is asked of the Python torch in them."""

from pipeline.artifacts import File, Finding, Limits
from pipeline.engine import Engine, Job, Mount
from pipeline.errors import CheckError, ContainerFailed, EngineError

_LIMITS = Limits(memory=4096, cpus=2, pids=256)
# Importing torch from a cold disk takes a minute at worst.
_SECONDS = 300
# Prints what `runtime.json` would say of the torch that runs it.
DESCRIBE = """
import json, re, torch
schemas = {str(schema) for schema in torch._C._jit_get_all_schemas()}
changes = torch._C._get_operator_version_map()
# There is no list of the custom classes; they are those that a method or an operator takes.
signatures = " ".join([*map(str, torch._C._jit_get_custom_class_schemas()), *schemas])
print(json.dumps({
    "torch": torch.__version__,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
    "archive_versions": [1, torch._C._get_max_operator_version()],
    "operators": sorted(schemas),
    "upgraders": sorted([step.bumped_at_version, step.old_schema] for name in changes for step in changes[name]),
    "classes": sorted(set(re.findall(r"__torch__\\.torch\\.classes\\.[\\w.]+", signatures))),
}))
"""
_LOAD = """
import torch
torch.jit.load("/model/model.pt", map_location="cpu")
"""


def describe(reference: str, image: str, *, engine: Engine) -> bytes:
    """What `runtime.json` would say of an image without one, as JSON.

    Raises:
        CheckError: there is no Python torch in it that can be asked.
    """
    lines: list[str] = []
    try:
        _run(DESCRIBE, image, engine, lines)
    except (ContainerFailed, EngineError) as error:
        # Without an engine this says so itself; otherwise the image is to blame.
        engine.info()
        raise CheckError(
            f"{reference}: the image has neither the facts of a TorchScript runtime that Torchyard built nor a "
            f"`python3` with torch 1.12 or newer that could be asked. Name a torchscript-runtime image, a serving "
            f"image made from one, or one with torch in it.\n{error}"
        ) from error
    for line in reversed(lines):
        if line.startswith("{"):
            return line.encode()
    raise CheckError(f"{reference}: the torch in the image was asked for its operators and says nothing.")


def load(archive: File, image: str, *, engine: Engine) -> Finding:
    """What happens when the Python torch in an image loads an archive; samples cannot be replayed there."""
    lines: list[str] = []
    path = archive.path.absolute()
    try:
        _run(_LOAD, image, engine, lines, Mount(source=path, target="/model/model.pt"), size=archive.size)
    except ContainerFailed as error:
        told = "the torch in the image cannot load the archive"
        last = "".join(f"\n      | {line[:300]}" for line in lines[-20:]) or f": {error}"
        fix = "Export with the torch version of the image, and load it once in a fresh process to see the same error."
        return Finding(rule="does-not-load", level="error", where="in the image", message=told + last, fix=fix)
    return Finding(
        rule="no-samples",
        level="warning",
        where="in the image",
        message="the image is no runtime of Torchyard's: the archive loads there, but its answers were not compared",
        fix="Check it against a torchscript-runtime image, which replays the samples beside the archive.",
    )


def _run(program: str, image: str, engine: Engine, lines: list[str], *mounts: Mount, size: int = 0) -> None:
    memory = _LIMITS.memory + 4 * size // 2**20
    limits = Limits(memory=memory, cpus=_LIMITS.cpus, pids=_LIMITS.pids)
    # Compiled kernels and the like go where a read-only container can write.
    env = {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108 (inside the container)
    command = ("python3", "-W", "ignore", "-c", program)
    engine.run(
        Job(image=image, command=command, limits=limits, mounts=mounts, env=env, seconds=_SECONDS),
        on_line=lines.append,
    )
