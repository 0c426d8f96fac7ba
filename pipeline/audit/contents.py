"""An image as the rules see it: its configuration, and every entry of every layer with its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pipeline.audit.filesystem import FileSystem
from pipeline.audit.layer import Entry, Layer

Fate: TypeAlias = Literal["", "deleted later", "replaced later"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An entry of a layer, counted from 1. `fate` says what later layers do to it; where empty, containers see it."""

    entry: Entry
    layer: int
    fate: Fate

    @property
    def is_final(self) -> bool:
        """Whether containers see this very entry."""
        return not self.fate

    @property
    def where(self) -> str:
        """Its path and layer, for people."""
        return self.under(self.entry.path)

    def under(self, path: str) -> str:
        """The same for the folder at `path` that it lies in: one place for all that is in there."""
        # A name with control characters could forge lines of the report.
        shown = path if path.isprintable() else ascii(path)
        return f"{shown} (layer {self.layer}{', ' if self.fate else ''}{self.fate})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """`config` and `history` are those of the OCI image configuration; layers go from the lowest up."""

    config: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    layers: tuple[Layer, ...]
    placed: tuple[Placed, ...]
    files: FileSystem

    @classmethod
    def of(cls, configuration: Mapping[str, Any], layers: tuple[Layer, ...]) -> "Contents":
        """Puts together an OCI image configuration and its layers."""
        files = FileSystem.of(layers)
        return cls(
            config=configuration.get("config") or {},
            history=tuple(configuration.get("history") or ()),
            layers=layers,
            placed=tuple(
                _place(entry, number, files) for number, layer in enumerate(layers, 1) for entry in layer.entries
            ),
            files=files,
        )

    @property
    def env(self) -> dict[str, str]:
        """The environment that containers start with."""
        return dict(line.partition("=")[::2] for line in self.config.get("Env") or ())

    @property
    def user(self) -> tuple[int | None, int | None]:
        """The numeric user and group that containers run as; None where it is not a number or not given."""
        uid, _, gid = str(self.config.get("User") or "").partition(":")
        return (int(uid) if uid.isdecimal() else None, int(gid) if gid.isdecimal() else None)


def _place(entry: Entry, number: int, files: FileSystem) -> Placed:
    final = files.entries.get(entry.path)
    fate: Fate = "" if final is entry else "deleted later" if final is None else "replaced later"
    return Placed(entry=entry, layer=number, fate=fate)
