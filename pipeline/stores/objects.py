"""Object storage, or a folder, by URLs of fsspec: https://filesystem-spec.readthedocs.io/en/latest/api.html

Credentials are what the store's own SDK finds, and are given to nobody here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import RegistryError
from pipeline.records import write_atomic


def opened(url: str) -> "Objects":
    """The files below a URL such as s3://bucket/models.

    Raises:
        RegistryError: there is no such kind of store, its driver is not installed, or its SDK finds no credentials.
    """
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise RegistryError(
            f"{url}: fsspec cannot open it ({error}). Install what it names beside Torchyard, or correct the URL: "
            "store.url in torchyard.toml, or TORCHYARD_STORE."
        ) from error
    except Exception as error:
        raise _refused(url, error) from error
    return Objects(url, system, root.rstrip("/"))


class Objects:
    """Implements `pipeline.stores.Files` on one of fsspec's file systems."""

    def __init__(self, url: str, system: Any, root: str) -> None:
        self._url = url
        self._system = system
        self._root = root

    def read(self, path: str) -> bytes | None:
        try:
            with _told(self._url):
                return bytes(self._system.cat_file(f"{self._root}/{path}"))
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        where = f"{self._root}/{path}"
        # A store of objects has them whole or not at all; fsspec's own way with local files has not.
        if isinstance(self._system, LocalFileSystem):
            write_atomic(Path(where), content)
            return
        try:
            with _told(self._url):
                self._system.pipe_file(where, content)
        except FileNotFoundError as error:
            raise RegistryError(
                f"{self._url}: there is no such bucket ({error}). Make it, or correct the URL."
            ) from error

    def has(self, path: str, size: int) -> bool:
        try:
            with _told(self._url):
                self._system.invalidate_cache()
                return bool(self._system.info(f"{self._root}/{path}")["size"] == size)
        except FileNotFoundError:
            return False


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Every SDK has errors of its own, most of them of no common kind."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _refused(url, error) from error


def _refused(url: str, error: Exception) -> RegistryError:
    return RegistryError(
        f"{url}: the store does not answer or refuses ({error or type(error).__name__}). Its SDK looks for credentials "
        "where it always does; put them right and run the same command again."
    )
