"""model.yaml -> ModelSpec: every mistake of the file at once, with "perhaps you meant"."""

import re
from pathlib import Path
from typing import TypeVar

from pipeline.artifacts import BatchingChoice, DataOrigin, File, Limits, ModelSpec, Tensor, Tolerance, Training
from pipeline.errors import SpecError
from pipeline.spec.section import Section, meant, shown

C = TypeVar("C", bound=str)

DATATYPES = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES")

# What both a folder and an image can be called, and what can be the tag of an image together with `-<device>`.
_NAME = re.compile(r"(?=.{1,100}$)[a-z0-9]+([._-][a-z0-9]+)*")
_VERSION = re.compile(r"(?=.{1,100}$)(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")
_TENSOR = re.compile(r"(?P<datatype>\w+) *\[(?P<shape>[^]]*)\]")
_SIZE = re.compile(r"-1|[1-9]\d*")
# By its shape, https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/: SBOMs are wrong with anything else.
_LICENSE = re.compile(r"\(*[\w.:+-]+\)*( (AND|OR|WITH) \(*[\w.:+-]+\)*)*", re.ASCII)
_LICENSE_RULE = "an SPDX expression such as Apache-2.0"

_TRAINING = Limits(memory=4096, cpus=2, pids=256)
_SERVING = Limits(memory=512, cpus=2, pids=128)


def find(name: str, home: Path) -> ModelSpec:
    """Loads the model `name` from its folder under `home`; a name with a slash may be the path of a folder elsewhere.

    Raises:
        SpecError: there is no such model, or its model.yaml is wrong.
    """
    if "/" in name and (Path(name) / "model.yaml").is_file():
        return load(Path(name))
    models = sorted(path.parent.name for path in home.glob("*/model.yaml"))
    if name in models:
        return load(home / name)
    raise SpecError(
        f"{home}: has no model `{name}`{meant(name, models)}. Models with a model.yaml: {', '.join(models) or 'none'}. "
        f"{home / 'README.md'} says how to add one."
    )


def load(folder: Path) -> ModelSpec:
    """Reads `folder`/model.yaml and takes the digests of all files of the folder.

    Raises:
        SpecError: the file or the folder is not what model_src/README.md asks for; the message lists every mistake.
    """
    path = folder / "model.yaml"
    try:
        top = Section.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error}). {folder.parent / 'README.md'} says what it is.") from error
    spec = _spec(top, folder.absolute())
    if not (folder / "model.py").is_file():
        top.mistakes.append(f"there is no model.py in the folder; {folder.parent / 'README.md'} says what it defines")
    if top.mistakes:
        raise SpecError("\n  ".join([f"{path}: cannot be used. Correct and run again:", *top.mistakes]))
    return spec


def _spec(top: Section, folder: Path) -> ModelSpec:
    spec = ModelSpec(
        name=_name(top, folder),
        version=top.text("version", "a semantic version such as 1.0.0, without a + (as in image tags)", fits=_VERSION),
        description=top.text("description"),
        license=top.text("license", _LICENSE_RULE, fits=_LICENSE),
        folder=folder,
        sources=_sources(folder),
        inputs=_tensors(top, "inputs"),
        outputs=_tensors(top, "outputs"),
        params=top.plain("params"),
        training=_training(top.section("training")),
        export=_choice(top, "export", ("auto", "script", "trace")),
        precision=_choice(top, "precision", ("fp32", "bf16", "auto")),
        memory_format=_choice(top, "memory_format", ("contiguous", "channels_last", "auto")),
        budget=_floors(top.section("budget")),
        tolerance=_tolerance(top.section("tolerance")),
        serving=_limits(top.section("serving"), _SERVING),
        batching=_batching(top),
    )
    top.refuse_unknown()
    return spec


def _name(top: Section, folder: Path) -> str:
    name = top.text("name", "a name for an image: a to z and 0 to 9, with single . _ - between", fits=_NAME)
    if name and name != folder.name:
        top.wrong("name", f"is {name!r} in the folder {folder.name!r}; give both the same name")
    return name


def _tensors(top: Section, kind: str) -> tuple[Tensor, ...]:
    section = top.section(kind, required="name at least one tensor, such as `image: FP32 [-1, 3, 64, 64]`")
    return tuple(_tensor(section, name, value) for name, value in section.items())


def _tensor(section: Section, name: str, value: object) -> Tensor:
    match = _TENSOR.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        section.wrong(name, f"is {shown(value)}, and has to be datatype and shape, such as FP32 [-1, 3, 64, 64]")
        return Tensor(name=name, datatype="", shape=())
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        section.wrong(name, "cannot be the name of an argument; use letters, digits and _")
    datatype, sizes = match["datatype"], [size.strip() for size in match["shape"].split(",")]
    if datatype not in DATATYPES:
        hint = meant(datatype, DATATYPES) or f"; known are {', '.join(DATATYPES)}"
        section.wrong(name, f"{datatype} is not a datatype{hint}")
    if not all(map(_SIZE.fullmatch, sizes)):
        section.wrong(name, f"[{match['shape']}] is not a shape; write positive sizes and -1 for a free dimension")
        return Tensor(name=name, datatype=datatype, shape=())
    if datatype == "BYTES" and len(sizes) != 1:
        section.wrong(name, f"BYTES [{match['shape']}] has {len(sizes)} dimensions; strings are a list: BYTES [-1]")
    return Tensor(name=name, datatype=datatype, shape=tuple(map(int, sizes)))


def _training(section: Section) -> Training:
    training = Training(
        epochs=section.whole("epochs", 1, least=1),
        batch_size=section.whole("batch_size", 32, least=1),
        seed=section.whole("seed", 0, least=0),
        floors=_floors(section.section("floors")),
        limits=_limits(section.section("limits"), _TRAINING),
        data=_origin(section.section("data")),
    )
    section.refuse_unknown()
    return training


def _origin(section: Section) -> DataOrigin:
    origin = DataOrigin(
        source=section.optional("source"), license=section.optional("license", _LICENSE_RULE, fits=_LICENSE)
    )
    section.refuse_unknown()
    return origin


def _limits(section: Section, default: Limits) -> Limits:
    limits = Limits(
        memory=section.memory("memory", default.memory),
        cpus=section.number("cpus", default.cpus, least=0.1),
        pids=section.whole("pids", default.pids, least=16),
    )
    section.refuse_unknown()
    return limits


def _choice(top: Section, key: str, choices: tuple[C, ...]) -> C:
    """One of the choices, of which the first is the default."""
    chosen = top.choice(key, choices, choices[0])
    return next(choice for choice in choices if choice == chosen)


def _batching(top: Section) -> BatchingChoice:
    """`auto`, `off`, or how many rows and how long to wait for them."""
    if not top.is_mapping("batching"):
        off = top.choice("batching", ("auto", "off"), "auto") == "off"
        return BatchingChoice(max_size=1 if off else None)
    section = top.section("batching")
    if not section.has("max_size"):
        section.wrong("max_size", "is missing; say how many rows are answered together at most")
    choice = BatchingChoice(
        max_size=section.whole("max_size", 2, least=2), max_delay_ms=section.milliseconds("max_delay", 0.0)
    )
    section.refuse_unknown()
    return choice


def _floors(section: Section) -> dict[str, float]:
    """Metrics with a number each, none below 0."""
    return {metric: section.number(metric, 0.0, least=0.0) for metric, _ in section.items()}


def _tolerance(section: Section) -> Tolerance:
    tolerance = Tolerance(
        absolute=section.number("absolute", 1e-4, least=0.0),
        relative=section.number("relative", 1e-4, least=0.0),
    )
    section.refuse_unknown()
    return tolerance


def _sources(folder: Path) -> tuple[File, ...]:
    """Every file of the folder in the order of its path, other than hidden files and bytecode."""
    return tuple(
        File.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    )
