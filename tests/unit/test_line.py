"""The line: a step runs when what it is made from changed, and what comes before it is never done again for nothing."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import images, line, pins
from pipeline.alone import alone
from pipeline.artifacts import (
    Archive,
    DataOrigin,
    Decided,
    File,
    ModelSpec,
    ServingImage,
    TrainedModel,
    Verdict,
    sha256_of,
)
from pipeline.engine import Engine, Image
from pipeline.errors import CheckError
from pipeline.line import STEPS, Line
from tests.unit import values
from tests.unit.fake_engine import FakeEngine, layer


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    spec = values.model_spec(tmp_path / "source")
    return replace(spec, sources=(*spec.sources, values.file(spec.folder / "model.yaml", "name: tiny")))


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: FakeEngine) -> None:
    """Each step, and each image, without the work."""
    trainer = engine.add("pytorch-cuda:v2.8", layers=(layer({"a": b"1"}),))
    engine.add("pytorch-cuda:v2.8-toolchain", layers=(layer({"c": b"1"}),))
    engine.add("torchscript-runtime:v2.8-cpu", layers=(layer({"b": b"1"}),))

    def compiled(_: ModelSpec, **__: object) -> File:
        return values.file(tmp_path / "made/compile/ops.so", "library")

    def train(spec: ModelSpec, *, ops: File | None, **_: object) -> TrainedModel:
        return replace(values.trained_model(tmp_path / "made"), spec=spec, ops=ops)

    def export(trained: TrainedModel, *, decided: Decided, **_: object) -> Archive:
        evidence = replace(values.EVIDENCE, accepted=decided.accepted)
        return replace(values.archive(tmp_path / "made"), trained=trained, evidence=evidence, ops=trained.ops)

    def image(tag: str) -> Callable[..., Image | None]:
        return lambda *_, **__: engine.find(tag)

    def assemble(archive: Archive, *, runtime: Image, **_: object) -> ServingImage:
        image = engine.add("tiny:1.0.0-cpu", labels={"runtime": runtime.digest})
        return ServingImage(
            tag="tiny:1.0.0-cpu",
            digest=image.digest,
            diff_ids=(),
            device="cpu",
            runtime=runtime.digest,
            archive=archive,
        )

    def gate(name: str) -> Callable[..., Verdict]:
        return lambda *_, **__: Verdict(gate=name, digest="sha256:1", against="", findings=(), measured={})

    monkeypatch.setattr(images, "trainer", lambda *_, **__: trainer)
    monkeypatch.setattr(images, "toolchain", image("pytorch-cuda:v2.8-toolchain"))
    monkeypatch.setattr(images, "runtime", image("torchscript-runtime:v2.8-cpu"))
    made = {"compile_operators": compiled, "train": train, "export": export, "assemble": assemble}
    for name, step in made.items():
        monkeypatch.setattr(line, name, step)
    for name in ("check", "audit", "smoke"):
        monkeypatch.setattr(line, name, gate(name))


def _ran(spec: ModelSpec, engine: Engine, build: Path, force: tuple[str, ...] = (), accepted: str = "") -> list[str]:
    """The steps that a whole run took."""
    whole = Line(spec, pins=pins.load(), engine=engine, build=build, force=force, decided=Decided(accepted=accepted))
    assert whole.audit.gate == "audit"
    assert whole.smoke.gate == "smoke"
    return whole.ran


def _with_operators(spec: ModelSpec, text: str = "a") -> ModelSpec:
    return replace(spec, sources=(*spec.sources, values.file(spec.folder / "ops/scale.cpp", text)))


def test_everything_runs_once_and_then_nothing(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    operators = _with_operators(spec)
    assert _ran(operators, engine, tmp_path / "build") == list(STEPS)
    assert _ran(operators, engine, tmp_path / "build") == []


def test_of_two_commands_at_once_the_second_finds_what_the_first_has_made(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, waiting = tmp_path / "build", threading.Event()
    _ran(spec, engine, build)
    monkeypatch.setattr("pipeline.alone.say", lambda _: waiting.set())
    with ThreadPoolExecutor() as second, alone(build / "tiny"):
        made = (build / "tiny/train.json").replace(tmp_path / "train.json")
        ran = second.submit(_ran, spec, engine, build)
        assert waiting.wait(10)
        made.replace(build / "tiny/train.json")
    assert ran.result() == []


@pytest.mark.parametrize(("changed", "ran"), [("assemble.py", ["assemble"]), ("docker.py", ["smoke"])])
def test_a_step_goes_by_its_own_code_too(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, ran: list[str]
) -> None:
    """assemble's, and for smoke the contract that it starts a container by."""
    _ran(spec, engine, tmp_path / "build")
    monkeypatch.setattr(line, "sha256_of", lambda path: "1" if path.name == changed else sha256_of(path))
    assert _ran(spec, engine, tmp_path / "build") == ran


def test_without_operators_there_is_nothing_to_compile(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(images, "toolchain")
    assert _ran(spec, engine, tmp_path / "build") == [step for step in STEPS if step != "compile"]
    assert Line(spec, pins=pins.load(), engine=engine, build=tmp_path / "build").compile is None


def test_changed_operators_are_compiled_and_trained_with_again(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path
) -> None:
    _ran(_with_operators(spec), engine, tmp_path / "build")
    assert _ran(_with_operators(spec, "b"), engine, tmp_path / "build")[:2] == ["compile", "train"]


def test_another_toolchain_compiles_again_and_trains_nothing_if_the_library_is_the_same(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path
) -> None:
    _ran(_with_operators(spec), engine, tmp_path / "build")
    engine.add("pytorch-cuda:v2.8-toolchain", layers=(layer({"c": b"2"}),))
    assert _ran(_with_operators(spec), engine, tmp_path / "build") == ["compile"]


def test_a_library_that_changed_on_disk_is_compiled_again(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    operators = _with_operators(spec)
    _ran(operators, engine, tmp_path / "build")
    (tmp_path / "made/compile/ops.so").write_text("tampered")
    assert _ran(operators, engine, tmp_path / "build") == ["compile"]


def test_force_runs_a_step_again_and_only_it_where_it_makes_the_same(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path
) -> None:
    _ran(spec, engine, tmp_path / "build")
    assert _ran(spec, engine, tmp_path / "build", force=("train",)) == ["train"]


def test_an_accepted_branch_holds_for_as_long_as_its_archive_does(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path
) -> None:
    _ran(spec, engine, tmp_path / "build")
    assert _ran(spec, engine, tmp_path / "build", accepted="all requests are of one size")[0] == "export"
    assert _ran(spec, engine, tmp_path / "build") == []
    assert _ran(spec, engine, tmp_path / "build", accepted="another reason")[0] == "export"
    changed = replace(spec, version="1.0.1")
    again = Line(changed, pins=pins.load(), engine=engine, build=tmp_path / "build").export
    assert again.evidence.accepted == ""


def test_another_runtime_trains_and_exports_nothing(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    _ran(spec, engine, tmp_path / "build")
    engine.add("torchscript-runtime:v2.8-cpu", layers=(layer({"b": b"2"}),))
    assert _ran(spec, engine, tmp_path / "build") == ["check", "assemble", "audit", "smoke"]


def test_limits_of_the_container_are_no_reason_to_train(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    _ran(spec, engine, tmp_path / "build")
    changed = replace(spec, serving=replace(spec.serving, memory=256))
    ran = _ran(changed, engine, tmp_path / "build")
    assert "train" not in ran
    assert "smoke" in ran


def test_what_is_said_of_the_data_is_no_reason_to_train(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    _ran(spec, engine, tmp_path / "build")
    told = DataOrigin(source="irises", license="CC0-1.0")
    changed = replace(spec, training=replace(spec.training, data=told))
    assert "train" not in _ran(changed, engine, tmp_path / "build")
    recorded = Line(changed, pins=pins.load(), engine=engine, build=tmp_path / "build").train.spec.training.data
    assert recorded == told


def test_changed_source_trains_again(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    _ran(spec, engine, tmp_path / "build")
    changed = replace(spec, sources=(values.file(spec.folder / "model.py", "other source"), spec.sources[1]))
    assert _ran(changed, engine, tmp_path / "build")[0] == "train"


def test_an_image_that_is_gone_is_assembled_again(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    _ran(spec, engine, tmp_path / "build")
    engine.remove(("tiny:1.0.0-cpu",))
    assert _ran(spec, engine, tmp_path / "build") == ["assemble"]


def test_weights_that_changed_on_disk_are_trained_again(spec: ModelSpec, engine: FakeEngine, tmp_path: Path) -> None:
    _ran(spec, engine, tmp_path / "build")
    (tmp_path / "made/train/weights.safetensors").write_text("tampered")
    assert _ran(spec, engine, tmp_path / "build")[0] == "train"


def test_an_archive_that_fails_its_check_is_not_assembled(
    spec: ModelSpec, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Verdict:
        raise CheckError("no")

    monkeypatch.setattr(line, "check", refuse)
    with pytest.raises(CheckError):
        _ran(spec, engine, tmp_path / "build")
    assert engine.find("tiny:1.0.0-cpu") is None
    assert not (tmp_path / "build/tiny/check.json").exists()
