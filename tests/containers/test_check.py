"""The check gate with the real runtime: what fits passes and is measured, and each planted fault is refused."""

import importlib
import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Archive, File, Limits
from pipeline.check import check, examine, facts_of, inspect
from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import CheckError

HOME = Path(__file__).parents[2]
GOLDEN = HOME / "tests/golden"
OTHERS = GOLDEN / "others"


@pytest.fixture
def exported(tiny_archive: Archive, tmp_path: Path) -> Path:
    """The tiny model's archive with its contract and samples, to be damaged."""
    for file in (tiny_archive.file, tiny_archive.contract, tiny_archive.samples):
        shutil.copy(file.path, tmp_path)
    return tmp_path / tiny_archive.file.path.name


def _refusal(path: Path, runtime: Image, engine: DockerEngine) -> str:
    with pytest.raises(CheckError) as refused:
        check(path, runtime=runtime.digest, engine=engine)
    return str(refused.value)


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


def _weights(path: Path) -> int:
    """The place of a byte in the middle of the archive's largest entry."""
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda info: info.compress_size)
    names, extra = struct.unpack_from("<HH", path.read_bytes(), info.header_offset + 26)
    return int(info.header_offset + 30 + names + extra + info.compress_size // 2)


def _spoil_an_answer(samples: Path) -> None:
    """Flips the highest bit of an answer's exponent."""
    content = samples.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    _, end = next(value["data_offsets"] for name, value in header.items() if "/output/" in name)
    _flip(samples, 8 + size + end - 1)


def _sign(path: Path) -> None:
    """Makes the contracts beside the archive and inside it name the files as they are now."""
    samples = File.of(path.with_name("samples.safetensors"))
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    inside = next(name for name in entries if name.endswith("/extra/contract.json"))
    contract: dict[str, Any] = json.loads(entries[inside])
    contract["samples"] |= {"sha256": samples.sha256, "size": samples.size}
    entries[inside] = json.dumps(contract).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    file = File.of(path)
    contract["archive"] = {"file": path.name, "sha256": file.sha256, "size": file.size}
    contract["samples"]["file"] = samples.path.name
    path.with_name("contract.json").write_text(json.dumps(contract))


def test_an_exported_archive_passes_and_is_measured(
    tiny_archive: Archive, runtime: Image, engine: DockerEngine
) -> None:
    verdict = check(tiny_archive.file.path, runtime=runtime.digest, engine=engine)
    assert verdict.digest == f"sha256:{tiny_archive.file.sha256}"
    assert verdict.against == runtime.digest
    assert verdict.findings == ()
    assert verdict.measured["samples"] >= 1
    assert any(name.endswith(".max_abs") for name in verdict.measured)


@pytest.mark.parametrize("name", ["traced", "scripted", "function"])
def test_an_archive_from_elsewhere_is_loaded(name: str, runtime: Image, engine: DockerEngine, tmp_path: Path) -> None:
    path = Path(shutil.copy(GOLDEN / f"{name}.pt", tmp_path))
    verdict = check(path, runtime=runtime.digest, engine=engine)
    assert [finding.rule for finding in verdict.findings] == ["no-samples"]


def test_a_flipped_byte_is_refused(exported: Path, runtime: Image, engine: DockerEngine) -> None:
    _flip(exported, _weights(exported))
    message = _refusal(exported, runtime, engine)
    assert "error damaged" in message
    assert f"error digest, {exported.name}" in message


def test_an_operator_that_the_runtime_lacks_is_refused_by_name(
    runtime: Image, engine: DockerEngine, tmp_path: Path
) -> None:
    message = _refusal(Path(shutil.copy(GOLDEN / "boxes.pt", tmp_path)), runtime, engine)
    assert "has no operator torchvision::nms" in message
    assert "ops.torchvision.nms(boxes, scores, 0.5)" in message


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("training", "train-mode"),
        ("baked-in", "train-mode"),
        ("placed", "device-literal"),
        ("pickled", "not-torchscript"),
    ],
)
def test_other_planted_faults_are_refused(
    name: str, rule: str, runtime: Image, engine: DockerEngine, tmp_path: Path
) -> None:
    assert f"error {rule}," in _refusal(Path(shutil.copy(GOLDEN / f"{name}.pt", tmp_path)), runtime, engine)


def test_samples_that_disagree_are_refused(exported: Path, runtime: Image, engine: DockerEngine) -> None:
    _spoil_an_answer(exported.with_name("samples.safetensors"))
    _sign(exported)
    assert "error samples-disagree, in the runtime" in _refusal(exported, runtime, engine)


def test_an_archive_that_looks_right_and_does_not_load_is_refused(
    runtime: Image, engine: DockerEngine, tmp_path: Path
) -> None:
    """Only the loader finds that an argument is of another type: on the host they are counted."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(GOLDEN / "function.pt") as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info).replace(b"torch.mul(x, 2)", b'torch.mul(x, "2")'))
    assert "error does-not-load, in the runtime" in _refusal(path, runtime, engine)


def test_an_image_with_pythons_torch_is_asked(trainer: Image, runtime: Image, engine: DockerEngine) -> None:
    """It says of the same torch what the runtime's build wrote, sees what it lacks and loads what it does not lack."""
    image, asked = facts_of(trainer.digest, engine=engine)
    _, written = facts_of(runtime.digest, engine=engine)
    assert (asked.foreign, written.foreign) == (True, False)
    assert asked.archive_versions == written.archive_versions
    assert asked.upgraders == written.upgraders
    assert asked.upgraders["aten::gelu"] == ((10, "aten::gelu(Tensor self) -> Tensor"),)
    assert {"quantized.LinearPackedParamsBase", "profiler._RecordFunction"} <= asked.classes & written.classes
    assert {name: asked.operators.get(name) for name in ("aten::relu", "aten::conv2d")} == {
        name: written.operators[name] for name in ("aten::relu", "aten::conv2d")
    }
    findings, _ = examine(File.of(GOLDEN / "traced.pt"), image, asked, engine=engine)
    assert [finding.rule for finding in findings] == ["no-samples"]
    (finding,), _ = examine(File.of(OTHERS / "torch-2.13.0-newer.pt"), image, asked, engine=engine)
    assert "has no operator aten::hash_tensor" in finding.message


def test_an_image_without_torch_is_refused(runtime: Image, engine: DockerEngine) -> None:
    assert runtime  # and with it the root that it is made from
    serving = engine.find("torchyard-base:serving")
    assert serving
    assert "neither the facts of a TorchScript runtime" in _refusal(GOLDEN / "traced.pt", serving, engine)


_LOAD_EACH = """
import json, pathlib, _engine
from server.errors import StartError
from server.model.loading import load
for path in sorted(pathlib.Path("/archives").glob("*.pt")):
    try:
        load(path, _engine, optimize=False)
        print(json.dumps([path.name, True]), flush=True)
    except StartError:
        print(json.dumps([path.name, False]), flush=True)
"""


def test_the_runtime_agrees_with_what_is_said_of_other_torches_archives(runtime: Image, engine: DockerEngine) -> None:
    """What has no error loads, and what has one does not: neither is refused without need, nor let through."""
    lines: list[str] = []
    job = Job(
        image=runtime.digest,
        command=("/usr/bin/python3.13", "-c", _LOAD_EACH),
        limits=Limits(memory=1024, cpus=2, pids=64),
        mounts=(Mount(source=OTHERS, target="/archives"),),
        seconds=300,
    )
    engine.run(job, on_line=lines.append)
    loads = dict(json.loads(line) for line in lines if line.startswith("["))
    _, facts = facts_of(runtime.digest, engine=engine)
    said = {}
    for path in OTHERS.glob("*.pt"):
        with path.open("rb") as stream:
            said[path.name] = all(finding.level != "error" for finding in inspect(stream, facts))
    assert loads == said
    assert set(loads.values()) == {True, False}


def test_an_archive_that_never_ends_loading_is_given_up(
    runtime: Image, engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("pipeline.check.replay"), "_SECONDS", 5)
    path = Path(shutil.copy(GOLDEN / "endless.pt", tmp_path))
    assert "error hangs, in the runtime" in _refusal(path, runtime, engine)


def test_the_check_agrees_with_torch(trainer: Image, engine: DockerEngine) -> None:
    """It reads every operator of torch's, compares schemas as torch does, and finds nothing in sound archives."""
    lines: list[str] = []
    job = Job(
        image=trainer.digest,
        command=("python", "-m", "tests.containers.beside_torch"),
        limits=Limits(memory=4096, cpus=2, pids=64),
        mounts=(
            Mount(source=HOME / "pipeline", target="/src/pipeline"),
            Mount(source=HOME / "tests", target="/src/tests"),
        ),
        env={"PYTHONPATH": "/src", "PYTHONSAFEPATH": "1"},
        seconds=300,
    )
    engine.run(job, on_line=lines.append)
    report = json.loads(lines[-1])
    assert report["read"] > 4000
    assert report["compared"] > 3000
    assert report["refused"] > 1000
    assert report["wrong"] == []
    assert report["false"] == []
