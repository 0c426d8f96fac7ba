"""The one home of Docker: what the steps ask of a container engine, and the values that they ask it with."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipeline.artifacts import Limits

LABEL = "io.torchyard"
# The reason for which a person let a frozen branch through at export.
ACCEPTED = f"{LABEL}.accepted-frozen-branch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in the engine. `digest` is its id, `config` how it runs (User, Entrypoint, …), `size` is in bytes."""

    digest: str
    labels: Mapping[str, str]
    diff_ids: tuple[str, ...]
    config: Mapping[str, Any]
    architecture: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One BuildKit build: a Dockerfile's stage into a tag. Secrets come from the engine's own settings."""

    folder: Path
    dockerfile: Path
    stage: str
    tag: str
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder or file of the host inside a container, read-only unless said otherwise."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A container that runs to its end: no network, read-only root, no capabilities, the caller's uid.

    `beside` is the id of a serving container whose loopback the job shares, where it has to talk to it. A job that
    runs for longer than `seconds` is ended; None lets it take its time.
    """

    image: str
    command: tuple[str, ...]
    limits: Limits
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: bool = False
    beside: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What the engine is and has: memory in bytes, cpus in cores, `root` where it keeps images."""

    address: str
    version: str
    memory: int
    cpus: int
    root: Path
    gpus: bool
    security: tuple[str, ...]


class Serving(Protocol):
    """A serving container that was started."""

    @property
    def id(self) -> str:
        """The engine's name for it."""
        ...

    @property
    def address(self) -> str:
        """Where it listens, as `127.0.0.1:port`."""
        ...

    @property
    def grpc_address(self) -> str:
        """Where it listens for gRPC, as `127.0.0.1:port`."""
        ...

    def ended(self) -> str | None:
        """None while it runs, else its exit code and last lines."""
        ...


class Engine(Protocol):
    """A container engine. Every method raises EngineError when the engine is not reachable or goes away."""

    def info(self) -> Info:
        """What the engine is and has."""
        ...

    def find(self, reference: str) -> Image | None:
        """The image that a tag or id names, or None."""
        ...

    def tags(self, label: str) -> tuple[str, ...]:
        """The tags of the images that have a label of this name, sorted."""
        ...

    def build(self, build: Build) -> Image:
        """Builds and tags an image and shows its log; BuildError ends with the failing step's last lines."""
        ...

    def pull(self, reference: str) -> Image:
        """Fetches an image that is named by digest from its registry."""
        ...

    def import_root(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> Image:
        """Makes a one-layer image from a tar file of a root file system."""
        ...

    def load(self, archive: BinaryIO) -> None:
        """Loads a docker-archive tar; it may leave out layers that the engine has already."""
        ...

    def save(self, reference: str) -> AbstractContextManager[BinaryIO]:
        """The image as a docker-archive tar, as a stream to be read once."""
        ...

    def read_file(self, reference: str, path: str) -> bytes | None:
        """The content of a file in an image, or None where there is none. Nothing from the image is run."""
        ...

    def run(self, job: Job, *, on_line: Callable[[str], None]) -> None:
        """Runs a job to its end and removes its container, also when interrupted.

        Raises:
            ContainerFailed: it ended with a non-zero code, ran out of memory or took longer than it may; the message
                ends with its last lines.
        """
        ...

    def serve(
        self, reference: str, *, name: str, port: int, limits: Limits, grpc_port: int = 0
    ) -> AbstractContextManager["Serving"]:
        """Runs a serving image under the production contract and removes the container at the end.

        Its ports 8080 and 8081 are published on loopback `port` and `grpc_port`; 0 lets the engine choose.
        """
        ...

    def remove(self, references: tuple[str, ...]) -> None:
        """Removes images; what is not there is passed over."""
        ...

    def clean(self) -> tuple[str, ...]:
        """Removes the containers and the network that killed runs left, and every image that Torchyard made.

        Returns the tags of the removed images.
        """
        ...
