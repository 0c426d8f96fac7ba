"""Stores that cannot be used are told; what they keep is a container test, with real ones."""

from pathlib import Path

import pytest

from pipeline import settings, stores
from pipeline.errors import RegistryError, SettingsError


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nowhere://bucket", "fsspec cannot open it .*nowhere.*store.url in torchyard.toml, or TORCHYARD_STORE"),
        ("gs://bucket", "fsspec cannot open it .*gcsfs"),
    ],
)
def test_a_store_that_nothing_opens_is_told(url: str, told: str) -> None:
    with pytest.raises(RegistryError, match=told), stores.opened(url):
        pass


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stores.opened(f"file://{tmp_path}") as files:
        monkeypatch.setattr("fsspec.implementations.local.LocalFileOpener.write", _full)
        with pytest.raises(OSError, match="disk is full"):
            files.write("a/b", b"content")
        assert not files.has("a/b")
        assert files.read("a/b") is None


def _full(*_: object) -> None:
    raise OSError("the disk is full")


def test_a_password_has_no_place_in_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().store == ""
    monkeypatch.setenv(settings.STORE, "s3://bucket/models/")
    assert settings.load().store == "s3://bucket/models"
    monkeypatch.setenv(settings.STORE, "git+ssh://git@example.com/models.git")
    assert settings.load().store.endswith("models.git")
    monkeypatch.setenv(settings.STORE, "git+https://me:secret@example.com/models.git")
    with pytest.raises(SettingsError, match="has a password in it") as told:
        settings.load()
    assert "secret" not in str(told.value)
