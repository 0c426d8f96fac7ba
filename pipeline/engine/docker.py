"""The engine that is there: Docker, driven through its SDK, with BuildKit for building."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, cast

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest
from docker.types import Mount as DockerMount

from pipeline.artifacts import Limits
from pipeline.engine import LABEL, Build, Image, Info, Job, Pushed, Service, Serving
from pipeline.engine.buildkit import Builder
from pipeline.engine.containers import DockerServing, Stream, created, remove, run_to_end
from pipeline.engine.failures import engine_errors, short
from pipeline.engine.pushing import push
from pipeline.errors import EngineError

# Image ids, container ids and layers are plain HTTP over a socket; a call that takes longer than this hangs.
TIMEOUT = 600
NETWORK = "torchyard-serving"
# How an engine tells of it, the default of new installations of 29: https://docs.docker.com/engine/storage/containerd/
_CONTAINERD = ["driver-type", "io.containerd.snapshotter.v1"]


def connect() -> "DockerEngine":
    """The engine that DOCKER_HOST, the current docker context or the default socket leads to.

    Raises:
        EngineError: none answers, or it keeps images in a way that is not known here.
    """
    address = os.environ.get("DOCKER_HOST") or _context_address()
    try:
        client = docker.DockerClient(base_url=address, version="auto", timeout=TIMEOUT)
        kept = client.info().get("DriverStatus") or []
    except (DockerException, requests.RequestException) as error:
        raise EngineError(
            f"No container engine answers at {address or 'the default socket'} ({short(error)}). "
            "Start it (Docker Desktop, or `dockerd` as root) or set DOCKER_HOST; `inv doctor` shows what is missing."
        ) from error
    if _CONTAINERD in kept:
        raise EngineError(
            "The container engine keeps images in containerd's store, where an image's id is not the digest of its "
            "configuration, which is what verdicts and signatures are about. Have it keep them in its own: set "
            '{"features": {"containerd-snapshotter": false}} in /etc/docker/daemon.json, or in Docker Desktop turn off '
            '"Use containerd for pulling and storing images", and restart it. What is built has to be built again.'
        )
    return DockerEngine(client, address or "unix:///var/run/docker.sock")


def _context_address() -> str | None:
    """Where the current docker context points: Docker Desktop, colima and rootless engines have their own sockets."""
    if Path("/var/run/docker.sock").exists() or not shutil.which("docker"):
        return None
    command = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def production(limits: Limits, network: str = NETWORK) -> dict[str, Any]:
    """The production contract as arguments of the SDK's `run`: what a serving container may do and use.

    The same as Kubernetes' restricted Pod Security Standard, with a read-only root and no way out: the network
    has no masquerading, so that answers reach the published port and nothing else leaves.
    """
    return {
        "read_only": True,
        "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=64m"},  # noqa: S108 (inside the container)
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": limits.pids,
        "mem_limit": limits.memory * 2**20,
        "memswap_limit": limits.memory * 2**20,
        "nano_cpus": int(limits.cpus * 1e9),
        "network": network,
        "labels": {LABEL: "serving"},
    }


class DockerEngine:
    """Docker Engine 20.10 or newer; see `pipeline.engine.Engine` for what each method promises."""

    def __init__(self, client: docker.DockerClient, address: str) -> None:
        self._client = client
        self._address = address

    def info(self) -> Info:
        with engine_errors():
            info = self._client.info()
        return Info(
            address=self._address,
            version=info["ServerVersion"],
            memory=info["MemTotal"],
            cpus=info["NCPU"],
            root=Path(info["DockerRootDir"]),
            gpus="nvidia" in info.get("Runtimes", {}),
            security=tuple(info.get("SecurityOptions") or ()),
        )

    def find(self, reference: str) -> Image | None:
        with engine_errors():
            try:
                attrs: dict[str, Any] = self._client.images.get(reference).attrs
            except ImageNotFound:
                return None
        return Image(
            digest=attrs["Id"],
            labels=attrs["Config"].get("Labels") or {},
            diff_ids=tuple(attrs["RootFS"].get("Layers") or ()),
            config=attrs["Config"],
            architecture=attrs["Architecture"],
            size=attrs["Size"],
            created=attrs["Created"],
        )

    def tags(self, label: str) -> tuple[str, ...]:
        with engine_errors():
            images = self._client.images.list(filters={"label": label})
        return tuple(sorted(tag for image in images for tag in image.tags))

    def build(self, build: Build) -> Image:
        Builder.discover(self._address).build(build)
        return self._found(build.tag)

    def pull(self, reference: str) -> Image:
        with engine_errors():
            self._client.images.pull(reference)
        return self._found(reference)

    def push(self, image: str, *, repository: str, tag: str) -> Pushed:
        found = self._found(image)
        with engine_errors():
            return push(self._client, found, repository=repository, tag=tag)

    def import_root(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> Image:
        repository, _, name = tag.rpartition(":")
        changes = [f'LABEL "{key}"="{value}"' for key, value in sorted(labels.items())]
        with engine_errors():
            self._client.api.import_image_from_file(str(archive), repository, name, changes=changes)
        return self._found(tag)

    def load(self, archive: BinaryIO) -> None:
        with engine_errors():
            self._client.images.load(archive)

    @contextmanager
    def save(self, reference: str) -> Iterator[BinaryIO]:
        with engine_errors():
            chunks = self._client.api.get_image(reference)
        with io.BufferedReader(Stream(chunks), buffer_size=2**20) as stream:
            yield cast(BinaryIO, stream)

    @contextmanager
    def files(self, reference: str) -> Iterator[BinaryIO]:
        with created(self._client, reference, command=["-"], labels={LABEL: "read"}) as container:
            with engine_errors():
                chunks = cast(Iterator[bytes], container.export())
            with io.BufferedReader(Stream(chunks), buffer_size=2**20) as stream:
                yield cast(BinaryIO, stream)

    def read_file(self, reference: str, path: str) -> bytes | None:
        with created(self._client, reference, command=["-"], labels={LABEL: "read"}) as container, engine_errors():
            try:
                chunks, _ = container.get_archive(path)
                with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                    member = archive.extractfile(Path(path).name)
                    return member.read() if member else None
            except NotFound:
                return None

    def run(self, job: Job, *, on_line: Callable[[str], None]) -> None:
        network = f"container:{job.beside}" if job.beside else "host" if job.network else "none"
        limits = production(job.limits, network) | {"labels": {LABEL: "job"}}
        limits["tmpfs"] = {"/tmp": "rw,nosuid,nodev,size=1g"}  # noqa: S108 (inside the container)
        making = created(
            self._client,
            job.image,
            entrypoint=list(job.command),
            user=f"{os.getuid()}:{os.getgid()}",
            environment=dict(job.env),
            mounts=[_mount(mount.source, mount.target, mount.writable) for mount in job.mounts],
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if job.gpus else None,
            **limits,
        )
        with making as container, engine_errors():
            run_to_end(container, job, on_line)

    @contextmanager
    def serve(self, reference: str, *, name: str, port: int, limits: Limits, grpc_port: int = 0) -> Iterator[Serving]:
        ports = {"8080/tcp": ("127.0.0.1", port), "8081/tcp": ("127.0.0.1", grpc_port)}
        settings = production(limits, self.serving_network())
        with created(self._client, reference, name=name, ports=ports, **settings) as container:
            with engine_errors():
                container.start()
            yield DockerServing(container)

    def start(self, service: Service) -> None:
        network = self.serving_network()
        with engine_errors():
            found = self._client.containers.list(all=True, filters={"name": f"^{service.name}$"})
            if found and _runs(found[0], service):
                return
            for stale in found:
                stale.remove(force=True)
            container = self._client.containers.create(
                service.image,
                name=service.name,
                ports={f"{service.inner}/tcp": ("127.0.0.1", service.port)},
                mounts=[DockerMount(target=service.folder, source=service.name, type="volume")],
                **production(service.limits, network) | {"labels": {LABEL: "service"}},
            )
            try:
                container.start()
            except BaseException:
                container.remove(force=True)
                raise

    def stop(self, name: str) -> bool:
        with engine_errors():
            found = self._client.containers.list(all=True, filters={"name": f"^{name}$", "label": f"{LABEL}=service"})
            for container in found:
                container.stop(timeout=10)
                container.remove()
        return bool(found)

    def remove(self, references: tuple[str, ...]) -> None:
        with engine_errors():
            for reference in references:
                with suppress(ImageNotFound):
                    self._client.images.remove(reference)

    def clean(self) -> tuple[str, ...]:
        label: dict[str, Any] = {"label": LABEL}
        with engine_errors():
            found = self._client.containers.list(all=True, filters=label)
            # A service runs until it is stopped; what it keeps may be all that there is of a release.
            services = [container for container in found if container.labels[LABEL] == "service"]
            for container in found:
                if container not in services:
                    remove(container)
            # They are in the network, and their image is needed.
            for network in [] if services else self._client.networks.list(filters=label):
                with suppress(NotFound):
                    network.remove()
            images = self._client.images.list()
        used = {service.attrs["Image"] for service in services}
        ours = [
            image for image in images if any(key.startswith(LABEL) for key in image.labels) and image.id not in used
        ]
        tags = tuple(sorted(tag for image in ours for tag in image.tags))
        self.remove(tags)
        return tags

    def containers(self) -> tuple[str, ...]:
        """The ids of the containers that Torchyard started and that are still there, running or not."""
        with engine_errors():
            ours: dict[str, Any] = {"label": LABEL}
            return tuple(sorted(str(found.id) for found in self._client.containers.list(all=True, filters=ours)))

    def serving_network(self) -> str:
        """The network that serving containers join, made when it is not there; nothing in it reaches outside."""
        with engine_errors():
            if not self._client.networks.list(names=[f"^{NETWORK}$"]):
                options = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
                try:
                    self._client.networks.create(
                        NETWORK, driver="bridge", check_duplicate=True, options=options, labels={LABEL: "network"}
                    )
                except APIError as error:
                    # Another command made it in this moment.
                    if error.status_code != HTTPStatus.CONFLICT:
                        raise
        return NETWORK

    def _found(self, reference: str) -> Image:
        image = self.find(reference)
        if image is None:
            raise EngineError(f"{reference} was made and is not in the engine: was it removed meanwhile? Run again.")
        return image


def _runs(container: Container, service: Service) -> bool:
    """Whether a container is this service, running: of its image, and to be reached on its port."""
    bound = container.ports.get(f"{service.inner}/tcp") or [{}]
    same = container.attrs["Image"] == service.image and bound[0].get("HostPort") == str(service.port)
    return bool(same and container.status == "running")


def _mount(source: Path, target: str, writable: bool) -> DockerMount:
    return DockerMount(target=target, source=str(source.resolve()), type="bind", read_only=not writable)
