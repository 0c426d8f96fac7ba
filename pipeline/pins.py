"""images/pins.toml -> what each image is made from."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PinsError

IMAGES = Path(__file__).resolve().parent.parent / "images"
PINS = IMAGES / "pins.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootPin:
    """A root file system: bootstrapped from Debian packages, or, where `image` is set, taken from a registry.

    `keep` and `drop` are globs of paths in the root; an empty `keep` keeps everything.
    """

    name: str
    suite: str
    epoch: int
    variant: str
    packages: tuple[str, ...]
    keep: tuple[str, ...]
    drop: tuple[str, ...]
    image: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """Everything that images/pins.toml pins."""

    build_root: RootPin
    serving_root: RootPin
    load_root: RootPin
    registry_root: RootPin
    tools_root: RootPin
    trainer: str
    torch: str
    cuda: str
    toolchain: tuple[str, ...]
    runtime: str
    device: str
    load: str
    registry: str
    release_tools: str

    @property
    def bootstrapped(self) -> tuple[RootPin, ...]:
        """The roots that are made here; the others come from a registry."""
        roots = (self.build_root, self.serving_root, self.load_root, self.registry_root, self.tools_root)
        return tuple(root for root in roots if root.image is None)

    def serving_on(self, device: str) -> "Pins":
        """These pins, if they have a runtime image for a device; an empty one is whatever there is.

        Raises:
            PinsError: they have none.
        """
        if device not in {"", self.device}:
            raise PinsError(f"--device {device}: there is no runtime image for it. There is one for {self.device}.")
        return self


def load(path: Path = PINS) -> Pins:
    """Reads the pins.

    Raises:
        PinsError: the file is not there, is no TOML, or a pin is missing or not usable.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return Pins(
            build_root=_root("build", content),
            serving_root=_root("serving", content),
            load_root=_root("load", content),
            registry_root=_root("registry", content),
            tools_root=_root("release-tools", content),
            trainer=content["pytorch-cuda"]["tag"],
            torch=content["pytorch-cuda"]["torch"],
            cuda=content["pytorch-cuda"]["cuda"],
            toolchain=tuple(content["pytorch-cuda"]["toolchain"]),
            runtime=content["torchscript-runtime"]["tag"],
            device=content["torchscript-runtime"]["device"],
            load=content["load"]["tag"],
            registry=content["registry"]["tag"],
            release_tools=content["release-tools"]["tag"],
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PinsError(f"{path}: cannot be read ({error}). Restore it from git.") from error
    except KeyError as error:
        raise PinsError(f"{path}: the pin {error} is missing. Restore it from git.") from error


def _root(name: str, content: dict[str, Any]) -> RootPin:
    pin, debian = content["base"][name], content["debian"]
    image = pin.get("image")
    if image is not None and not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image):
        raise PinsError(
            f"images/pins.toml: base.{name}.image is {image!r}, which can change under its name. "
            "Name it by digest: repository@sha256:<64 hex digits>."
        )
    return RootPin(
        name=name,
        suite=debian["suite"],
        epoch=debian["epoch"],
        variant=pin["variant"],
        packages=tuple(pin["packages"]),
        keep=tuple(pin.get("keep", ())),
        drop=tuple(pin.get("drop", ())),
        image=image,
    )
