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
    """An image in the engine. `digest` is its id, `config` how it runs (User, Entrypoint, …), `size` is in bytes.

    `created` is when it was made, RFC 3339.
    """

    digest: str
    labels: Mapping[str, str]
    diff_ids: tuple[str, ...]
    config: Mapping[str, Any]
    architecture: str
    size: int
    created: str


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

    `beside` is the id of a serving container whose loopback the job shares, where it has to talk to it; `network` gives
    it the host's network instead, for tools that talk to registries. A job that runs for longer than `seconds` is
    ended; None lets it take its time.
    """

    image: str
    command: tuple[str, ...]
    limits: Limits
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: bool = False
    beside: str = ""
    network: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A container that stays until it is stopped: not root, read-only root, no capabilities, no way out.

    Its `inner` port is published on loopback `port`. What it writes to `folder` is kept in the volume `name`.
    """

    name: str
    image: str
    port: int
    inner: int
    folder: str
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """An image in a registry: the digest of its manifest, and the layers that had to be sent, by diff id."""

    digest: str
    sent: tuple[str, ...]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a container has used of the cores so far, and of memory now, in bytes: its working set, and anonymous
    memory alone, which no file stands behind."""

    cpu_seconds: float
    working_set: int
    anonymous: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A container's first process: its open file descriptors, and its resident memory in bytes, shared pages too."""

    descriptors: int
    resident: int


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
    def started(self) -> float:
        """When the engine started its process, in seconds since the epoch."""
        ...

    @property
    def grpc_address(self) -> str:
        """Where it listens for gRPC, as `127.0.0.1:port`."""
        ...

    def ended(self) -> str | None:
        """None while it runs, else its exit code and last lines."""
        ...

    def last_lines(self) -> str:
        """What it printed last, a line each, indented."""
        ...

    def usage(self) -> Usage:
        """What it uses; it must be running."""
        ...

    def process(self) -> Process:
        """How its first process is; looking starts another process in it for a moment."""
        ...

    def terminate(self) -> None:
        """Sends SIGTERM."""
        ...

    def wait(self, seconds: float) -> int:
        """Waits for its end; its exit code.

        Raises:
            ContainerFailed: it still runs after so many seconds.
        """
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

    def push(self, image: str, *, repository: str, tag: str) -> Pushed:
        """Sends an image to a registry, as `tag`, with the credentials of Docker's own store.

        Raises:
            RegistryError: the registry does not answer, or refuses.
        """
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

    def files(self, reference: str) -> AbstractContextManager[BinaryIO]:
        """The file system of an image, all layers together, as a tar stream to be read once. Nothing of it is run.

        Names that the engine makes itself (/dev, /.dockerenv, /etc/hosts, …) are in it as empty files.
        """
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

    def start(self, service: Service) -> None:
        """Starts a service, or leaves it as it is where one of this name and image runs on this port."""
        ...

    def stop(self, name: str) -> bool:
        """Ends a service; its volume stays. Tells whether there was one."""
        ...

    def remove(self, references: tuple[str, ...]) -> None:
        """Removes images; what is not there is passed over."""
        ...

    def clean(self) -> tuple[str, ...]:
        """Removes the containers and the network that killed runs left, and every image that Torchyard made.

        Returns the tags of the removed images.
        """
        ...
