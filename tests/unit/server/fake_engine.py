"""An engine without torch: an archive is a text file that names what its model does, a library one of schemas."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.datatypes import DATATYPES, Value, decode, encode
from server.engine import Input


class LoadError(Exception):
    """As the engine's."""


class InputError(Exception):
    """As the engine's."""


class ModelError(Exception):
    """As the engine's."""


class Output(bytes):
    """A tensor whose bytes are this object's."""

    name: str | None
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, datatype: str, shape: Sequence[int], values: Sequence[Value], name: str | None = None) -> "Output":
        """A tensor of these values."""
        output = cls(encode(DATATYPES[datatype], values))
        output.name, output.datatype, output.shape = name, datatype, tuple(shape)
        return output


_Values = tuple[str, tuple[int, ...], list[Value]]


def _double(x: _Values) -> list[Output]:
    return [Output.of(x[0], x[1], [2 * value for value in x[2]])]


def _pair(x: _Values) -> list[Output]:
    return [Output.of(*x), *_double(x)]


def _dictionary(x: _Values) -> list[Output]:
    same, double = _pair(x)
    same.name, double.name = "same", "double"
    return [double, same]


def _rows(x: _Values) -> list[Output]:
    return [Output.of("INT64", (), [x[1][0]])]


def _fails(_: _Values) -> list[Output]:
    raise ModelError("Traceback of TorchScript\nRuntimeError: out of cheese")


def _number(_: _Values) -> list[Output]:
    raise ModelError("forward() returned a int; it must be a tensor, or a tuple, list or dict of tensors.")


BEHAVIOURS: dict[str, Callable[[_Values], list[Output]]] = {
    "double": _double,
    "pair": _pair,
    "dictionary": _dictionary,
    "rows": _rows,
    "fails": _fails,
    "number": _number,
    "scaled": _double,
}
# The operators that an archive cannot be loaded without, by what its model does.
NEEDED = {"scaled": "acme::scale(Tensor x, float by) -> Tensor"}


@dataclass
class FakeModel:
    """A model of one input that remembers what it was given."""

    behaviour: Callable[[_Values], list[Output]]
    calls: int = 0

    @property
    def methods(self) -> list[str]:
        return ["forward"]

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        self.calls += 1
        values = [_values(*each) for each in inputs]
        if len(values) != 1:
            raise ModelError(f"forward() expected 1 argument, got {len(values)}")
        return self.behaviour(values[0])


class FakeEngine:
    """Keeps what it was told; see `server.engine.Engine`."""

    LoadError = LoadError
    InputError = InputError
    ModelError = ModelError

    def __init__(self) -> None:
        self.optimized: list[bool] = []
        self.registered: set[str] = set()
        self._threads = 1

    def load(self, path: str, *, optimize: bool) -> FakeModel:
        try:
            name = Path(path).read_text(encoding="utf-8")
            behaviour = BEHAVIOURS[name]
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise LoadError(f"reading the archive failed: {error}") from error
        if name in NEEDED and NEEDED[name] not in self.registered:
            raise LoadError(f"Unknown builtin op: {NEEDED[name].partition('(')[0]}.")
        self.optimized.append(optimize)
        return FakeModel(behaviour)

    def load_library(self, path: str, /) -> list[str]:
        try:
            schemas = set(Path(path).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise LoadError(f"{path}: cannot open shared object file: {error}") from error
        if not all("(" in schema for schema in schemas):
            raise LoadError(f"{path}: undefined symbol: nowhere")
        new = sorted(schemas - self.registered)
        self.registered |= schemas
        return new

    def set_threads(self, count: int, /) -> None:
        self._threads = count

    def threads(self) -> int:
        return self._threads


def _values(datatype: str, shape: Sequence[int], content: bytes | bytearray | memoryview) -> _Values:
    if datatype not in DATATYPES:
        raise InputError(f"{datatype}: torch has no such datatype.")
    if any(size < 0 for size in shape):
        raise InputError(f"{datatype} {list(shape)}: a dimension is negative.")
    expected = math.prod(shape) * DATATYPES[datatype].size
    if expected >= 2**63:
        raise InputError(f"{datatype} {list(shape)}: no memory holds so many elements.")
    if memoryview(content).nbytes != expected:
        raise InputError(f"{datatype} {list(shape)} takes {expected} bytes, and {memoryview(content).nbytes} came.")
    return datatype, tuple(shape), decode(DATATYPES[datatype], content)
