"""The line from a model's source to a smoked image: each step runs when what it is made from has changed."""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pipeline import images, records, settings
from pipeline.alone import alone
from pipeline.artifacts import (
    UNDECIDED,
    Archive,
    DataOrigin,
    Decided,
    File,
    Judgement,
    ModelSpec,
    Release,
    ServingImage,
    TrainedModel,
    Verdict,
    sha256_of,
)
from pipeline.assemble import assemble
from pipeline.audit import audit
from pipeline.check import check
from pipeline.compile import compile_operators, operator_sources
from pipeline.engine import Engine, Image
from pipeline.export import export
from pipeline.pins import Pins
from pipeline.progress import say
from pipeline.release import Desk, release
from pipeline.release.provenance import LOCAL, Making, Source, run
from pipeline.signing import me
from pipeline.smoke import smoke
from pipeline.train import train
from pipeline.workbench import code_of

T = TypeVar("T")
_HERE = Path(__file__).resolve().parent
STEPS = ("compile", "train", "export", "check", "assemble", "audit", "smoke")


class Line:
    """One model on its way. Asking for a step's value runs what that step needs, and nothing twice.

    A step is skipped when its record in `build` names the same inputs and the files and image it made are still
    there unchanged; the steps in `force` run whatever their records say. What was `decided` to be accepted at export
    holds for as long as that archive's inputs stay the same.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        pins: Pins,
        engine: Engine,
        build: Path,
        force: Collection[str] = (),
        locked: bool = False,
        decided: Decided = UNDECIDED,
    ) -> None:
        self._spec = spec
        self._pins = pins
        self._engine = engine
        self._build = build / spec.name
        self._force = frozenset(force)
        self._locked = locked
        self._decided = decided
        self.ran: list[str] = []

    @cached_property
    def compile(self) -> File | None:
        """The library of the model's own operators; None where its folder has no ops/, and then nothing is done."""
        spec, sources, out = self._spec, operator_sources(self._spec), self._build / "compile"
        if not sources:
            return None
        names = [file.path.relative_to(spec.folder).as_posix() for file in sources]
        inputs = records.digest_of(names, sources, self._toolchain.digest, code_of("compile"))
        return self._step(
            "compile",
            File,
            inputs,
            lambda: compile_operators(spec, toolchain=self._toolchain, engine=self._engine, out=out),
        )

    @cached_property
    def train(self) -> TrainedModel:
        """The trained model. What only later steps read of model.yaml does not train it again."""
        spec, out, ops = self._spec, self._build / "train", self.compile
        code = {file.path.relative_to(spec.folder).as_posix(): file.sha256 for file in spec.sources}
        code.pop("model.yaml")
        training = replace(spec.training, data=DataOrigin())
        inputs = records.digest_of(code, spec.params, training, self._trainer.digest, code_of("train"), ops)
        trained = self._step(
            "train",
            TrainedModel,
            inputs,
            lambda: train(spec, trainer=self._trainer, engine=self._engine, out=out, ops=ops),
        )
        return replace(trained, spec=spec)

    @cached_property
    def export(self) -> Archive:
        """The archive, its contract and its samples."""
        trained, out = self.train, self._build / "export"
        inputs = records.digest_of(
            trained.spec,
            trained.weights,
            trained.ops,
            self._trainer.digest,
            self._pins.torch,
            self._pins.device,
            code_of("export", "parity"),
            records.contents_of(_HERE / "export"),
            self._decided.chosen,
        )
        # The runtime is part of what measures and not of what is made, and is built only where it has to measure.
        return self._step(
            "export",
            Archive,
            inputs,
            lambda: export(
                trained,
                trainer=self._trainer,
                runtime=self._runtime,
                engine=self._engine,
                out=out,
                decided=self._decided,
            ),
            still=lambda archive: self._decided.accepted in {"", archive.evidence.accepted},
        )

    @cached_property
    def check(self) -> Verdict:
        """What `check` says of the archive in the runtime image."""
        archive, runtime = self.export, self._runtime
        inputs = records.digest_of(
            archive.file,
            archive.contract,
            archive.samples,
            archive.probes,
            archive.ops,
            runtime.digest,
            records.contents_of(_HERE / "check"),
        )
        return self._step(
            "check", Verdict, inputs, lambda: check(archive.file.path, runtime=runtime.digest, engine=self._engine)
        )

    @cached_property
    def assemble(self) -> ServingImage:
        """The serving image of an archive that passed its check."""
        archive, runtime, epoch = self.export, self._runtime, self._pins.serving_root.epoch
        verdict = self.check
        inputs = records.digest_of(archive, verdict, runtime.digest, epoch, sha256_of(_HERE / "assemble.py"))
        return self._step(
            "assemble",
            ServingImage,
            inputs,
            lambda: assemble(archive, runtime=runtime, epoch=epoch, engine=self._engine),
            still=lambda image: (found := self._engine.find(image.tag)) is not None and found.digest == image.digest,
        )

    @cached_property
    def audit(self) -> Verdict:
        """What `audit` says of the serving image."""
        image = self.assemble
        inputs = records.digest_of(image.digest, records.contents_of(_HERE / "audit"))
        return self._step("audit", Verdict, inputs, lambda: audit(image.tag, engine=self._engine))

    @cached_property
    def smoke(self) -> Verdict:
        """What `smoke` says of the serving image in a container."""
        image, limits = self.assemble, self._spec.serving
        probes = image.archive.probes
        # What is asked, and the contract under which it is.
        asked = records.contents_of(_HERE.parent / "tests" / "smoke"), sha256_of(_HERE / "engine" / "docker.py")
        inputs = records.digest_of(image.digest, limits, probes, asked)
        return self._step(
            "smoke",
            Verdict,
            inputs,
            lambda: smoke(image.tag, limits=limits, engine=self._engine, probes=probes.path),
        )

    def release(self, desk: Desk, *, releases: str, source: Source) -> Release:
        """The release of the serving image, with verdicts that are still about it."""
        image = self.assemble
        verdicts = {"check": self.check, "audit": self.audit, "smoke": self.smoke}
        making = Making(
            source=source,
            engine=self._engine.info().version,
            fetched=self._fetched(),
            finished=_modified(self._build / "assemble.json"),
            packages=images.built_with(self._toolchain, engine=self._engine),
            records=tuple(File.of(path) for path in sorted(self._build.glob("*.json")) if path.stem in STEPS),
            builder=by.identity if (by := me(desk.key).claimed) else LOCAL,
            run=run(os.environ),
        )
        return release(
            image,
            judgements=tuple(
                Judgement(verdict=verdict, at=_modified(path := self._build / f"{gate}.json"), inputs=_inputs(path))
                for gate, verdict in verdicts.items()
            ),
            repository=settings.repository(releases, self._spec.name),
            making=making,
            out=self._build / "release",
            desk=desk,
        )

    def _fetched(self) -> str:
        """When the packages of the root below the serving image were fetched."""
        root = self._engine.find(images.serving_root(self._pins)) or self._runtime
        return f"{root.created[:19]}Z"

    @cached_property
    def _trainer(self) -> Image:
        return images.trainer(self._pins, engine=self._engine, locked=self._locked)

    @cached_property
    def _toolchain(self) -> Image:
        return images.toolchain(self._pins, engine=self._engine, locked=self._locked)

    @cached_property
    def _runtime(self) -> Image:
        return images.runtime(self._pins, engine=self._engine, locked=self._locked)

    def _step(
        self,
        name: str,
        kind: type[T],
        inputs: str,
        make: Callable[[], T],
        *,
        still: Callable[[T], bool] = lambda _: True,
    ) -> T:
        record = self._build / f"{name}.json"

        def kept() -> T | None:
            value = None if name in self._force else records.fresh(record, kind, inputs=inputs)
            return value if value is not None and still(value) else None

        value = kept()
        if value is None:
            with alone(self._build):
                # Of two commands that want the same, the second one finds what the first has made.
                value = kept()
                if value is None:
                    return self._done(name, record, inputs, make)
        say(f"{name:<9} unchanged")
        return value

    def _done(self, name: str, record: Path, inputs: str, make: Callable[[], T]) -> T:
        say(f"{name:<9} {self._spec.name}")
        started = time.monotonic()
        record.unlink(missing_ok=True)
        value = make()
        records.write(record, value, inputs=inputs)
        self.ran.append(name)
        say(f"{name:<9} done in {time.monotonic() - started:.1f} s")
        return value


def _modified(record: Path) -> str:
    """When a step last did its work: its record is written then, and not when it was skipped."""
    return f"{datetime.fromtimestamp(record.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _inputs(record: Path) -> str:
    return records.read(record, Verdict).inputs
