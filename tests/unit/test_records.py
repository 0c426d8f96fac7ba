"""Records: a round trip, atomic writing, and when a step counts as done."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import records
from pipeline.artifacts import File, Finding, TrainedModel, Verdict
from pipeline.errors import RecordError
from tests.unit.values import file, trained_model

VERDICT = Verdict(
    gate="audit",
    digest="sha256:1",
    against="",
    findings=(Finding(rule="r", level="info", where="w", message="m", fix="f"),),
    measured={"layers": 3.0},
)


def test_round_trip(tmp_path: Path) -> None:
    trained = trained_model(tmp_path)
    records.write(tmp_path / "train.json", trained, inputs="sha256:0")
    recorded = records.read(tmp_path / "train.json", TrainedModel)
    assert recorded.value == trained
    assert recorded.inputs == "sha256:0"


def test_an_optional_file_makes_the_round_trip_and_is_watched(tmp_path: Path) -> None:
    trained = replace(trained_model(tmp_path), ops=file(tmp_path / "compile/ops.so", "library"))
    records.write(tmp_path / "train.json", trained, inputs="sha256:0")
    assert records.fresh(tmp_path / "train.json", TrainedModel, inputs="sha256:0") == trained
    (tmp_path / "compile/ops.so").write_text("swapped")
    assert records.fresh(tmp_path / "train.json", TrainedModel, inputs="sha256:0") is None


def test_paths_are_relative_so_that_a_record_can_move_with_its_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    records.write(old / "train.json", trained_model(old), inputs="sha256:0")
    assert str(tmp_path) not in (old / "train.json").read_text()
    shutil.move(old, new)
    assert records.fresh(new / "train.json", TrainedModel, inputs="sha256:0") == trained_model(new)


def test_equal_values_give_equal_records(tmp_path: Path) -> None:
    for name in ("a", "b"):
        records.write(tmp_path / name / "train.json", trained_model(tmp_path / name), inputs="sha256:0")
    assert (tmp_path / "a/train.json").read_bytes() == (tmp_path / "b/train.json").read_bytes()


def test_other_inputs_are_not_fresh(tmp_path: Path) -> None:
    records.write(tmp_path / "audit.json", VERDICT, inputs="sha256:0")
    assert records.fresh(tmp_path / "audit.json", Verdict, inputs="sha256:0") == VERDICT
    assert records.fresh(tmp_path / "audit.json", Verdict, inputs="sha256:1") is None


def test_a_changed_file_is_not_fresh(tmp_path: Path) -> None:
    trained = trained_model(tmp_path)
    records.write(tmp_path / "train.json", trained, inputs="sha256:0")
    content = bytearray(trained.weights.path.read_bytes())
    content[0] ^= 1
    trained.weights.path.write_bytes(content)
    assert records.fresh(tmp_path / "train.json", TrainedModel, inputs="sha256:0") is None


def test_a_missing_record_says_which_command_makes_it(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"train\.json: there is no such record\. Run `inv train`"):
        records.read(tmp_path / "train.json", TrainedModel)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"inputs": "x"}', '{"inputs": "x", "gate": "audit", "extra": 1}']
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(RecordError, match="not a record of Verdict"):
        records.read(tmp_path / "audit.json", Verdict)


def test_a_failed_write_keeps_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    records.write_atomic(path, "old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        records.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_digest_follows_content_and_not_place(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
        digests.add(records.digest_of(File.of(tmp_path / name / "file")))
    assert len(digests) == 1
    (tmp_path / "a/file").write_text("other")
    assert records.digest_of(File.of(tmp_path / "a/file")) not in digests


def test_contents_leave_out_what_tools_leave_behind(tmp_path: Path) -> None:
    for name in ("kept.py", "__pycache__/kept.pyc", "deep/er.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(records.contents_of(tmp_path)) == ["deep/er.txt", "kept.py"]


def test_record_carries_the_digest_of_its_inputs(tmp_path: Path) -> None:
    records.write(tmp_path / "audit.json", VERDICT, inputs="sha256:7")
    assert json.loads((tmp_path / "audit.json").read_text())["inputs"] == "sha256:7"
