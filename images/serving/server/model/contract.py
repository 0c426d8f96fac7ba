"""The contract of a model: what it is called, takes and gives, and which files it is made of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import ContractInvalid
from server.model.datatypes import DATATYPES, Datatype

# A wrong plan must not keep a server from getting ready.
MOST_RUNS = 100
LONGEST_DELAY_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; -1 in `shape` is a free dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may stand here."""
        if len(shape) != len(self.shape):
            return False
        # A loop: this is done for every tensor of every request, and all() with a generator takes three times as long.
        for wanted, size in zip(self.shape, shape, strict=True):  # noqa: SIM110
            if wanted not in (-1, size):
                return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file beside the contract: SHA-256 in hex, size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far an answer may be off: |answer - expected| <= absolute + relative * |expected|, element by element."""

    absolute: float
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """The library of a model's own operators, and the schemas that it registers."""

    file: File
    schemas: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warming:
    """How often the shapes of a sample, by its number, are run before the model is ready."""

    sample: int
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Requests of one shape are answered together: `max_size` rows at most, and a request waits for others at most
    `max_delay_ms` while the model is idle. A larger one is answered in parts, if rows get the same answers
    `in_any_company`."""

    max_size: int
    max_delay_ms: float
    in_any_company: bool = True


# Every request on its own, and whole.
ALONE = Batching(max_size=1, max_delay_ms=0.0, in_any_company=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A model as `contract.json` describes it; `inputs` are in the order of forward()'s arguments.

    `ops` is None for a model that needs no operators but torch's. Without a `warm_up` each shape gets the same number
    of runs. `judges_probes` says whether the tolerance is meant for probes too, which lie far from what is served, and
    `rounding` has, for each probe, what rounding may add to the absolute tolerance of each output.
    """

    name: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tolerance: Tolerance
    archive: File
    samples: File
    ops: Operators | None = None
    warm_up: tuple[Warming, ...] = ()
    judges_probes: bool = True
    rounding: tuple[tuple[float, ...], ...] = ()
    batching: Batching = ALONE

    @property
    def files(self) -> tuple[File, ...]:
        """Every file that the contract names."""
        return (self.archive, self.samples, *((self.ops.file,) if self.ops else ()))


def read(folder: Path) -> Contract:
    """Reads `contract.json` in a model's folder.

    Raises:
        ContractInvalid: it is missing or not a contract.
    """
    path = folder / "contract.json"
    try:
        return parse(json.loads(path.read_bytes()))
    except OSError as error:
        raise ContractInvalid(
            f"{path}: {error.strerror}. Without a contract nothing can be served or verified; "
            "mount the files of one export, readable for this user."
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ContractInvalid(
            f"{path}: not a contract ({type(error).__name__}: {error}). Export the model again."
        ) from error


def parse(content: dict[str, Any]) -> Contract:
    """A contract from its JSON object.

    Raises:
        ValueError, KeyError, TypeError: it is not one.
    """
    if content["schema"] != 1:
        raise ValueError(f"its schema is {content['schema']}, and this server reads schema 1")
    tolerance, probes = content["tolerance"], content.get("probes", {})
    return Contract(
        name=str(content["name"]),
        version=str(content["version"]),
        inputs=tuple(map(_tensor, content["inputs"])),
        outputs=tuple(map(_tensor, content["outputs"])),
        tolerance=Tolerance(absolute=float(tolerance["absolute"]), relative=float(tolerance["relative"])),
        archive=_file(content["archive"]),
        samples=_file(content["samples"]),
        ops=_operators(content["ops"]) if "ops" in content else None,
        warm_up=tuple(map(_warming, content.get("warm_up", ()))),
        judges_probes=bool(probes.get("judged", True)),
        rounding=tuple(tuple(map(float, each)) for each in probes.get("rounding", ())),
        batching=_batching(content["batching"]) if content.get("batching") else ALONE,
    )


def _tensor(content: dict[str, Any]) -> Tensor:
    if content["datatype"] not in DATATYPES:
        raise ValueError(f"{content['name']} has the datatype {content['datatype']}, which this server does not know")
    shape = tuple(int(size) for size in content["shape"])
    if content["datatype"] == "BYTES" and len(shape) != 1:
        raise ValueError(f"{content['name']} has the shape {list(shape)}, and strings are a list, such as BYTES [-1]")
    return Tensor(name=str(content["name"]), datatype=DATATYPES[content["datatype"]], shape=shape)


def _operators(content: dict[str, Any]) -> Operators:
    return Operators(file=_file(content), schemas=tuple(map(str, content["operators"])))


def _warming(content: dict[str, Any]) -> Warming:
    sample, runs = content["sample"], content["runs"]
    if type(sample) is not int or type(runs) is not int or sample < 0 or not 1 <= runs <= MOST_RUNS:
        raise ValueError(
            f"its warm_up has {content}; `sample` is the number of one and `runs` is a number from 1 to {MOST_RUNS}"
        )
    return Warming(sample=sample, runs=runs)


def _batching(content: dict[str, Any]) -> Batching:
    size, delay = content["max_size"], content["max_delay_ms"]
    if type(size) is not int or size < 1 or type(delay) not in {int, float} or not 0 <= delay <= LONGEST_DELAY_MS:
        raise ValueError(
            f"its batching has {content}; `max_size` is a number of rows from 1 on, and `max_delay_ms` one from 0 to "
            f"{LONGEST_DELAY_MS}"
        )
    return Batching(max_size=size, max_delay_ms=float(delay))


def _file(content: dict[str, Any]) -> File:
    name = str(content["file"])
    if Path(name).name != name:
        raise ValueError(f"the file {name} is not beside the contract")
    return File(name=name, sha256=str(content["sha256"]), size=int(content["size"]))
