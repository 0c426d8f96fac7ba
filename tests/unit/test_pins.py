"""The pins: the real file is whole, and what is missing or floats is refused."""

from pathlib import Path

import pytest

from pipeline import pins
from pipeline.errors import PinsError


def _changed(tmp_path: Path, old: str, new: str) -> Path:
    text = pins.PINS.read_text()
    assert old in text
    path = tmp_path / "pins.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_pins_of_this_project_are_whole() -> None:
    loaded = pins.load()
    assert loaded.trainer == "pytorch-cuda:v2.8"
    assert loaded.runtime == f"torchscript-runtime:v2.8-{loaded.device}"
    assert loaded.serving_root.keep
    assert not loaded.build_root.keep


def test_every_python_package_is_locked_with_a_hash() -> None:
    locks = [*pins.IMAGES.rglob("requirements.lock"), pins.IMAGES.parent / "requirements.lock"]
    assert len(locks) == 4
    for lock in locks:
        logical = lock.read_text().replace("\\\n", " ").splitlines()
        packages = [line for line in logical if line and not line.lstrip().startswith("#")]
        assert packages
        assert all("==" in line and "--hash=sha256:" in line for line in packages), lock


def test_a_missing_pin_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinsError, match="the pin 'suite' is missing"):
        pins.load(_changed(tmp_path, 'suite = "trixie"', ""))


@pytest.mark.parametrize("content", [b'torch = "\xe4"', b"debian = 1\nbase = 1", b'base = { build = "1" }\ndebian = 1'])
def test_pins_of_another_form_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pins.toml"
    path.write_bytes(content)
    with pytest.raises(PinsError, match="cannot be read"):
        pins.load(path)


def test_broken_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PinsError, match="cannot be read"):
        pins.load(_changed(tmp_path, "[debian]", "[debian"))


@pytest.mark.parametrize("image", ["debian:13", "debian", "debian@sha256:12", "@sha256:" + "0" * 64])
def test_a_registry_base_that_floats_is_refused(tmp_path: Path, image: str) -> None:
    path = _changed(tmp_path, 'variant = "minbase"', f'variant = "minbase"\nimage = "{image}"')
    with pytest.raises(PinsError, match=r"base\.build\.image is .* by digest"):
        pins.load(path)


def test_a_registry_base_by_digest_is_taken(tmp_path: Path) -> None:
    image = "docker.io/library/debian@sha256:" + "0" * 64
    assert (
        pins.load(_changed(tmp_path, 'variant = "minbase"', f'image = "{image}"\nvariant = "minbase"')).build_root.image
        == image
    )
