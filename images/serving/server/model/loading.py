"""From a model's folder to a model that is ready to serve, the same way in the server, the replay and the bench."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from server.errors import LoadFailed
from server.model import digests, samples
from server.model.contract import Contract, Operators
from server.model.engine import Engine, Model
from server.model.replaying import by_shape, replay, warm_up
from server.model.samples import Sample
from server.model.served import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A model from `archive` that gives the right answers; `differences` are those of its outputs to the samples."""

    archive: Path
    served: ServedModel
    samples: tuple[Sample, ...]
    differences: dict[str, dict[str, float]]

    @property
    def engine(self) -> Engine:
        """What loaded it and runs it."""
        return self.served.engine

    def lean(self) -> "Ready":
        """The same with the first sample of each shape only: the others are memory once they have been replayed."""
        firsts = [numbers[0] for numbers in by_shape(self.samples).values()]
        return replace(self, samples=tuple(self.samples[number] for number in firsts))


def prepare(contract: Contract, folder: Path, import_engine: Callable[[], Engine], *, threads: int) -> Ready:
    """Verifies, loads, optimises, replays and warms up, in the calling thread, which is the one that will serve.

    The files are verified while the engine is imported: the one takes a core and no GIL, the other a GIL.

    Raises:
        StartError: the first of these that fails, as its own kind.
    """
    with ThreadPoolExecutor(max_workers=1) as beside:
        verified = beside.submit(digests.verify, contract, folder)
        engine = import_engine()
        verified.result()
    taken = samples.read(contract, folder / contract.samples.name)
    engine.set_threads(threads)
    if contract.ops:
        load_operators(contract.ops, folder, engine)
    archive = folder / contract.archive.name
    model = load(archive, engine, optimize=True)
    served = ServedModel(contract=contract, engine=engine, model=model)
    differences = replay(served, taken)
    warm_up(served, taken)
    return Ready(archive=archive, served=served, samples=taken, differences=differences)


def load_operators(ops: Operators, folder: Path, engine: Engine) -> None:
    """Loads the model's own operators, which an archive that calls them cannot be loaded without.

    Loading runs code from the library: its digest must have been verified before.

    Raises:
        LoadFailed: the library does not load, or does not register what the contract says.
    """
    path = folder / ops.file.name
    try:
        registered = engine.load_library(str(path))
    except engine.LoadError as error:
        raise LoadFailed(
            f"{path}: this runtime cannot load the model's own operators; compile them with the toolchain of this "
            f"runtime (`inv build-serving`). {error}"
        ) from error
    missing = sorted(set(ops.schemas) - set(registered))
    if missing:
        raise LoadFailed(
            f"{path}: registers {', '.join(registered) or 'no operator'}, and not what the contract says it does: "
            f"{', '.join(missing)}. Export the model again, and keep the files of one export together."
        )


def load(path: Path, engine: Engine, *, optimize: bool) -> Model:
    """Loads an archive.

    Raises:
        LoadFailed: it does not load.
    """
    try:
        return engine.load(str(path), optimize=optimize)
    except engine.LoadError as error:
        raise LoadFailed(
            f"{path}: this runtime cannot load the archive; check it against the runtime with `inv check`, "
            f"and export it with the runtime's torch version. {error}"
        ) from error
