"""A runtime image and an archive -> the serving image: one deterministic layer on top, nothing below it touched."""

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.artifacts import Archive, File, ServingImage
from pipeline.engine import ACCEPTED, LABEL, Engine, Image
from pipeline.errors import AssembleError, EngineError

# What of a runtime's configuration a serving image takes over: all that says how it runs.
_KEPT = ("Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "StopSignal", "User", "WorkingDir")
_OCI = "org.opencontainers.image"


def assemble(archive: Archive, *, runtime: Image, epoch: int, engine: Engine) -> ServingImage:
    """Adds the archive, its contract, its samples and the model's own operators to the runtime image as one layer.

    The layer's bytes depend on those files only, and the image's on them, the runtime and `epoch` (seconds,
    the time that the image and its files carry), so assembling twice gives the same digests. The engine is given
    the new layer and the configuration; layers that it has already are not sent again.

    Raises:
        AssembleError: a file is no longer the one that was exported, or contract and files do not belong together.
    """
    _verify(archive)
    spec, device = archive.trained.spec, runtime.labels[f"{LABEL}.device"]
    tag = f"{spec.name}:{spec.version}-{device}"
    with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
        layer = Path(folder) / "model.tar"
        _write_layer(archive, layer, epoch)
        diff_ids = (*runtime.diff_ids, "sha256:" + File.of(layer).sha256)
        config = _config(runtime, diff_ids, _labels(archive, runtime), epoch)
        try:
            with _docker_archive(config, tag, layer, diff_ids, lower={}) as image:
                engine.load(image)
        except EngineError:
            # An engine on containerd's image store wants every layer in the file, also those it has.
            with engine.save(runtime.digest) as saved:
                lower = _layers_of(saved, Path(folder))
            with _docker_archive(config, tag, layer, diff_ids, lower=lower) as image:
                engine.load(image)
    made = engine.find(tag)
    if made is None or made.diff_ids != diff_ids:
        raise AssembleError(f"{tag}: the engine did not keep the image as it was given. Run `inv assemble` again.")
    return ServingImage(
        tag=tag, digest=made.digest, diff_ids=diff_ids, device=device, runtime=runtime.digest, archive=archive
    )


def _verify(archive: Archive) -> None:
    for file in _files(archive):
        if not file.is_intact():
            raise AssembleError(
                f"{file.path}: not the file that was exported (its SHA-256 is no longer {file.sha256}). "
                "Something changed it since; run `inv export` again and do not assemble this one."
            )
    contract = json.loads(archive.contract.path.read_text(encoding="utf-8"))
    parts = {"archive": archive.file, "samples": archive.samples, "ops": archive.ops}
    for part, made in parts.items():
        named, found = contract.get(part, {}).get("sha256", "none"), made.sha256 if made else "none"
        if named != found:
            raise AssembleError(
                f"{archive.contract.path}: names {part} {named}, and the export has {found}. "
                "They come from different exports; run `inv export` again."
            )


def _files(archive: Archive) -> tuple[File, ...]:
    """What is shipped, in the layer's order."""
    return tuple(file for file in (archive.contract, archive.file, archive.ops, archive.samples) if file)


def _write_layer(archive: Archive, path: Path, epoch: int) -> None:
    """Writes the model layer: /model with its files, owned by root, readable by all, writable by nobody."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as layer:
        folder = tarfile.TarInfo("model")
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o555, epoch
        layer.addfile(folder)
        for file in _files(archive):
            member = tarfile.TarInfo(f"model/{file.path.name}")
            member.size, member.mode, member.mtime = file.size, 0o444, epoch
            with file.path.open("rb") as content:
                layer.addfile(member, content)


def _labels(archive: Archive, runtime: Image) -> dict[str, str]:
    """OCI annotations (image-spec annotations.md) and what the later steps read from the image alone."""
    spec = archive.trained.spec
    contract = json.loads(archive.contract.path.read_text(encoding="utf-8"))
    accepted = archive.evidence.accepted
    return {
        **({ACCEPTED: accepted} if accepted else {}),
        f"{_OCI}.title": spec.name,
        f"{_OCI}.version": spec.version,
        f"{_OCI}.description": spec.description,
        f"{_OCI}.licenses": spec.license,
        f"{_OCI}.base.name": runtime.labels[f"{_OCI}.ref.name"],
        f"{LABEL}.torch": runtime.labels[f"{LABEL}.torch"],
        f"{LABEL}.device": runtime.labels[f"{LABEL}.device"],
        f"{LABEL}.runtime.digest": runtime.digest,
        f"{LABEL}.archive.digest": f"sha256:{archive.file.sha256}",
        **({f"{LABEL}.ops.digest": f"sha256:{archive.ops.sha256}"} if archive.ops else {}),
        f"{LABEL}.contract": json.dumps(contract, sort_keys=True, separators=(",", ":")),
        f"{LABEL}.limits.memory": str(spec.serving.memory),
        f"{LABEL}.limits.cpus": str(spec.serving.cpus),
        f"{LABEL}.limits.pids": str(spec.serving.pids),
    }


def _config(runtime: Image, diff_ids: tuple[str, ...], labels: Mapping[str, str], epoch: int) -> bytes:
    """The OCI image configuration (image-spec config.md), with Docker's Healthcheck."""
    created = f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%SZ}"
    history = [{"created": created, "created_by": labels[f"{_OCI}.base.name"]} for _ in runtime.diff_ids]
    history.append({"created": created, "created_by": "inv assemble", "comment": labels[f"{LABEL}.archive.digest"]})
    config: dict[str, Any] = {
        "architecture": runtime.architecture,
        "os": "linux",
        "created": created,
        "config": {key: runtime.config[key] for key in _KEPT if runtime.config.get(key)} | {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": history,
    }
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


@contextmanager
def _docker_archive(
    config: bytes, tag: str, layer: Path, diff_ids: tuple[str, ...], *, lower: Mapping[str, Path]
) -> Iterator[BinaryIO]:
    """A docker-archive tar of the image; of the layers below the model's it holds those in `lower`, by diff id."""
    name = hashlib.sha256(config).hexdigest() + ".json"
    layers = [f"{diff_id.removeprefix('sha256:')}.tar" for diff_id in diff_ids]
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": layers}]).encode()
    with tempfile.TemporaryFile() as image:
        with tarfile.open(fileobj=image, mode="w") as out:
            for member, content in ((name, config), ("manifest.json", manifest)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
            for diff_id, path in {**lower, diff_ids[-1]: layer}.items():
                out.add(path, arcname=f"{diff_id.removeprefix('sha256:')}.tar")
        image.seek(0)
        yield image


def _layers_of(saved: BinaryIO, folder: Path) -> dict[str, Path]:
    """Unpacks the layers of a saved image into `folder`, by diff id."""
    layers: dict[str, Path] = {}
    with tarfile.open(fileobj=saved, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or member.name.endswith((".json", "VERSION", "oci-layout", "json", "repositories")):
                continue
            path = folder / f"layer-{len(layers)}"
            with path.open("wb") as out:
                shutil.copyfileobj(content, out)
            layers["sha256:" + File.of(path).sha256] = path
    return layers
