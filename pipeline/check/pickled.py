"""Walks an archive's pickles, the attributes of its modules, opcode by opcode without building any object."""

import io
import pickletools
import warnings
from dataclasses import dataclass, field

_CLOSE_MARK = {"SETITEMS", "APPENDS", "TUPLE", "LIST", "DICT"}
_STORE = {"BINPUT", "LONG_BINPUT"}
_FETCH = {"BINGET", "LONG_BINGET"}
_CUSTOM = "__torch__.torch.classes."
# More than any model has; what is kept stays small whatever the file says.
_MAX_NAMES = 200_000
_MAX_DEPTH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a pickle tells: the types of modules whose `training` is True, and its custom classes (namespace.Name)."""

    training: tuple[str, ...]
    classes: tuple[str, ...]


def attributes_in(pickle: bytes) -> Attributes:
    """Follows the pickle as far as these two questions need.

    Raises:
        ValueError: the bytes are no pickle that torch.jit.save writes.
    """
    walk = _Walk()
    with warnings.catch_warnings(action="ignore"):
        for opcode, argument, _ in pickletools.genops(io.BytesIO(pickle)):
            walk.step(opcode.name, argument)
    return Attributes(training=tuple(sorted(walk.training)), classes=tuple(sorted(walk.classes)))


@dataclass(slots=True)
class _Walk:
    """The part of the pickle machine that is followed.

    torch's pickler writes an object as GLOBAL, EMPTY_TUPLE, NEWOBJ, EMPTY_DICT, MARK, pairs, SETITEMS, BUILD, and a
    string once, to be fetched from the memo afterwards. `owners` holds, for each open MARK, the type of the object
    whose attributes follow it, or None.
    """

    training: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    memo: dict[object, str] = field(default_factory=dict)
    owners: list[str | None] = field(default_factory=list)
    name: str = ""
    made: str | None = None
    previous: str = ""

    def step(self, opcode: str, argument: object) -> None:
        if opcode in _STORE:
            self._store(argument)
            return
        if opcode == "NEWTRUE" and self.name == "training" and self.owners and self.owners[-1]:
            self.training.add(self.owners[-1])
        self._nest(opcode)
        if opcode in _FETCH:
            self.name = self.memo.get(argument, "")
        elif opcode == "GLOBAL":
            self.name = str(argument)[:500].replace(" ", ".")
            if self.name.startswith(_CUSTOM):
                self.classes.add(self.name.removeprefix(_CUSTOM))
        elif opcode not in {"EMPTY_TUPLE", "NEWOBJ"}:
            self.name = argument[:500] if isinstance(argument, str) else ""
        self.previous = opcode
        if max(len(self.training), len(self.classes), len(self.memo)) > _MAX_NAMES or len(self.owners) > _MAX_DEPTH:
            raise ValueError(f"it nests deeper than {_MAX_DEPTH} levels or names more than {_MAX_NAMES} types")

    def _nest(self, opcode: str) -> None:
        if opcode == "MARK":
            self.owners.append(self.made if self.previous == "EMPTY_DICT" else None)
        elif opcode in _CLOSE_MARK and self.owners:
            self.owners.pop()
        if opcode == "NEWOBJ":
            self.made = self.name
        elif opcode not in {"EMPTY_DICT", "EMPTY_TUPLE"}:
            self.made = None

    def _store(self, place: object) -> None:
        if self.name == "training" or self.name.startswith("__torch__"):
            self.memo[place] = self.name
        else:
            self.memo.pop(place, None)
