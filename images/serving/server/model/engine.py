"""What the server asks of an engine; the C++ module `_engine` and the fake of the unit tests are two of them."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

# Anything with the buffer protocol; collections.abc.Buffer needs Python 3.12.
Bytes: TypeAlias = "bytes | bytearray | memoryview"
# Datatype of the Open Inference Protocol, shape, and the row-major little-endian bytes; BYTES as `server.model.strings`
# says.
Input: TypeAlias = tuple[str, Sequence[int], Bytes]


class Output(Protocol):
    """One tensor of an answer. It has the buffer protocol: `memoryview(output)` is its bytes, read-only.

    A list of strings, or a string alone, is a tensor of BYTES, whose shape is their number.
    """

    @property
    def name(self) -> str | None:
        """Its key where forward() returned a dict, else None."""
        ...

    @property
    def datatype(self) -> str:
        """The Open Inference Protocol's name of its datatype."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        ...

    def __buffer__(self, flags: int, /) -> memoryview:
        """Python calls this for `memoryview(output)`."""
        ...


class Model(Protocol):
    """A loaded archive."""

    @property
    def methods(self) -> list[str]:
        """The names of its methods."""
        ...

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        """Runs forward() on inputs in its own order, with the GIL released.

        The inputs' memory is not copied, other than that of strings, whose UTF-8 the caller has seen to.

        Raises:
            InputError: bytes, shape and datatype of an input do not fit together.
            ModelError: the model raised, or returned something other than tensors and strings.
        """
        ...

    def forward_together(self, requests: Sequence[Sequence[Input]], /) -> tuple[Sequence[Output], int, int]:
        """Runs forward() once on the rows of all requests, one request below the other, with the GIL released.

        Inputs of one position may differ in their first dimension only, which is each request's number of rows; they
        are copied once. A request that is alone is run as forward() does. The numbers are the nanoseconds of putting
        inputs together and of the run.

        Raises:
            InputError: as forward(), or the requests do not fit together.
            ModelError: as forward().
        """
        ...

    def fuse(self, inputs: Sequence[Input], /) -> None:
        """From now on a second copy of the program runs inputs of these shapes, with operators fused for them and for
        the calling thread's number of threads for one operator, wherever a thread has as many, or one. No other thread
        may run a model meanwhile.

        Raises:
            InputError: as forward(), or an input is not a tensor.
            ModelError: as forward().
        """
        ...

    def unfuse(self) -> None:
        """Lets the second copy go, if there is one."""
        ...


class Engine(Protocol):
    """Loads archives. Its exceptions are attributes, so that a fake can bring its own."""

    @property
    def LoadError(self) -> type[Exception]:  # noqa: N802 (an exception of the module)
        """The archive cannot be loaded or prepared by this runtime."""
        ...

    @property
    def InputError(self) -> type[Exception]:  # noqa: N802 (an exception of the module)
        """An input is not what its datatype and shape say."""
        ...

    @property
    def ModelError(self) -> type[Exception]:  # noqa: N802 (an exception of the module)
        """The model raised, or returned something other than tensors and strings."""
        ...

    def load(self, path: str, *, optimize: bool) -> Model:
        """Loads an archive; with `optimize` its graph is rewritten for inference.

        Raises:
            LoadError: it does not load.
        """
        ...

    def load_library(self, path: str, /) -> list[str]:
        """Loads a shared library that registers operators, for the life of the process.

        Returns the schemas of the operators that it registered, sorted: none when it was loaded before.

        Raises:
            LoadError: it does not load.
        """
        ...

    def set_threads(self, count: int, /) -> None:
        """Sets how many threads one operator uses when the calling thread runs it; other threads keep their own."""
        ...

    def threads(self) -> int:
        """How many threads one operator uses when the calling thread runs it."""
        ...

    def trim(self) -> None:
        """Gives memory that was freed back to the system: the calling thread's, and of others what lies between."""
        ...


def imported() -> Engine:
    """The engine of the image; to be called once OpenMP's environment is set, which it reads."""
    import _engine  # noqa: PLC0415 (it is in the image only)

    engine: Engine = _engine
    return engine
