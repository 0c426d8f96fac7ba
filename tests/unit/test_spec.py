"""model.yaml is read strictly: every mistake is named with its key, all of them at once."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline import spec
from pipeline.artifacts import BatchingChoice, Limits, Tensor, Tolerance
from pipeline.errors import SpecError

SHORTEST = """
name: tiny
version: 1.0.0
description: A small one
license: Apache-2.0
inputs:
  x: FP32 [-1, 4]
outputs:
  y: FP32 [-1, 2]
"""
FULL = (
    SHORTEST
    + """
params: {hidden: 8, names: [a, b]}
export: trace
tolerance: {absolute: 1e-5, relative: 0}
training:
  epochs: 3
  batch_size: 16
  seed: 7
  floors: {accuracy: 0.9}
  limits: {memory: 2GiB, cpus: 1.5, pids: 99}
serving: {memory: 256 MiB, cpus: 1}
"""
)
MODELS = Path(__file__).resolve().parents[2] / "model_src"


def _model(home: Path, text: str, name: str = "tiny") -> Path:
    folder = home / name
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(text)
    (folder / "model.py").write_text("# a model\n")
    return folder


def _mistakes(folder: Path) -> list[str]:
    """What `load` says is wrong, line by line."""
    with pytest.raises(SpecError) as caught:
        spec.load(folder)
    first, *mistakes = str(caught.value).split("\n  ")
    assert first.startswith(f"{folder / 'model.yaml'}: ")
    return mistakes


def test_every_field_is_read(tmp_path: Path) -> None:
    loaded = spec.load(_model(tmp_path, FULL))
    assert (loaded.name, loaded.version, loaded.license) == ("tiny", "1.0.0", "Apache-2.0")
    assert loaded.inputs == (Tensor(name="x", datatype="FP32", shape=(-1, 4)),)
    assert loaded.outputs == (Tensor(name="y", datatype="FP32", shape=(-1, 2)),)
    assert loaded.params == {"hidden": 8, "names": ["a", "b"]}
    assert loaded.export == "trace"
    assert loaded.tolerance == Tolerance(absolute=1e-5, relative=0)
    assert (loaded.training.epochs, loaded.training.batch_size, loaded.training.seed) == (3, 16, 7)
    assert loaded.training.floors == {"accuracy": 0.9}
    assert loaded.training.limits == Limits(memory=2048, cpus=1.5, pids=99)
    assert loaded.serving == Limits(memory=256, cpus=1, pids=128)


def test_defaults_make_a_short_file_enough(tmp_path: Path) -> None:
    loaded = spec.load(_model(tmp_path, SHORTEST))
    assert (loaded.export, loaded.precision, loaded.memory_format) == ("auto", "fp32", "contiguous")
    assert loaded.budget == {}
    assert loaded.params == {}
    assert loaded.tolerance == Tolerance(absolute=1e-4, relative=1e-4)
    assert loaded.training.floors == {}
    assert loaded.serving == Limits(memory=512, cpus=2, pids=128)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("", BatchingChoice(max_size=None, max_delay_ms=0.0)),
        ("batching: auto", BatchingChoice(max_size=None, max_delay_ms=0.0)),
        ("batching: off", BatchingChoice(max_size=1, max_delay_ms=0.0)),
        ("batching: 'off'", BatchingChoice(max_size=1, max_delay_ms=0.0)),
        ("batching: {max_size: 16}", BatchingChoice(max_size=16, max_delay_ms=0.0)),
        ("batching: {max_size: 2, max_delay: 1.5ms}", BatchingChoice(max_size=2, max_delay_ms=1.5)),
    ],
)
def test_how_requests_are_answered_together(tmp_path: Path, text: str, choice: BatchingChoice) -> None:
    assert spec.load(_model(tmp_path, f"{SHORTEST}\n{text}\n")).batching == choice


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("batching: on", "batching: is true, and has to be one of auto, off"),
        ("batching: atuo", "batching: is 'atuo', and has to be one of auto, off; perhaps you meant auto"),
        ("batching: {max_size: 1}", "batching.max_size: is 1, and has to be a whole number of at least 2"),
        ("batching: {max_delay: 2ms}", "batching.max_size: is missing; say how many rows"),
        ("batching: {max_size: 2, max_delay: 2}", "batching.max_delay: is 2, and has to be a time such as 2ms"),
        ("batching: {max_size: 2, delay: 2ms}", "batching.delay: is not known here; perhaps you meant max_delay"),
    ],
)
def test_wrong_batching_is_told(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(SpecError, match=re.escape(mistake)):
        spec.load(_model(tmp_path, f"{SHORTEST}\n{text}\n"))


def test_the_order_of_tensors_is_the_order_of_the_file(tmp_path: Path) -> None:
    loaded = spec.load(_model(tmp_path, SHORTEST.replace("inputs:", "inputs:\n  z: INT64 [-1, -1]\n  a: BOOL [-1]")))
    assert [tensor.name for tensor in loaded.inputs] == ["z", "a", "x"]


def test_strings_are_a_list(tmp_path: Path) -> None:
    changed = SHORTEST.replace("FP32 [-1, 4]", "BYTES [-1]").replace("FP32 [-1, 2]", "BYTES [3]")
    loaded = spec.load(_model(tmp_path, changed))
    assert loaded.inputs == (Tensor(name="x", datatype="BYTES", shape=(-1,)),)
    assert loaded.outputs == (Tensor(name="y", datatype="BYTES", shape=(3,)),)


def test_sources_are_all_files_but_caches(tmp_path: Path) -> None:
    folder = _model(tmp_path, SHORTEST)
    for name in ("data/b.csv", "a.py", "__pycache__/a.pyc", ".cache/x", ".hidden"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    sources = spec.load(folder).sources
    assert [file.path.relative_to(folder).as_posix() for file in sources] == [
        "a.py",
        "data/b.csv",
        "model.py",
        "model.yaml",
    ]
    assert all(file.is_intact() for file in sources)


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("name: tiny", "name: Tiny", "name: is 'Tiny', and has to be a name for an image"),
        ("name: tiny", "name: a..b", "name: is 'a..b', and has to be a name for an image"),
        ("name: tiny", "name: other", "name: is 'other' in the folder 'tiny'; give both the same name"),
        ("name: tiny", "", "name: is missing"),
        ("1.0.0", "1.0", "version: is 1.0, and has to be a semantic version"),
        ("1.0.0", "01.0.0", "version: is '01.0.0', and has to be a semantic version"),
        ("1.0.0", "1.0.0+cpu", "version: is '1.0.0+cpu', and has to be a semantic version"),
        ("A small one", "''", "description: is '', and has to be text"),
        ("license:", "licence:", "licence: is not known here; perhaps you meant license"),
        ("inputs:\n  x: FP32 [-1, 4]", "inputs: {}", "inputs: is missing or empty; name at least one tensor"),
        ("outputs:\n  y: FP32 [-1, 2]", "", "outputs: is missing or empty; name at least one tensor"),
        ("outputs:\n  y: FP32 [-1, 2]", "outputs: [y]", "outputs: is ['y'], and has to be a mapping"),
        ("x: FP32 [-1, 4]", "x: [-1, 4]", "inputs.x: is [-1, 4], and has to be datatype and shape"),
        ("x: FP32", "x: FP31", "inputs.x: FP31 is not a datatype; perhaps you meant FP32"),
        ("x: FP32", "x: fp32", "inputs.x: fp32 is not a datatype; perhaps you meant FP32"),
        ("x: FP32", "x: STRING", "inputs.x: STRING is not a datatype; known are BOOL, "),
        ("x: FP32", "x: BYTE", "inputs.x: BYTE is not a datatype; perhaps you meant BYTES"),
        ("x: FP32", "x: BYTES", "inputs.x: BYTES [-1, 4] has 2 dimensions; strings are a list: BYTES [-1]"),
        ("y: FP32 [-1, 2]", "y: BYTES [-1, 1]", "outputs.y: BYTES [-1, 1] has 2 dimensions; strings are a list"),
        ("x: FP32 [-1, 4]", "x: FP32 [-1, 0]", "inputs.x: [-1, 0] is not a shape"),
        ("x: FP32 [-1, 4]", "x: FP32 [-2, 4]", "inputs.x: [-2, 4] is not a shape"),
        ("x: FP32 [-1, 4]", "x: FP32 []", "inputs.x: [] is not a shape"),
        ("  x: FP32", "  1x: FP32", "inputs.1x: cannot be the name of an argument"),
        ("  x: FP32", "  x: FP32 [1]\n  x: FP32", "x: is there twice, again in line 8"),
        ("export: trace", "export: traced", "export: is 'traced', and has to be one of auto, script, trace; perhaps"),
        ("absolute: 1e-5", "absolute: -1", "tolerance.absolute: is -1, and has to be a number of at least 0"),
        ("absolute: 1e-5", "absolute: .inf", "tolerance.absolute: is inf, and has to be a number"),
        ("absolute: 1e-5", f"absolute: 1{'0' * 400}", "tolerance.absolute: is 1000000000"),
        ("absolute: 1e-5", "absolute: .nan", "tolerance.absolute: is nan, and has to be a number"),
        ("absolute:", "absolut:", "tolerance.absolut: is not known here; perhaps you meant absolute"),
        ("epochs: 3", "epochs: 0", "training.epochs: is 0, and has to be a whole number of at least 1"),
        ("epochs: 3", "epochs: 2.5", "training.epochs: is 2.5, and has to be a whole number"),
        ("epochs: 3", "epochs: true", "training.epochs: is true, and has to be a whole number"),
        ("epochs:", "epoch:", "training.epoch: is not known here; perhaps you meant epochs"),
        ("seed: 7", "seed: -7", "training.seed: is -7, and has to be a whole number of at least 0"),
        ("accuracy: 0.9", "accuracy: high", "training.floors.accuracy: is 'high', and has to be a number"),
        ("2GiB", "2GB", "training.limits.memory: is '2GB', and has to be a size such as 512MiB or 4GiB"),
        ("256 MiB", "256", "serving.memory: is 256, and has to be a size such as 512MiB or 4GiB"),
        ("cpus: 1.5", "cpus: 0", "training.limits.cpus: is 0, and has to be a number of at least 0.1"),
        ("pids: 99", "pids: 2", "training.limits.pids: is 2, and has to be a whole number of at least 16"),
        ("hidden: 8", "since: 2020-01-01", "params: holds what JSON cannot"),
        ("Apache-2.0", "Apache 2.0", "license: is 'Apache 2.0', and has to be an SPDX expression such as Apache-2.0"),
        ("seed: 7", "data: {license: CC BY}", "training.data.license: is 'CC BY', and has to be an SPDX expression"),
        ("seed: 7", "data: {source: 7}", "training.data.source: is 7, and has to be text"),
        ("seed: 7", "data: {origin: x}", "training.data.origin: is not known here"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, old: str, new: str, mistake: str) -> None:
    assert old in FULL
    mistakes = _mistakes(_model(tmp_path, FULL.replace(old, new)))
    assert any(line.startswith(mistake) for line in mistakes), mistakes


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    folder = _model(tmp_path, FULL.replace("FP32", "FP31").replace("seed", "sed").replace("1.0.0", "one"))
    (folder / "model.py").unlink()
    mistakes = _mistakes(folder)
    assert [line.split(":")[0].split(" ")[0] for line in mistakes] == [
        "version",
        "inputs.x",
        "outputs.y",
        "training.sed",
        "there",
    ]
    assert mistakes[-1].startswith("there is no model.py in the folder")


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a: [", "is not YAML: "),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML: "),
        ("version: 2024-02-30", "is not YAML: "),
        ("version: 0x_", "is not YAML: "),
        ("- a", "is ['a'], and has to be a mapping"),
        ("", "is empty, and has to be a mapping"),
    ],
)
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str, mistake: str) -> None:
    assert _mistakes(_model(tmp_path, text))[0].startswith(mistake)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    folder = _model(tmp_path, SHORTEST)
    (folder / "model.yaml").unlink() if content is None else (folder / "model.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=r"model\.yaml: cannot be read"):
        spec.load(folder)


def test_find_loads_by_name(tmp_path: Path) -> None:
    _model(tmp_path, SHORTEST)
    assert spec.find("tiny", tmp_path).name == "tiny"


def test_find_takes_the_path_of_a_folder_elsewhere(tmp_path: Path) -> None:
    folder = _model(tmp_path / "elsewhere", SHORTEST, "tiny")
    assert spec.find(str(folder), tmp_path / "models").folder == folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tny", "has no model `tny`; perhaps you meant tiny. Models with a model.yaml: tiny, zebra."),
        ("quux", "has no model `quux`. Models with a model.yaml: tiny, zebra."),
        ("../tiny", "has no model `../tiny`; perhaps you meant tiny."),
    ],
)
def test_find_helps_with_an_unknown_name(tmp_path: Path, name: str, message: str) -> None:
    for model in ("zebra", "tiny"):
        _model(tmp_path, SHORTEST.replace("tiny", model), model)
    with pytest.raises(SpecError) as caught:
        spec.find(name, tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize("folder", [path.parent for path in sorted(MODELS.glob("*/model.yaml"))], ids=lambda p: p.name)
def test_the_models_of_the_project_load(folder: Path) -> None:
    assert spec.load(folder).training.floors


def test_the_example_and_the_defaults_in_the_readme_are_true(tmp_path: Path) -> None:
    example, defaults = (block.split("```")[0] for block in (MODELS / "README.md").read_text().split("```yaml\n")[1:])
    short = yaml.safe_load(example)
    short["training"] = {}
    full = {**short, **yaml.safe_load(defaults.replace("1e-4", "1.0e-4"))}
    loaded = [
        spec.load(_model(tmp_path / str(number), yaml.safe_dump(content, sort_keys=False), "resnet"))
        for number, content in enumerate((short, full))
    ]
    for field in ("params", "export", "tolerance", "training", "serving"):
        assert getattr(loaded[0], field) == getattr(loaded[1], field)
    spec.load(_model(tmp_path / "example", example, "resnet"))
