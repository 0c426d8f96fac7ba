"""Stores that cannot be used are told; what they keep is a container test, with real ones."""

from pathlib import Path

import pytest

from pipeline import settings, stores
from pipeline.errors import RegistryError, SettingsError, VerifyError
from pipeline.signing import Identity
from tests.unit.fake_registry import FakeCosign, FakeRegistry


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


class Broken:
    """A store whose SDK has errors of its own."""

    def __getattr__(self, name: str) -> object:
        def fails(*_: object) -> None:
            raise Sdk("no credentials")

        return fails


class Sdk(ValueError):
    """Of no common kind."""


def test_whatever_an_sdk_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda _: (Broken(), "root"))
    with stores.opened("s3://bucket") as files:
        for ask in (
            lambda: files.read("a"),
            lambda: files.write("a", b""),
            lambda: files.has("a", 1),
        ):
            with pytest.raises(RegistryError, match=r"s3://bucket: the store does not .* \(no credentials"):
                ask()


def test_half_a_file_is_none(tmp_path: Path) -> None:
    with stores.opened(f"file://{tmp_path}") as files:
        files.write("a/b", b"content")
        assert files.has("a/b", 7)
        assert not files.has("a/b", 8)
        assert not files.has("a/c", 7)
        assert files.read("a/c") is None
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_password_has_no_place_in_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().store == ""
    monkeypatch.setenv(settings.STORE, "s3://bucket/models/")
    assert settings.load().store == "s3://bucket/models"
    monkeypatch.setenv(settings.STORE, "git+ssh://git@example.com/models.git")
    assert settings.load().store.endswith("models.git")
    for url in (
        "git+https://me:secret@example.com/models.git",
        "git+https://secret@example.com/models.git",
        "s3://a:secret@b",
        "https://example.com/models?sig=secret",
    ):
        monkeypatch.setenv(settings.STORE, url)
        with pytest.raises(SettingsError, match="has a password or a token in it") as told:
            settings.load()
        assert "secret" not in str(told.value)
        signer = Identity(name="we", key=Path("cosign.pub"))
        with pytest.raises(VerifyError, match="has a password or a token in it") as refused:
            stores.taken(f"{url}/tiny@sha256:{'a' * 64}", signers=(signer,), cosign=FakeCosign(FakeRegistry()))
        assert "secret" not in str(refused.value)
