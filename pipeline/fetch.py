"""An archive from a registry or another store, by digest: the shared store of models."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline import records, stores
from pipeline.artifacts import File
from pipeline.errors import VerifyError
from pipeline.oci import Blob, Manifest, Registry, Repository, parse
from pipeline.release.modelpack import ARTIFACT, PATH
from pipeline.signing import Cosign, Identity, shown


def fetch(
    reference: str, out: Path, *, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign
) -> tuple[File, ...]:
    """Gets an archive back by digest into the folder `out`, from a registry or another store: all of it, or nothing.

    Raises:
        VerifyError: `out` is a file, the reference names no digest, no signature of it by one of the signers verifies,
            it is no model, or its contract names another archive.
        RegistryError: the registry or store does not answer, or gives something else than its digests say.
    """
    if out.exists() and not out.is_dir():
        raise VerifyError(f"--out {out} is a file, and has to be a folder, which need not be there.")
    if stores.is_stored(reference):
        found, blobs = stores.taken(reference, signers=signers, cosign=cosign)
        _refuse_others(found, reference)
    else:
        found, blobs = _from_registry(reference, signers, registry, cosign)
    contents = {_name(layer, reference): blobs[layer.digest] for layer in found.layers}
    _fits(contents, reference)
    for name, content in contents.items():
        records.write_atomic(out / name, content)
    return tuple(File.of(out / name) for name in contents)


def _from_registry(
    reference: str, signers: tuple[Identity, ...], registry: Registry, cosign: Cosign
) -> tuple[Manifest, dict[str, bytes]]:
    repository, digest = parse(reference)
    if not digest.startswith("sha256:"):
        raise VerifyError(f"{reference} names no digest. A tag can mean something else tomorrow; fetch @sha256:….")
    found = registry.manifest(repository, digest)
    _refuse_others(found, reference)
    assert found
    payloads = (payload for signer in signers for payload in cosign.signatures(reference, by=signer))
    if not any(each["critical"]["identity"]["docker-reference"] == str(repository) for each in payloads):
        raise VerifyError(
            f"{reference}: no signature for this repository verifies under {shown(signers)}. "
            "Do not use it; have it released again by whoever holds the key."
        )
    return found, {layer.digest: _whole(registry, repository, layer.digest) for layer in found.layers}


def _whole(registry: Registry, repository: Repository, digest: str) -> bytes:
    """However large it is: its manifest is signed."""
    with registry.stream(repository, digest) as chunks:
        return b"".join(chunks)


def _refuse_others(found: Manifest | None, reference: str) -> None:
    if found is None or found.kind != ARTIFACT:
        raise VerifyError(
            f"{reference}: there is no model there, but {'something else' if found else 'nothing'}. "
            "The digest is that of `model` in build/NAME/release.json, and not the image's."
        )


def _name(layer: Blob, reference: str) -> str:
    name = dict(layer.annotations).get(PATH, "")
    if not name or name != Path(name).name or name.startswith("."):
        raise VerifyError(f"{reference}: has a file named {name!r}, which could be written anywhere. Do not use it.")
    return name


def _fits(contents: dict[str, bytes], reference: str) -> None:
    try:
        named = json.loads(contents["contract.json"])
        wrong = [part for part in ("archive", "samples", "ops") if part in named and not _same(named[part], contents)]
    except (KeyError, ValueError, TypeError) as error:
        raise VerifyError(f"{reference}: its contract cannot be read ({error!r}). Do not use it.") from error
    if wrong:
        raise VerifyError(f"{reference}: its contract names another {', '.join(wrong)} than it has. Do not use it.")


def _same(named: dict[str, Any], contents: dict[str, bytes]) -> bool:
    return hashlib.sha256(contents[named["file"]]).hexdigest() == str(named["sha256"])
