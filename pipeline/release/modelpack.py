"""An archive with its contract and samples as an OCI artifact, so that a registry is the store of models, too.

https://github.com/modelpack/model-spec/blob/main/docs/spec.md
"""

import json
from typing import Any

from pipeline.artifacts import Archive, File
from pipeline.oci import Blob, Manifest, Registry, Repository, digest_of, manifest

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG = "application/vnd.cncf.model.config.v1+json"
_WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
_BESIDE = "application/vnd.cncf.model.weight.config.v1.raw"
PATH = "org.cncf.model.filepath"


def packed(archive: Archive) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of an archive and all that it names, by digest: equal archives give equal manifests."""
    files = [file for file in (archive.file, archive.contract, archive.samples, archive.ops) if file]
    layers = [_layer(file, weights=file == archive.file) for file in files]
    blobs = {layer.digest: file.path.read_bytes() for layer, file in zip(layers, files, strict=True)}
    document = json.dumps(_config(archive, layers), sort_keys=True, separators=(",", ":")).encode()
    config = Blob(media_type=_CONFIG, digest=digest_of(document), size=len(document))
    return manifest(config, tuple(layers), artifact=ARTIFACT), {**blobs, config.digest: document}


def publish(archive: Archive, repository: Repository, *, registry: Registry) -> Manifest:
    """Puts the archive into a repository, by digest."""
    made, blobs = packed(archive)
    for each in (made.config, *made.layers):
        registry.put_blob(repository, blobs[each.digest], media_type=each.media_type)
    registry.put_manifest(repository, made.digest, made)
    return made


def _layer(file: File, *, weights: bool) -> Blob:
    kind = _WEIGHTS if weights else _BESIDE
    return Blob(media_type=kind, digest=f"sha256:{file.sha256}", size=file.size, annotations=((PATH, file.path.name),))


def _config(archive: Archive, layers: list[Blob]) -> dict[str, Any]:
    """https://github.com/modelpack/model-spec/blob/main/docs/config.md"""
    spec = archive.trained.spec
    return {
        "descriptor": {
            "name": spec.name,
            "version": spec.version,
            "description": spec.description,
            "licenses": [spec.license],
        },
        "config": {"format": "torchscript", "precision": archive.precision},
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }
