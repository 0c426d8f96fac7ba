"""torchyard.toml and the environment -> where releases go and with which key."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RegistryError, SettingsError
from pipeline.oci import Repository, parse
from pipeline.sigstore import Instance

HOME = Path(__file__).resolve().parent.parent
REGISTRY, KEY, STORE = "TORCHYARD_REGISTRY", "TORCHYARD_KEY", "TORCHYARD_STORE"
# In the place of a key's path.
KEYLESS = "keyless"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`releases` is the folder of repositories where images are released, one a model; `key` the private key, or None
    where whoever runs this signs without one, with certificates of `sigstore`. `store` is the URL of another place that
    keeps archives, or empty."""

    releases: str
    key: Path | None
    sigstore: Instance
    store: str


def load(path: Path = HOME / "torchyard.toml") -> Settings:
    """Reads the settings; TORCHYARD_REGISTRY, TORCHYARD_KEY and TORCHYARD_STORE take the place of what the file says.

    Raises:
        SettingsError: it cannot be read, or lacks something.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        releases = os.environ.get(REGISTRY) or str(content["registry"]["releases"])
        key = os.environ.get(KEY) or str(content["signing"]["key"])
        store = os.environ.get(STORE) or str(content.get("store", {}).get("url", ""))
        sigstore = _sigstore(content.get("sigstore", {}), path.parent)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise SettingsError(f"{path}: cannot be used ({error!r}). Restore it from git.") from error
    repository(releases, "model")
    if has_secret(store):
        raise SettingsError(
            f"store.url, or {STORE}, has a password or a token in it, which would be in every reference. "
            "Leave it to what the store's SDK or git knows."
        )
    return Settings(
        releases=releases,
        key=None if key == KEYLESS else absolute(key, path.parent),
        sigstore=sigstore,
        store=store.rstrip("/"),
    )


def has_secret(url: str) -> bool:
    """Whether a store's URL, or a reference in it, has a password or a token in it, or a query, which is where others
    have theirs."""
    return re.search(r"https?://[^/]*@|//[^/@]*:[^/@]*@|\?", url) is not None


def _sigstore(asked: Mapping[str, str], folder: Path) -> Instance:
    """The public instance, or the one that is asked for, with what verifies it."""
    if not asked:
        return Instance()
    files = {name: absolute(asked[name], folder) for name in ("root", "ctlog", "log")}
    return Instance(fulcio=asked["fulcio"], rekor=asked["rekor"], **files)


def repository(folder: str, model: str) -> Repository:
    """The repository of a model below a folder such as 127.0.0.1:5000/releases; registries know no capital letters.

    Raises:
        SettingsError: it cannot be the name of one.
    """
    try:
        found, name = parse(f"{folder.lower()}/{model}")
    except RegistryError as error:
        raise SettingsError(f"{folder!r} cannot hold repositories: {error}") from error
    if name:
        raise SettingsError(f"{folder!r} names a tag or a digest; it has to be host/path.")
    return found


def absolute(path: str, folder: Path) -> Path:
    """A path of a settings file: from the home folder with `~`, else relative to the file."""
    return (folder / Path(path).expanduser()).absolute()
