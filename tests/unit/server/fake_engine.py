"""An engine without torch: an archive is a text file that names what its model does, a library one of schemas."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.model import strings
from server.model.datatypes import DATATYPES, Value, decode, encode
from server.model.engine import Input
from server.model.strings import NotStrings


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

    @classmethod
    def of_strings(cls, values: Sequence[str]) -> "Output":
        """A tensor of these strings."""
        output = cls(strings.encode(values))
        output.name, output.datatype, output.shape = None, "BYTES", (len(values),)
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


def _lengths(texts: list[str]) -> list[Output]:
    return [Output.of("INT64", (len(texts),), [len(text.encode()) for text in texts])]


def _echo(texts: list[str]) -> list[Output]:
    return [Output.of_strings(texts)]


def _loud(texts: list[str]) -> list[Output]:
    loud = [text + "!" for text in texts]
    return [Output.of_strings(loud), *_lengths(texts), Output.of_strings(["done"])]


def _halves(texts: list[str]) -> list[Output]:
    output = Output(b"".join(b"\1\0\0\0" + text.encode()[:1] for text in texts))
    output.name, output.datatype, output.shape = None, "BYTES", (len(texts),)
    return [output]


def _fails(_: _Values) -> list[Output]:
    raise ModelError("Traceback of TorchScript\nRuntimeError: out of cheese")


def _number(_: _Values) -> list[Output]:
    raise ModelError("forward() returned a int; it must be a tensor or a list of strings, or a tuple, list or dict.")


BEHAVIOURS: dict[str, Callable[[_Values], list[Output]]] = {
    "double": _double,
    "pair": _pair,
    "dictionary": _dictionary,
    "rows": _rows,
    "fails": _fails,
    "number": _number,
    "scaled": _double,
}
# What takes strings.
READERS: dict[str, Callable[[list[str]], list[Output]]] = {
    "lengths": _lengths,
    "echo": _echo,
    "loud": _loud,
    "halves": _halves,
}
ARCHIVES = (*BEHAVIOURS, *READERS)
# The operators that an archive cannot be loaded without, by what its model does.
NEEDED = {"scaled": "acme::scale(Tensor x, float by) -> Tensor"}


@dataclass
class FakeModel:
    """A model of one input that remembers what it was given."""

    archive: str
    calls: int = 0
    # How many requests each run answered.
    batches: list[int] = field(default_factory=list)
    # The shapes that it is fused for.
    fused: tuple[tuple[int, ...], ...] | None = None

    @property
    def methods(self) -> list[str]:
        return ["forward"]

    def forward_together(self, requests: Sequence[Sequence[Input]], /) -> tuple[Sequence[Output], int, int]:
        self.batches.append(len(requests))
        return self.forward(requests[0] if len(requests) == 1 else _stacked(requests)), 1, 2

    def fuse(self, inputs: Sequence[Input], /) -> None:
        if any(datatype == "BYTES" for datatype, _, _ in inputs):
            raise InputError("only a program of tensors can be fused.")
        self.forward(inputs)
        self.fused = tuple(tuple(shape) for _, shape, _ in inputs)

    def unfuse(self) -> None:
        self.fused = None

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        self.calls += 1
        values = [_strings(*each) if each[0] == "BYTES" else _values(*each) for each in inputs]
        if len(values) != 1:
            raise ModelError(f"forward() expected 1 argument, got {len(values)}")
        (value,) = values
        if isinstance(value, list) != (self.archive in READERS):
            raise ModelError("forward() Expected a value of another type")
        return READERS[self.archive](value) if isinstance(value, list) else BEHAVIOURS[self.archive](value)


def _stacked(requests: Sequence[Sequence[Input]]) -> list[Input]:
    """The inputs of several requests, one below the other."""
    if len({len(inputs) for inputs in requests}) > 1:
        raise InputError("the requests do not have the same number of inputs.")
    for inputs in requests:
        if not inputs or len({tuple(shape[:1]) for _, shape, _ in inputs}) > 1 or not inputs[0][1]:
            raise InputError("the inputs of a request do not have the same number of rows.")
    stacked: list[Input] = []
    for inputs in zip(*requests, strict=True):
        datatype, shape, _ = inputs[0]
        if any(other != datatype or tuple(size[1:]) != tuple(shape[1:]) for other, size, _ in inputs):
            raise InputError("they differ in more than their rows.")
        content = b"".join(bytes(each) for _, _, each in inputs)
        stacked.append((datatype, (sum(size[0] for _, size, _ in inputs), *shape[1:]), content))
    return stacked


class FakeEngine:
    """Keeps what it was told; see `server.model.engine.Engine`."""

    LoadError = LoadError
    InputError = InputError
    ModelError = ModelError

    def __init__(self) -> None:
        self.optimized: list[bool] = []
        self.registered: set[str] = set()
        self.trimmed: list[str] = []
        self._here = threading.local()

    def load(self, path: str, *, optimize: bool) -> FakeModel:
        try:
            archive = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LoadError(f"reading the archive failed: {error}") from error
        if archive not in ARCHIVES:
            raise LoadError(f"reading the archive failed: {archive}")
        if archive in NEEDED and NEEDED[archive] not in self.registered:
            raise LoadError(f"Unknown builtin op: {NEEDED[archive].partition('(')[0]}.")
        self.optimized.append(optimize)
        return FakeModel(archive)

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
        self._here.threads = count

    def threads(self) -> int:
        return getattr(self._here, "threads", 1)

    def trim(self) -> None:
        """There is nothing to give back; tells which thread was to."""
        self.trimmed.append(threading.current_thread().name)


def _strings(_: str, shape: Sequence[int], content: bytes | bytearray | memoryview) -> list[str]:
    if len(shape) != 1 or shape[0] < 0:
        raise InputError(f"BYTES {list(shape)}: strings are a list, with one dimension that is not negative.")
    try:
        return strings.decode(content, shape[0])
    except NotStrings as error:
        raise InputError(f"BYTES: {error}") from error


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
