"""Assembly: one layer with the model's files, digests that depend on nothing else, and parts that belong together."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipeline.artifacts import File, ServingImage
from pipeline.assemble import assemble
from pipeline.engine import Image
from pipeline.errors import AssembleError, EngineError
from tests.unit import values
from tests.unit.fake_engine import FakeEngine, layer

EPOCH = 1_700_000_000
LABELS = {
    "io.torchyard.device": "cpu",
    "io.torchyard.torch": "2.8.0",
    "org.opencontainers.image.ref.name": "torchscript-runtime:v2.8-cpu",
}
CONFIG = {"User": "65532:65532", "Entrypoint": ["/usr/bin/python3.13"], "Hostname": "left-behind"}


@pytest.fixture
def runtime(engine: FakeEngine) -> Image:
    lower = (layer({"usr/bin/python3.13": b"python"}), layer({"opt/server.py": b"server"}))
    return engine.add("torchscript-runtime:v2.8-cpu", layers=lower, config=CONFIG, labels=LABELS)


def _assembled(folder: Path, runtime: Image, engine: FakeEngine, *, operators: bool = False) -> ServingImage:
    return assemble(values.archive(folder, operators=operators), runtime=runtime, epoch=EPOCH, engine=engine)


@pytest.mark.parametrize("operators", [False, True])
def test_adds_one_layer_with_the_models_files(
    tmp_path: Path, runtime: Image, engine: FakeEngine, operators: bool
) -> None:
    image = _assembled(tmp_path, runtime, engine, operators=operators)
    assert image.tag == "tiny:1.0.0-cpu"
    assert image.diff_ids[:-1] == runtime.diff_ids
    with engine.save(image.tag) as saved, tarfile.open(fileobj=saved) as archive:
        content = archive.extractfile(f"{image.diff_ids[-1].removeprefix('sha256:')}/layer.tar")
        assert content
        with tarfile.open(fileobj=io.BytesIO(content.read())) as model:
            members = model.getmembers()
    assert [member.name for member in members] == [
        "model",
        "model/contract.json",
        "model/model.pt",
        *(["model/ops.so"] if operators else []),
        "model/samples.safetensors",
    ]
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, EPOCH)}
    assert {member.mode for member in members} == {0o555, 0o444}


def test_configuration_says_how_it_runs_and_what_it_is(tmp_path: Path, runtime: Image, engine: FakeEngine) -> None:
    found = engine.find(_assembled(tmp_path, runtime, engine).digest)
    assert found
    assert found.config["User"] == "65532:65532"
    assert found.config["Entrypoint"] == ["/usr/bin/python3.13"]
    assert "Hostname" not in found.config
    archive = values.archive(tmp_path)
    assert found.labels["io.torchyard.archive.digest"] == f"sha256:{archive.file.sha256}"
    assert found.labels["io.torchyard.runtime.digest"] == runtime.digest
    assert found.labels["org.opencontainers.image.version"] == "1.0.0"
    assert json.loads(found.labels["io.torchyard.contract"])["samples"]["sha256"] == archive.samples.sha256


def test_an_accepted_branch_is_on_the_label(tmp_path: Path, runtime: Image, engine: FakeEngine) -> None:
    plain = values.archive(tmp_path)
    accepted = replace(plain, evidence=replace(plain.evidence, accepted="one size only"))
    image = assemble(accepted, runtime=runtime, epoch=EPOCH, engine=engine)
    found = engine.find(image.digest)
    assert found
    assert found.labels["io.torchyard.accepted-frozen-branch"] == "one size only"
    unmarked = engine.find(_assembled(tmp_path, runtime, engine).digest)
    assert unmarked
    assert "io.torchyard.accepted-frozen-branch" not in unmarked.labels


def test_the_image_says_which_operators_of_the_model_it_has(tmp_path: Path, runtime: Image, engine: FakeEngine) -> None:
    ops = values.archive(tmp_path, operators=True).ops
    found = engine.find(_assembled(tmp_path, runtime, engine, operators=True).digest)
    assert ops
    assert found
    assert found.labels["io.torchyard.ops.digest"] == f"sha256:{ops.sha256}"
    plain = engine.find(_assembled(tmp_path, runtime, engine).digest)
    assert plain
    assert "io.torchyard.ops.digest" not in plain.labels


def test_twice_gives_the_same_digests(tmp_path: Path, runtime: Image, engine: FakeEngine) -> None:
    first = _assembled(tmp_path / "a", runtime, engine)
    second = _assembled(tmp_path / "b", runtime, engine)
    assert (first.digest, first.diff_ids) == (second.digest, second.diff_ids)


def test_an_engine_that_wants_every_layer_gets_every_layer(
    tmp_path: Path, runtime: Image, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = FakeEngine()
    monkeypatch.setattr(bare, "save", engine.save)
    image = _assembled(tmp_path, runtime, bare)
    assert image == _assembled(tmp_path, runtime, engine)


@pytest.mark.parametrize("part", ["file", "contract", "samples", "ops"])
def test_a_flipped_byte_is_refused(tmp_path: Path, runtime: Image, engine: FakeEngine, part: str) -> None:
    archive = values.archive(tmp_path, operators=True)
    changed: File = getattr(archive, part)
    content = bytearray(changed.path.read_bytes())
    content[-1] ^= 1
    changed.path.write_bytes(content)
    with pytest.raises(AssembleError, match="not the file that was exported"):
        assemble(archive, runtime=runtime, epoch=EPOCH, engine=engine)
    assert engine.find("tiny:1.0.0-cpu") is None


def test_parts_of_two_exports_are_refused(tmp_path: Path, runtime: Image, engine: FakeEngine) -> None:
    archive = values.archive(tmp_path)
    contract: dict[str, Any] = json.loads(archive.contract.path.read_text())
    contract["samples"]["sha256"] = "0" * 64
    other = values.file(archive.contract.path, json.dumps(contract))
    mixed = type(archive)(**{name: getattr(archive, name) for name in archive.__slots__} | {"contract": other})
    with pytest.raises(AssembleError, match="They come from different exports"):
        assemble(mixed, runtime=runtime, epoch=EPOCH, engine=engine)


@pytest.mark.parametrize("named", [False, True])
def test_a_library_of_another_export_is_refused(
    tmp_path: Path, runtime: Image, engine: FakeEngine, named: bool
) -> None:
    """The contract names a library that is not there, or there is one that it does not name."""
    ops = values.archive(tmp_path, operators=True).ops
    mixed = replace(values.archive(tmp_path, operators=named), ops=None if named else ops)
    with pytest.raises(AssembleError, match=r"names ops \w+, and .*They come from different exports"):
        assemble(mixed, runtime=runtime, epoch=EPOCH, engine=engine)


def test_an_engine_that_keeps_something_else_is_noticed(
    tmp_path: Path, runtime: Image, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(_: BinaryIO) -> None:
        engine.add("tiny:1.0.0-cpu")

    monkeypatch.setattr(engine, "load", forget)
    with pytest.raises(AssembleError, match="did not keep the image"):
        _assembled(tmp_path, runtime, engine)


def test_an_engine_that_refuses_is_reported(
    tmp_path: Path, runtime: Image, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: BinaryIO) -> None:
        raise EngineError("The container engine refused: no")

    monkeypatch.setattr(engine, "load", refuse)
    with pytest.raises(EngineError, match="refused"):
        _assembled(tmp_path, runtime, engine)
