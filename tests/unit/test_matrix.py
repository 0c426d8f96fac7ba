"""The table of archives and runtimes: who is in it, what a cell says and when there is nothing to show."""

import json
import re
import shutil
from pathlib import Path

import pytest

from pipeline.check.runtime import FACTS
from pipeline.errors import ContainerFailed, RecordError
from pipeline.matrix import matrix
from tests.unit.fake_engine import FakeEngine, layer

GOLDEN = Path(__file__).parents[1] / "golden"
GOOD = (GOLDEN / "runtime.json").read_bytes()


def _without(operator: str) -> bytes:
    facts = json.loads(GOOD)
    facts["operators"] = [schema for schema in facts["operators"] if not schema.startswith(f"{operator}(")]
    return json.dumps(facts).encode()


def _add(engine: FakeEngine, tag: str, facts: bytes, **labels: str) -> None:
    labels = {"io.torchyard.device": "cpu"} | labels
    engine.add(tag, layers=(layer({FACTS.removeprefix("/"): facts}),), labels=labels)


def _built(build: Path, **archives: str) -> Path:
    for model, golden in archives.items():
        (build / model / "export").mkdir(parents=True)
        shutil.copy(GOLDEN / f"{golden}.pt", build / model / "export/model.pt")
    return build


def test_every_archive_against_every_runtime(engine: FakeEngine, tmp_path: Path) -> None:
    _add(engine, "torchscript-runtime:v2.8-cpu", GOOD)
    _add(engine, "torchscript-runtime:old-cpu", _without("aten::relu"))
    _add(engine, "torchscript-runtime:broken", b"{}")
    engine.add("resnet:1-cpu", labels={"io.torchyard.device": "cpu", "io.torchyard.archive.digest": "sha256:1"})
    engine.add("pytorch-cuda:v2.8", labels={"io.torchyard.torch": "2.8.0"})
    build = _built(tmp_path, small="traced", boxes="boxes", words="scripted", pickled="pickled")
    lines = matrix(build, engine=engine).lines()
    assert [re.split(r"  +", line) for line in lines] == [
        ["model", "torchscript-runtime:broken", "torchscript-runtime:old-cpu", "torchscript-runtime:v2.8-cpu"],
        ["boxes", "no-facts", "missing-operator torchvision::nms", "missing-operator torchvision::nms"],
        ["pickled", "no-facts", "not-torchscript", "not-torchscript"],
        ["small", "no-facts", "missing-overload aten::relu", "ok"],
        ["words", "no-facts", "ok", "ok"],
    ]
    assert len({line.index(cell) for line, cell in zip(lines[3:], ("missing-overload", "ok"), strict=True)}) == 1
    assert engine.jobs == []


def test_with_load_what_fits_is_loaded(engine: FakeEngine, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise ContainerFailed("it does not load", code=5)

    _add(engine, "torchscript-runtime:v2.8-cpu", GOOD)
    engine.on_run = refuse
    found = matrix(_built(tmp_path, small="traced", boxes="boxes"), engine=engine, load=True)
    assert found.cells == (("missing-operator torchvision::nms",), ("does-not-load",))
    assert len(engine.jobs) == 1


def test_a_build_folder_without_archives(engine: FakeEngine, tmp_path: Path) -> None:
    _add(engine, "torchscript-runtime:v2.8-cpu", GOOD)
    with pytest.raises(RecordError, match=r"holds no archive .* `inv export --model NAME`"):
        matrix(tmp_path / "build", engine=engine)


def test_an_engine_without_runtimes(engine: FakeEngine, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no torchscript-runtime image"):
        matrix(_built(tmp_path, small="traced"), engine=engine)
