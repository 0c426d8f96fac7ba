"""What the export containers are given, what becomes of what they leave, and the archive's repeatable layout."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import Image, Job
from pipeline.errors import ContainerFailed, ExportError
from pipeline.export import export
from pipeline.inside.rewrite import rewrite
from tests.unit.fake_engine import FakeEngine
from tests.unit.values import EVIDENCE, file, trained_model

FILES = ["contract.json", "model.pt", "samples.safetensors"]


@pytest.fixture
def trainer(engine: FakeEngine) -> Image:
    return engine.add("pytorch-cuda:v2.8")


def _out(job: Job) -> Path:
    (out,) = (mount.source for mount in job.mounts if mount.writable)
    return out


def _containers(content: str = "new", *, refused: str = "") -> Callable[[Job, Callable[[str], None]], None]:
    """A container that exports `content`, and one that compares; where `refused` is set, that one refuses."""

    def run(job: Job, on_line: Callable[[str], None]) -> None:
        out = _out(job)
        if job.command[-1] == "pipeline.inside.export":
            order = json.loads(job.env["TORCHYARD_ORDER"])
            contract = order["contract"] | {"operators": ["aten::relu"], "producer": {"torchyard": order["torchyard"]}}
            contract |= {"evidence": asdict(EVIDENCE)}
            for mount in job.mounts:
                if mount.target == "/torchyard/ops.so":
                    shutil.copy(mount.source, out / "ops.so")
            (out / "model.pt").write_text(content)
            (out / "samples.safetensors").write_text(content)
            (out / "contract.json").write_text(json.dumps(contract))
            result: dict[str, Any] = {}
        else:
            assert all((out / name).is_file() for name in FILES)
            result = {"refused": refused} if refused else {"parity": {"y": 2.5e-7}}
        (out / "result.json").write_text(json.dumps(result))
        on_line("a line")
        if "refused" in result:
            raise ContainerFailed("exit code 1", code=1)

    return run


def test_one_container_exports_and_another_one_compares(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    engine.on_run = _containers()

    archive = export(trained, trainer=trainer, engine=engine, out=out)

    assert [job.command[-1] for job in engine.jobs] == ["pipeline.inside.export", "pipeline.inside.parity"]
    assert {job.image for job in engine.jobs} == {trainer.digest}
    assert {job.env["PYTHONHASHSEED"] for job in engine.jobs} == {"0"}
    assert not any(job.gpus for job in engine.jobs)
    weights = {mount.target: mount for mount in engine.jobs[0].mounts}["/torchyard/weights.safetensors"]
    assert (weights.source, weights.writable) == (trained.weights.path, False)
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (archive.file.path, archive.samples.path, archive.contract.path) == (
        out / "model.pt",
        out / "samples.safetensors",
        out / "contract.json",
    )
    assert archive.file.is_intact()
    assert archive.samples.is_intact()
    assert archive.contract.is_intact()
    assert archive.operators == ("aten::relu",)
    assert archive.evidence == EVIDENCE
    assert archive.parity == {"y": 2.5e-7}
    assert archive.trained == trained


def test_operators_of_the_model_go_with_the_archive_and_leave_with_it(
    engine: FakeEngine, trainer: Image, tmp_path: Path
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    ops = file(tmp_path / "compile/ops.so", "library")
    engine.on_run = _containers()

    archive = export(replace(trained, ops=ops), trainer=trainer, engine=engine, out=out)

    assert all("/torchyard/ops.so" in {mount.target for mount in job.mounts} for job in engine.jobs)
    assert archive.ops
    assert (archive.ops.path, archive.ops.sha256) == (out / "ops.so", ops.sha256)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "ops.so"])
    assert export(trained, trainer=trainer, engine=engine, out=out).ops is None
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_the_contract_says_what_model_yaml_declares(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    engine.on_run = _containers()
    export(trained_model(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")
    order = json.loads(engine.jobs[0].env["TORCHYARD_ORDER"])
    assert order["contract"] == {
        "schema": 1,
        "name": "tiny",
        "version": "1.0.0",
        "description": "A small one",
        "license": "Apache-2.0",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        "tolerance": {"absolute": 1e-5, "relative": 1e-5},
        "metrics": {"accuracy": 0.9},
    }
    assert order["torchyard"].count(".") == 2


def test_a_refused_archive_leaves_the_last_one_whole(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    engine.on_run = _containers("old")
    export(trained, trainer=trainer, engine=engine, out=out)

    engine.on_run = _containers("new", refused="The archive fails on sample 0.")
    with pytest.raises(ExportError, match=r"^tiny: The archive fails on sample 0\.$"):
        export(trained, trainer=trainer, engine=engine, out=out)

    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (out / "model.pt").read_text() == "old"


def test_leftovers_of_a_killed_export_are_not_taken_for_its_result(
    engine: FakeEngine, trainer: Image, tmp_path: Path
) -> None:
    left = tmp_path / "out" / ".half"
    left.mkdir(parents=True)
    (left / "raw.pt").write_text("left by a kill")
    engine.on_run = _containers()
    export(trained_model(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_a_failed_container_is_an_export_error(engine: FakeEngine, trainer: Image, tmp_path: Path) -> None:
    def crash(_: Job, __: Callable[[str], None]) -> None:
        raise ContainerFailed("`python` ended with exit code 139:\n  Segmentation fault", code=139)

    engine.on_run = crash
    with pytest.raises(ExportError, match=r"(?s)tiny: `python` ended with exit code 139:.*Segmentation fault"):
        export(trained_model(tmp_path), trainer=trainer, engine=engine, out=tmp_path / "out")


def test_weights_that_changed_since_training_are_not_exported(
    engine: FakeEngine, trainer: Image, tmp_path: Path
) -> None:
    trained = trained_model(tmp_path)
    trained.weights.path.write_text("edited!")
    with pytest.raises(ExportError, match=r"weights\.safetensors: is gone, or not what training wrote"):
        export(trained, trainer=trainer, engine=engine, out=tmp_path / "out")
    assert engine.jobs == []


def _torch_archive(stem: str, noise: str) -> BytesIO:
    """A zip such as torch writes: everything below one folder, with records that vary."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"{stem}/data.pkl", b"pickled")
        archive.writestr(f"{stem}/code/__torch__.py", b"def forward(self): pass")
        archive.writestr(f"{stem}/code/__torch__.py.debug_pkl", noise)
        archive.writestr(f"{stem}/data/0", bytes(range(256)) * 9000)
        archive.writestr(f"{stem}/constants/0", b"x")
        archive.writestr(f"{stem}/.data/serialization_id", noise)
        archive.writestr(f"{stem}/.data/version", b"10")
    return content


def test_what_varies_in_an_archive_is_gone_after_rewriting(tmp_path: Path) -> None:
    rewrite(_torch_archive("a", "/tmp/one"), tmp_path / "1.pt")
    rewrite(_torch_archive("long-name", "/tmp/other"), tmp_path / "2.pt")
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "2.pt").read_bytes()


@pytest.mark.parametrize("zip64_from", [2**30, 1000])
def test_rewriting_keeps_the_records_and_aligns_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zip64_from: int
) -> None:
    monkeypatch.setattr("pipeline.inside.rewrite._ZIP64_FROM", zip64_from)
    rewrite(_torch_archive("a", "noise"), tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "model/data.pkl",
            "model/code/__torch__.py",
            "model/data/0",
            "model/constants/0",
            "model/.data/version",
        ]
        for entry in archive.infolist():
            data = archive.read(entry)
            start = content.index(data, entry.header_offset + 30 + len(entry.filename))
            assert start % 64 == 0, entry.filename
            assert entry.compress_type == zipfile.ZIP_STORED
        assert archive.read("model/data/0") == bytes(range(256)) * 9000
