"""The pinned images: where models are trained, where code is compiled, what serves; built only when inputs changed."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pipeline import progress
from pipeline.artifacts import Limits
from pipeline.bootstrap import bootstrap, drift, hooks
from pipeline.engine import LABEL, Build, Engine, Image, Job
from pipeline.errors import DriftError, SpaceError
from pipeline.pins import IMAGES, Pins, RootPin
from pipeline.records import contents_of, digest_of

INPUTS = f"{LABEL}.inputs"
# Of a root: the packages that are others than recorded, so that --locked refuses it later, too.
_DRIFT = f"{LABEL}.drift"
# The trainer is 7.3 GB and pip needs the wheels and what it unpacks of them beside each other for a while.
_TRAINER_SPACE = 20 * 2**30
_SMALL_SPACE = 3 * 2**30
_LITTLE = Limits(memory=256, cpus=1, pids=16)
# What sha256sum says of NAME_VERSION_ARCHITECTURE.deb, from images/base/record-files.sh and the toolchain's Dockerfile.
_FILES = "/var/lib/dpkg/debs.sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """A Dockerfile's stage, the tag it gets and what it is made from."""

    build: Build
    inputs: str
    space: int


def trainer(pins: Pins, *, engine: Engine, locked: bool = False) -> Image:
    """pytorch-cuda, stage `train`: where models are trained and exported."""
    base = _base(pins.build_root, engine=engine, locked=locked)
    return _made(_pytorch(pins, "train", pins.trainer, base), engine=engine)


def toolchain(pins: Pins, *, engine: Engine, locked: bool = False) -> Image:
    """pytorch-cuda, stage `toolchain`: the same with a compiler, where native code is built."""
    trainer(pins, engine=engine, locked=locked)
    base = _base(pins.build_root, engine=engine, locked=locked)
    recipe = _pytorch(pins, "toolchain", f"{pins.trainer}-toolchain", base)
    found = engine.find(recipe.build.tag)
    is_made = bool(found and found.labels.get(INPUTS) == recipe.inputs)
    image = _made(recipe, engine=engine)
    if is_made and not locked:
        return image
    try:
        record = IMAGES / "pytorch-cuda" / "toolchain.packages"
        _report_drift("toolchain", _drift(_installed(image, engine), record), record, locked=locked)
    except DriftError:
        if not is_made:
            engine.remove((recipe.build.tag,))
        raise
    return image


def runtime(pins: Pins, *, engine: Engine, locked: bool = False) -> Image:
    """torchscript-runtime: the model-free serving image."""
    compiler = toolchain(pins, engine=engine, locked=locked)
    base = _base(pins.serving_root, engine=engine, locked=locked)
    folder = IMAGES / "serving"
    build = Build(
        folder=folder,
        dockerfile=folder / "Dockerfile",
        stage="runtime",
        tag=pins.runtime,
        args={"TOOLCHAIN": f"{pins.trainer}-toolchain", "SERVING_BASE": _reference(pins.serving_root)},
        labels={
            "org.opencontainers.image.ref.name": pins.runtime,
            f"{LABEL}.torch": pins.torch,
            f"{LABEL}.device": pins.device,
        },
    )
    inputs = digest_of(base.diff_ids, compiler.labels[INPUTS], contents_of(folder))
    return _made(_Recipe(build=build, inputs=inputs, space=_SMALL_SPACE), engine=engine)


def built_with(compiler: Image, *, engine: Engine) -> Mapping[tuple[str, str], str]:
    """The Debian packages of a toolchain, by name and version, with the SHA-256 of the file of each.

    Those of a build root that comes from a registry are left out: they are told by that image's digest.
    """
    lines: list[str] = []
    job = Job(image=compiler.digest, command=("cat", _FILES), limits=_LITTLE)
    engine.run(job, on_line=lines.append)
    found = {}
    for line in lines:
        sha256, _, file = line.partition("  ")
        name, version, _ = PurePosixPath(file).name.split("_")
        found[name, version.replace("%3a", ":")] = sha256
    return found


def load(pins: Pins, *, engine: Engine, locked: bool = False) -> Image:
    """torchyard-load: what puts a serving container under load."""
    return _made(_own_root(pins.load_root, pins.load, engine=engine, locked=locked), engine=engine)


def serving_root(pins: Pins) -> str:
    """The tag, or the registry image, of the root below the serving image."""
    return _reference(pins.serving_root)


def build_root(pins: Pins) -> str:
    """The tag, or the registry image, of the root on which things are built."""
    return _reference(pins.build_root)


def registry(pins: Pins, *, engine: Engine, locked: bool = False) -> Image:
    """The local registry: Debian's docker-registry."""
    return _made(_own_root(pins.registry_root, pins.registry, engine=engine, locked=locked), engine=engine)


def release_tools(pins: Pins, *, engine: Engine, locked: bool = False) -> Image:
    """cosign and syft, so that nobody has to install them. syft comes from PyPI, in a stage on the build root."""
    builder = _base(pins.build_root, engine=engine, locked=locked)
    recipe = _own_root(pins.tools_root, pins.release_tools, engine=engine, locked=locked)
    build = replace(recipe.build, args={**recipe.build.args, "BUILDER": build_root(pins)})
    inputs = digest_of(recipe.inputs, builder.diff_ids)
    return _made(replace(recipe, build=build, inputs=inputs), engine=engine)


def _own_root(pin: RootPin, tag: str, *, engine: Engine, locked: bool) -> _Recipe:
    """The recipe of an image with a root of its own, both named after the folder of its Dockerfile."""
    base, folder = _base(pin, engine=engine, locked=locked), IMAGES / pin.name
    build = Build(
        folder=folder,
        dockerfile=folder / "Dockerfile",
        stage=pin.name,
        tag=tag,
        args={"BASE": _reference(pin)},
    )
    return _Recipe(build=build, inputs=digest_of(base.diff_ids, contents_of(folder)), space=_SMALL_SPACE)


def _pytorch(pins: Pins, stage: str, tag: str, base: Image) -> _Recipe:
    folder = IMAGES / "pytorch-cuda"
    contents, args = contents_of(folder), {"BASE": build_root(pins)}
    if stage == "train":
        del contents["toolchain.packages"]
    else:
        args["PACKAGES"] = " ".join(pins.toolchain)
    build = Build(
        folder=folder,
        dockerfile=folder / "Dockerfile",
        stage=stage,
        tag=tag,
        args=args,
        labels={f"{LABEL}.torch": pins.torch, f"{LABEL}.cuda": pins.cuda},
    )
    return _Recipe(build=build, inputs=digest_of(base.diff_ids, args, stage, contents), space=_TRAINER_SPACE)


def _made(recipe: _Recipe, *, engine: Engine) -> Image:
    """The image of a recipe: the one that is there if its inputs are the same, else a new one."""
    build = recipe.build
    found = engine.find(build.tag)
    if found and found.labels.get(INPUTS) == recipe.inputs:
        return found
    _require_space(engine, recipe.space, build.tag)
    progress.say(f"building {build.tag}")
    return engine.build(replace(build, labels={**build.labels, INPUTS: recipe.inputs}))


def _base(pin: RootPin, *, engine: Engine, locked: bool) -> Image:
    """The root that images start from, bootstrapped unless it is there or pinned to a registry image."""
    reference = _reference(pin)
    # The records of other roots are no reason to bootstrap this one anew.
    scripts = {name: sha256 for name, sha256 in contents_of(IMAGES / "base").items() if not name.endswith(".packages")}
    record = _record(pin)
    recorded = record.read_text(encoding="utf-8") if record.exists() else ""
    inputs = digest_of(pin, scripts, recorded, *hooks(pin))
    found = engine.find(reference)
    if found and (pin.image or found.labels.get(INPUTS) == inputs):
        if locked:
            _report_drift(f"{pin.name} root", found.labels.get(_DRIFT, ""), record, locked=locked)
        return found
    if pin.image:
        return engine.pull(pin.image)
    _require_space(engine, _SMALL_SPACE, reference)
    progress.say(f"bootstrapping {reference} from Debian {pin.suite} packages")
    with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
        root = Path(folder) / "root.tar"
        changes = _drift(bootstrap(pin, root), record)
        _report_drift(f"{pin.name} root", changes, record, locked=locked)
        labels = {INPUTS: inputs} | ({_DRIFT: changes} if changes else {})
        return engine.import_root(root, tag=reference, labels=labels)


def _reference(pin: RootPin) -> str:
    return pin.image or f"torchyard-base:{pin.name}"


def _record(pin: RootPin) -> Path:
    """Where the packages of a root are recorded: beside the Dockerfile of the one image that stands on it, if any."""
    own = IMAGES / pin.name / f"{pin.name}.packages"
    return own if own.is_file() else IMAGES / "base" / own.name


def _installed(image: Image, engine: Engine) -> tuple[str, ...]:
    """The Debian packages in an image, as `name version architecture`."""
    lines: list[str] = []
    query = ("dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\\n")
    job = Job(image=image.digest, command=query, limits=_LITTLE)
    engine.run(job, on_line=lines.append)
    return tuple(sorted(lines))


def _drift(packages: tuple[str, ...], record: Path) -> str:
    """What differs from the packages that are recorded, a line each; nothing where all are the same."""
    recorded = tuple(record.read_text(encoding="utf-8").splitlines()) if record.exists() else ()
    return "\n".join(f"  {change}" for change in drift(recorded, packages))


def _report_drift(name: str, changes: str, record: Path, *, locked: bool) -> None:
    if not changes:
        return
    text = f"The {name} resolved to other packages than {record.name} records:\n{changes}"
    if locked:
        raise DriftError(
            f"{text}\nWith --locked that stops the build. Build without it to accept Debian's updates, "
            f"or refresh {record.name}."
        )
    progress.say(text)


def _require_space(engine: Engine, needed: int, what: str) -> None:
    """Says no before the first expensive minute; an engine in a virtual machine keeps its disk to itself."""
    root = engine.info().root
    if root.exists() and (free := shutil.disk_usage(root).free) < needed:
        raise SpaceError(
            f"{what} needs {needed / 2**30:.0f} GiB free at {root} and there are {free / 2**30:.1f} GiB. "
            "Free some space, for example with `inv clean --images` or `docker system prune`."
        )
