"""The frozen values that flow from a model's source to its serving image.

Each value contains the one it was made from, so that one record is the whole lineage.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

ExportMethod: TypeAlias = Literal["script", "trace"]
Precision: TypeAlias = Literal["fp32", "bf16"]
MemoryFormat: TypeAlias = Literal["contiguous", "channels_last"]
ExportChoice: TypeAlias = Literal["auto", "script", "trace"]
PrecisionChoice: TypeAlias = Literal["fp32", "bf16", "auto"]
MemoryFormatChoice: TypeAlias = Literal["contiguous", "channels_last", "auto"]
Level: TypeAlias = Literal["error", "warning", "info"]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file by content: `sha256` in hex, `size` in bytes."""

    path: Path
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Describes the file at `path` as it is now."""
        return cls(path=path, sha256=sha256_of(path), size=path.stat().st_size)

    def is_intact(self) -> bool:
        """Whether the file is still there with the same content."""
        return self.path.is_file() and self.path.stat().st_size == self.size and sha256_of(self.path) == self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output. `datatype` is the Open Inference Protocol's name; -1 in `shape` is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far an answer may be off: |answer - expected| <= absolute + relative * |expected|, element by element."""

    absolute: float
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use: memory in MiB, cpus in cores, processes and threads by count."""

    memory: int
    cpus: float
    pids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOrigin:
    """Where what a model is trained on comes from, and its licence (SPDX); empty where model.yaml does not say."""

    source: str = ""
    license: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a model was trained on or held against: how many items, and the SHA-256 of all that they hold, or empty."""

    items: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a model is trained. `floors` maps a metric to the least value that is good enough."""

    epochs: int
    batch_size: int
    seed: int
    floors: Mapping[str, float]
    limits: Limits
    data: DataOrigin = DataOrigin()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingChoice:
    """What model.yaml says about answering requests together: at most `max_size` rows, which None leaves to evidence
    and 1 turns off, and how long a request waits for others while the model is idle."""

    max_size: int | None = None
    max_delay_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How many rows the server answers in one run at most, 1 where it answers each request on its own, and `because`.

    Whether rows were shown to get the same answers `in_any_company`: without that, each request is answered whole.
    `row_ms` is how many milliseconds a row took in batches of a size, in the runtime image.
    """

    max_size: int
    max_delay_ms: float
    because: str
    row_ms: Mapping[int, float]
    in_any_company: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model as its folder under model_src/ describes it. `params` are passed to model.py as they are.

    `auto` leaves `export`, `precision` or `memory_format` to evidence; `budget` maps a metric to how much of it the
    archive may lose against the trained model.
    """

    name: str
    version: str
    description: str
    license: str
    folder: Path
    sources: tuple[File, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    params: Mapping[str, Any]
    training: Training
    export: ExportChoice
    precision: PrecisionChoice
    memory_format: MemoryFormatChoice
    budget: Mapping[str, float]
    tolerance: Tolerance
    serving: Limits
    batching: BatchingChoice = BatchingChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """Weights (safetensors), the image that trained them, by digest, and the metrics on the held-out split.

    `data` has what was trained on and what was held out, by these names.
    `ops` is the library of the model's own operators, where it has some.
    """

    weights: File
    trainer: str
    metrics: Mapping[str, float]
    data: Mapping[str, Split]
    spec: ModelSpec
    ops: File | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a gate noticed: the rule, where it was broken, why that matters and how to mend it."""

    rule: str
    level: Level
    where: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Why a model was scripted or traced.

    `requested` is what model.yaml asked for, `because` the reason in a sentence, `findings` what was seen in the code
    and in the trials, `unvisited` the lines that no sample or probe reached, and `accepted` the reason that a person
    gave for letting a frozen branch through, or empty.
    """

    requested: ExportChoice
    method: ExportMethod
    because: str
    findings: tuple[Finding, ...]
    unvisited: tuple[str, ...]
    samples: int
    probes: int
    accepted: str


def accepted_branch(reason: str) -> tuple[Finding, ...]:
    """The warning that every gate repeats when a person let a frozen branch through; nothing without a `reason`."""
    if not reason:
        return ()
    told = f"a branch is frozen, so that some inputs get another answer than the model's. Accepted because: {reason}"
    fix = "Take `export: trace` out of model.yaml and export again without --accept-frozen-branch."
    return (Finding(rule="frozen-branch", level="warning", where="the archive", message=told, fix=fix),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far one output is from the trained model's, at most, over all samples and probes.

    `relative` counts where something other than 0 was expected. `equal` says that every answer was equal bit for bit.
    `agreement` is the share of rows whose largest element is at the same place; None where an output has no rows.
    """

    absolute: float
    relative: float
    equal: bool
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way to export that was tried. `p50` is the median of sample 0 in milliseconds, in the runtime image.

    `because` says why it was taken, or why not; what was refused early has neither `p50` nor `metrics`.
    """

    precision: Precision
    memory_format: MemoryFormat
    p50: float | None
    metrics: Mapping[str, float]
    taken: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeProfile:
    """How long the first runs of an input shape take in a freshly loaded archive, in milliseconds.

    `sample` is the first one of that shape. `runs` is how many runs it takes until they are about `steady`.
    """

    sample: int
    shapes: tuple[tuple[int, ...], ...]
    cold: float
    second: float
    steady: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What an export chose by measurements, where two were about as fast and another moment chooses the other.

    `batch_size` is `Batching.max_size`; `runs` maps the first sample of a shape to how many runs it takes to be steady.
    """

    precision: Precision
    memory_format: MemoryFormat
    batch_size: int
    runs: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What is decided about an export already: `accepted` is a person's reason for letting a frozen branch through, and
    `chosen` is taken in place of what measurements would choose, so that the same comes out again."""

    accepted: str = ""
    chosen: Chosen | None = None


UNDECIDED = Decided()


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A TorchScript archive with its evidence.

    `samples` and `probes` (safetensors) hold inputs and the trained model's answers; probes stay beside the archive.
    `contract` (JSON) is what the server, the check and the client are told. `operators` are the schemas that the
    archive needs. `parity` maps a stage (program, frozen, optimised, runtime) to the deviation of each output.
    `metrics` are the archive's own on the held-out split; those of the trained model are in `trained`. `candidates`
    are what precision and memory format were chosen from, `profile` tells of the first runs of each shape, and
    `batching` of requests that are answered together.
    `ops` is the library of the model's own operators, where it has some, which a runtime has to load first.
    """

    file: File
    samples: File
    probes: File
    contract: File
    evidence: Evidence
    operators: tuple[str, ...]
    producer: Mapping[str, str]
    precision: Precision
    memory_format: MemoryFormat
    parity: Mapping[str, Mapping[str, Deviation]]
    metrics: Mapping[str, float]
    candidates: tuple[Candidate, ...]
    profile: tuple[ShapeProfile, ...]
    batching: Batching
    trained: TrainedModel
    ops: File | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingImage:
    """An image in the engine. `digest` is its image id, `runtime` that of the model-free image below it."""

    tag: str
    digest: str
    diff_ids: tuple[str, ...]
    device: str
    runtime: str
    archive: Archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a gate says of `digest`, the one subject it judged, and `against`, what it was judged with."""

    gate: str
    digest: str
    against: str
    findings: tuple[Finding, ...]
    measured: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict, when it was given (RFC 3339, UTC) and the digest of what it rests on."""

    verdict: Verdict
    at: str
    inputs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An image in a registry with its evidence. `digest` is that of its manifest there: what is promoted.

    `model` is the digest of the archive beside it, as an artifact of its own, and `stored` its reference in another
    store, or empty. `evidence` binds all attestations
    together; `sboms` are CycloneDX and SPDX. `revision` is the commit that it was built from, and `clean` whether
    nothing else was in the tree. `sent` is in bytes: image layers that the registry lacked.
    """

    image: ServingImage
    judgements: tuple[Judgement, ...]
    repository: str
    digest: str
    model: str
    stored: str
    evidence: str
    sboms: tuple[File, ...]
    revision: str
    clean: bool
    sent: int
