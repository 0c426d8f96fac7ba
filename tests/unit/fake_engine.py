"""A container engine in memory: images made of layer tars, saved and loaded as Docker does; jobs are functions."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.artifacts import Limits
from pipeline.engine import Build, Image, Info, Job, Process, Pushed, Service, Serving, Usage
from pipeline.errors import ContainerFailed, EngineError


def layer(files: Mapping[str, bytes]) -> bytes:
    """A layer tar of regular files, owned by root, mode 0644."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in files.items():
            _add(archive, path, content)
    return out.getvalue()


@dataclass(slots=True, kw_only=True)
class FakeServing:
    """A serving container that started at 0 s; it uses a second of a core whenever it is asked about that."""

    id: str
    address: str
    grpc_address: str = ""
    started: float = 0.0
    descriptors: int = 10
    working_set: int = 200 * 2**20
    code: int = 0
    terminated: bool = False
    cpu_seconds: float = 0.0

    def ended(self) -> str | None:
        return "it ended with exit code 0:"

    def last_lines(self) -> str:
        return "  loading"

    def usage(self) -> Usage:
        self.cpu_seconds += 1
        return Usage(cpu_seconds=self.cpu_seconds, working_set=self.working_set, anonymous=150 * 2**20)

    def process(self) -> Process:
        return Process(descriptors=self.descriptors, resident=220 * 2**20)

    def terminate(self) -> None:
        self.terminated = True

    def wait(self, seconds: float) -> int:
        if not self.terminated:
            raise ContainerFailed(f"It still runs {seconds:g} s after SIGTERM.", hung=True)
        return self.code


class FakeEngine:
    """Implements `pipeline.engine.Engine`.

    Give it images with `add`. Set `on_run` to what a container does: a function of the job and of `on_line` that
    may read and write the job's mounts on the host and raise ContainerFailed. Every job and every build is kept
    in `jobs` and `builds`, oldest first.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.builds: list[Build] = []
        self.served: list[FakeServing] = []
        self.services: dict[str, Service] = {}
        self.on_run: Callable[[Job, Callable[[str], None]], None] = lambda _job, _on_line: None
        self._tags: dict[str, str] = {}
        self._configs: dict[str, bytes] = {}
        self._layers: dict[str, bytes] = {}

    def add(
        self,
        tag: str,
        *,
        layers: Sequence[bytes] = (),
        config: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> Image:
        """Puts an image into the engine: layer tars from the lowest up, and the `config` part of its configuration."""
        diff_ids = [self._keep(content) for content in layers]
        configuration = {
            "architecture": "amd64",
            "os": "linux",
            "config": {**(config or {}), "Labels": dict(labels or {})},
            "history": list(history),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        return self._register(json.dumps(configuration, sort_keys=True).encode(), (tag,))

    def info(self) -> Info:
        return Info(
            address="fake://", version="20.10.24", memory=2**33, cpus=2, root=Path("/"), gpus=False, security=()
        )

    def find(self, reference: str) -> Image | None:
        digest = self._tags.get(reference, reference)
        if digest not in self._configs:
            return None
        content = json.loads(self._configs[digest])
        diff_ids = tuple(content["rootfs"]["diff_ids"])
        return Image(
            digest=digest,
            labels=content["config"].get("Labels") or {},
            diff_ids=diff_ids,
            config=content["config"],
            architecture=content["architecture"],
            size=sum(len(self._layers[diff_id]) for diff_id in diff_ids),
            created="2026-01-01T00:00:00Z",
        )

    def build(self, build: Build) -> Image:
        """Keeps the build and makes an image without layers that has its labels."""
        self.builds.append(build)
        return self.add(build.tag, labels=build.labels)

    def pull(self, reference: str) -> Image:
        """There is no registry: an image that was not added cannot be had."""
        return self._get(reference)

    def import_root(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> Image:
        return self.add(tag, layers=(archive.read_bytes(),), labels=labels)

    def load(self, archive: BinaryIO) -> None:
        with tarfile.open(fileobj=archive, mode="r|") as stream:
            members = {member.name: _content(stream, member) for member in stream if member.isreg()}
        for entry in json.loads(members["manifest.json"]):
            configuration = members[entry["Config"]]
            for path, diff_id in zip(entry["Layers"], json.loads(configuration)["rootfs"]["diff_ids"], strict=True):
                if path in members and self._keep(members[path]) != diff_id:
                    raise EngineError(f"The container engine refused: {path} is not the layer {diff_id}")
                if diff_id not in self._layers:
                    raise EngineError(f"The container engine refused: the layer {diff_id} is not there")
            self._register(configuration, tuple(entry["RepoTags"] or ()))

    @contextmanager
    def save(self, reference: str) -> Iterator[BinaryIO]:
        image = self._get(reference)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            paths = [f"{diff_id.removeprefix('sha256:')}/layer.tar" for diff_id in image.diff_ids]
            for path, diff_id in dict(zip(paths, image.diff_ids, strict=True)).items():
                _add(archive, path, self._layers[diff_id])
            config = f"{image.digest.removeprefix('sha256:')}.json"
            _add(archive, config, self._configs[image.digest])
            tags = [tag for tag, digest in self._tags.items() if digest == image.digest]
            manifest = [{"Config": config, "RepoTags": tags, "Layers": paths}]
            _add(archive, "manifest.json", json.dumps(manifest).encode())
        out.seek(0)
        yield out

    @contextmanager
    def files(self, reference: str) -> Iterator[BinaryIO]:
        """The regular files of all layers, the topmost of each name."""
        found: dict[str, bytes] = {}
        for diff_id in self._get(reference).diff_ids:
            with tarfile.open(fileobj=io.BytesIO(self._layers[diff_id])) as archive:
                found |= {each.name.removeprefix("./"): _content(archive, each) for each in archive if each.isreg()}
        yield io.BytesIO(layer(found))

    def push(self, image: str, *, repository: str, tag: str) -> Pushed:
        """There is no registry; the digest is that of the name."""
        found = self._get(image)
        return Pushed(digest=_digest(f"{repository}:{tag}".encode()), sent=found.diff_ids)

    def start(self, service: Service) -> None:
        self.services[service.name] = service

    def stop(self, name: str) -> bool:
        return self.services.pop(name, None) is not None

    def read_file(self, reference: str, path: str) -> bytes | None:
        """The file in the topmost layer that has it; links and whiteouts are not followed."""
        for diff_id in reversed(self._get(reference).diff_ids):
            with tarfile.open(fileobj=io.BytesIO(self._layers[diff_id])) as archive:
                for member in archive:
                    if member.isreg() and member.name.removeprefix("./") == path.removeprefix("/"):
                        return _content(archive, member)
        return None

    def run(self, job: Job, *, on_line: Callable[[str], None]) -> None:
        self._get(job.image)
        self.jobs.append(job)
        self.on_run(job, on_line)

    @contextmanager
    def serve(
        self,
        reference: str,
        *,
        name: str,
        port: int,
        limits: Limits,  # noqa: ARG002
        grpc_port: int = 0,
    ) -> Iterator[Serving]:
        """Nothing listens at the address, and the container has ended. What it was is kept in `served`."""
        self._get(reference)
        loopback = "127.0.0.1:{}".format
        self.served.append(FakeServing(id=name, address=loopback(port), grpc_address=loopback(grpc_port)))
        yield self.served[-1]

    def tags(self, label: str) -> tuple[str, ...]:
        return tuple(sorted(tag for tag in self._tags if label in self._get(tag).labels))

    def remove(self, references: tuple[str, ...]) -> None:
        for reference in references:
            digest = self._tags.pop(reference, reference)
            if digest not in self._tags.values():
                self._configs.pop(digest, None)

    def clean(self) -> tuple[str, ...]:
        made = [tag for tag in self._tags if any(key.startswith("io.torchyard") for key in self._get(tag).labels)]
        self.remove(tuple(made))
        return tuple(sorted(made))

    def _get(self, reference: str) -> Image:
        image = self.find(reference)
        if image is None:
            raise EngineError(f"The container engine refused: no such image: {reference}")
        return image

    def _keep(self, content: bytes) -> str:
        diff_id = _digest(content)
        self._layers[diff_id] = content
        return diff_id

    def _register(self, configuration: bytes, tags: tuple[str, ...]) -> Image:
        digest = _digest(configuration)
        self._configs[digest] = configuration
        self._tags.update(dict.fromkeys(tags, digest))
        return self._get(digest)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return cast(BinaryIO, archive.extractfile(member)).read()
