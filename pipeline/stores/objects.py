"""Object storage, and everything else that fsspec knows: https://filesystem-spec.readthedocs.io/en/latest/api.html

Credentials are what the store's own SDK finds, and are given to nobody here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from pipeline.errors import RegistryError


@contextmanager
def opened(url: str) -> Iterator["Objects"]:
    """The files below a URL such as s3://bucket/models.

    Raises:
        RegistryError: there is no such kind of store, its driver is not installed, or the store refuses.
    """
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise RegistryError(
            f"{url}: fsspec cannot open it ({error}). Install what it names beside Torchyard, or correct the URL: "
            "store.url in torchyard.toml, or TORCHYARD_STORE."
        ) from error
    try:
        yield Objects(system, root.rstrip("/"))
    except RegistryError:
        raise
    except OSError as error:
        raise _refused(url, error) from error


def _refused(url: str, error: Exception) -> RegistryError:
    return RegistryError(
        f"{url}: the store does not answer or refuses ({error or type(error).__name__}). Its SDK looks for credentials "
        "where it always does; put them right and run the same command again."
    )


class Objects:
    """Implements `pipeline.stores.Files` on one of fsspec's file systems."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root

    def read(self, path: str) -> bytes | None:
        try:
            return bytes(self._system.cat_file(f"{self._root}/{path}"))
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        where = f"{self._root}/{path}"
        self._system.makedirs(where.rpartition("/")[0], exist_ok=True)
        # What is not complete when the transaction ends is no file.
        with self._system.transaction, self._system.open(where, "wb") as stream:
            stream.write(content)

    def has(self, path: str) -> bool:
        self._system.invalidate_cache()
        return bool(self._system.exists(f"{self._root}/{path}"))
