"""From a folder to a model that is ready: every fault between them is refused with its own message."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.errors import ContractInvalid, DigestMismatch, LoadFailed, SamplesDisagree, StartError
from server.model import contract, digests
from server.model.answers import Answer, Difference, compare
from server.model.contract import ALONE, Batching, Tensor, Tolerance
from server.model.datatypes import DATATYPES
from server.model.loading import Ready, prepare
from server.model.samples import Expected
from tests.unit.server import models
from tests.unit.server.fake_engine import NEEDED, FakeEngine, FakeModel


def _prepare(folder: Path, engine: FakeEngine | None = None) -> Ready:
    return prepare(contract.read(folder), folder, lambda: engine or FakeEngine(), threads=3)


def test_a_good_model_gets_ready(tmp_path: Path) -> None:
    engine = FakeEngine()
    ready = _prepare(models.write(tmp_path), engine)
    assert ready.differences == {"y": {"max_abs": 0.0, "max_rel": 0.0}}
    assert (engine.threads(), engine.optimized) == (3, [True])
    assert isinstance(ready.served.model, FakeModel)
    # Three runs of each of the samples' two shapes.
    assert ready.served.model.calls == 3 * 2


def test_a_sample_of_each_shape_is_kept_to_serve(tmp_path: Path) -> None:
    ready = _prepare(models.write(tmp_path))
    first, second = ready.samples
    repeated = replace(ready, samples=(first, first, second, first, second))
    assert repeated.lean() == ready


def test_files_are_verified_while_the_engine_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def verify(_: contract.Contract, __: Path) -> None:
        both.wait(10)

    def import_engine() -> FakeEngine:
        both.wait(10)
        return FakeEngine()

    monkeypatch.setattr(digests, "verify", verify)
    folder = models.write(tmp_path)
    assert prepare(contract.read(folder), folder, import_engine, threads=1)


def test_nothing_is_loaded_from_a_file_that_was_changed(tmp_path: Path) -> None:
    engine = FakeEngine()
    folder = models.write(tmp_path)
    (folder / "model.pt").write_text("DOUBLE")
    with pytest.raises(DigestMismatch):
        _prepare(folder, engine)
    assert engine.optimized == []


def test_the_contract_says_how_much_warming_up_there_is(tmp_path: Path) -> None:
    plan = [{"sample": 0, "runs": 6}, {"sample": 1, "runs": 4}]
    ready = _prepare(models.write(tmp_path, warm_up=plan))
    assert isinstance(ready.served.model, FakeModel)
    assert ready.served.model.calls == 6 + 4


def test_a_shape_that_the_plan_leaves_out_is_warmed_up_as_ever(tmp_path: Path) -> None:
    ready = _prepare(models.write(tmp_path, warm_up=[{"sample": 1, "runs": 1}]))
    assert isinstance(ready.served.model, FakeModel)
    assert ready.served.model.calls == 3 + 1


def test_a_plan_for_a_sample_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractInvalid, match=r"warm_up in the contract names sample 2, and there are 2 from 0 on"):
        _prepare(models.write(tmp_path, warm_up=[{"sample": 2, "runs": 3}]))


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ([{"sample": 0, "runs": 0}], "its warm_up has .*a number from 1 to 100"),
        ([{"sample": 0, "runs": 10**9}], "its warm_up has .*a number from 1 to 100"),
        ([{"sample": -1, "runs": 3}], "its warm_up has"),
        ([{"sample": 0.5, "runs": 3}], "its warm_up has"),
        ([{"sample": 0}], "KeyError: 'runs'"),
        ([3], "TypeError"),
        (3, "TypeError"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, plan: object, told: str) -> None:
    with pytest.raises(ContractInvalid, match=told):
        contract.read(models.write(tmp_path, warm_up=plan))


@pytest.mark.parametrize(
    ("batching", "told"),
    [
        ({"max_size": 0, "max_delay_ms": 0}, "its batching has .*`max_size` is a number of rows from 1 on"),
        ({"max_size": 2.5, "max_delay_ms": 0}, "its batching has"),
        ({"max_size": 2, "max_delay_ms": -1}, "`max_delay_ms` one from 0 to 10000"),
        ({"max_size": 2, "max_delay_ms": float("nan")}, "`max_delay_ms` one from 0 to 10000"),
        ({"max_size": 2}, "KeyError: 'max_delay_ms'"),
        ("auto", "TypeError"),
    ],
)
def test_wrong_batching_is_refused(tmp_path: Path, batching: object, told: str) -> None:
    with pytest.raises(ContractInvalid, match=told):
        contract.read(models.write(tmp_path, batching=batching))


def test_batching_is_in_the_contract(tmp_path: Path) -> None:
    batching = {"max_size": 4, "max_delay_ms": 2}
    assert contract.read(models.write(tmp_path, batching=batching)).batching == Batching(max_size=4, max_delay_ms=2)
    assert contract.read(models.write(tmp_path)).batching == ALONE


@pytest.mark.parametrize("name", ["model.pt", "samples.safetensors"])
def test_a_flipped_byte_is_refused(tmp_path: Path, name: str) -> None:
    models.write(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DigestMismatch, match=rf"{name}: its sha256 is \w+, and the contract says \w+"):
        _prepare(tmp_path)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    models.write(tmp_path)
    (tmp_path / "model.pt").write_text("doubl")
    with pytest.raises(DigestMismatch, match=r"model.pt: it has 5 bytes, and the contract says 6"):
        _prepare(tmp_path)


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    models.write(tmp_path)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(DigestMismatch, match=r"model.pt: No such file or directory"):
        digests.verify(contract.read(tmp_path), tmp_path)


def test_an_archive_that_does_not_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"model.pt: this runtime cannot load the archive"):
        _prepare(models.write(tmp_path, behaviour="unknown"))


SCALE = NEEDED["scaled"]


def test_operators_of_the_model_are_loaded_before_its_archive(tmp_path: Path) -> None:
    engine = FakeEngine()
    _prepare(models.write(tmp_path, behaviour="scaled", library=SCALE), engine)
    assert engine.registered == {SCALE}


def test_an_archive_that_calls_operators_without_their_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"cannot load the archive.*acme::scale"):
        _prepare(models.write(tmp_path, behaviour="scaled"))


def test_a_swapped_library_is_refused_before_its_code_can_run(tmp_path: Path) -> None:
    models.write(tmp_path, behaviour="scaled", library=SCALE)
    (tmp_path / "ops.so").write_text(SCALE.replace("x", "y"))
    engine = FakeEngine()
    with pytest.raises(DigestMismatch, match=r"ops.so: its sha256 is \w+, and the contract says \w+"):
        _prepare(tmp_path, engine)
    assert engine.registered == set()


def test_a_missing_library_is_refused(tmp_path: Path) -> None:
    models.write(tmp_path, behaviour="scaled", library=SCALE)
    (tmp_path / "ops.so").unlink()
    with pytest.raises(DigestMismatch, match=r"ops.so: No such file or directory"):
        _prepare(tmp_path)


def test_a_library_that_does_not_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LoadFailed, match=r"ops.so: this runtime cannot load the model's own operators.*undefined symbol"
    ):
        _prepare(models.write(tmp_path, behaviour="scaled", library="no schema"))


def test_a_library_without_what_the_contract_says_is_refused(tmp_path: Path) -> None:
    other = "acme::other(Tensor x) -> Tensor"
    with pytest.raises(LoadFailed, match=r"ops.so: registers acme::other.*, and not what the contract .*acme::scale"):
        _prepare(models.write(tmp_path, library=other))


def test_samples_that_disagree_are_refused(tmp_path: Path) -> None:
    y = 2 * models.X + np.array([[0, 0.25, 0]], np.float32)
    with pytest.raises(SamplesDisagree, match=r"tiny 1.0.0 .*sample 0: output y differs by up to 0.25, .* element 1"):
        _prepare(models.write(tmp_path, content=models.samples(y)))


def test_a_model_that_raises_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SamplesDisagree, match=r"(?s)sample 0: .*out of cheese.*sample 1: .*out of cheese"):
        _prepare(models.write(tmp_path, behaviour="fails"))


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("pair", "returned 2 outputs, and the contract has 1"),
        ("rows", r"output y: forward\(\) returned INT64 \[\], and the contract has FP32 \[-1, 3\]"),
    ],
)
def test_a_model_that_breaks_its_contract_is_refused(tmp_path: Path, behaviour: str, told: str) -> None:
    with pytest.raises(SamplesDisagree, match=told):
        _prepare(models.write(tmp_path, behaviour=behaviour))


def test_outputs_are_found_by_name(tmp_path: Path) -> None:
    tensor = {"datatype": "FP32", "shape": [-1, 3]}
    content = models.samples()
    folder = models.write(tmp_path, behaviour="dictionary", content=content.replace(b"/output/y", b"/output/d"))
    changed = json.loads((folder / "contract.json").read_text())
    changed["outputs"] = [{"name": "d", **tensor}, {"name": "same", **tensor}]
    with pytest.raises(ContractInvalid, match="4 tensors do not make whole samples of 1 inputs and 2 outputs"):
        prepare(contract.parse(changed), folder, FakeEngine, threads=1)
    changed["outputs"] = [{"name": "d", **tensor}]
    with pytest.raises(SamplesDisagree, match="returned 2 outputs"):
        prepare(contract.parse(changed), folder, FakeEngine, threads=1)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"nothing", "not readable as safetensors"), (b"\x02" + bytes(7) + b"{}", "0 tensors do not make whole samples")],
)
def test_samples_that_are_none_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(ContractInvalid, match=told):
        _prepare(models.write(tmp_path, content=content))


def test_samples_of_another_datatype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractInvalid, match=r"0/output/y is F64 \[1, 3\], declared are F32 \[-1, 3\]"):
        _prepare(models.write(tmp_path, content=models.samples(models.X.astype(np.float64))))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not a contract"),
        ("[]", "not a contract"),
        ('{"schema": 2}', "its schema is 2, and this server reads schema 1"),
        ('{"schema": 1}', "KeyError: 'tolerance'"),
    ],
)
def test_a_broken_contract_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "contract.json").write_text(text)
    with pytest.raises(ContractInvalid, match=told):
        contract.read(tmp_path)


def test_a_missing_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractInvalid, match=r"contract.json: No such file"):
        contract.read(tmp_path)


@pytest.mark.parametrize("part", ["archive", "ops"])
def test_a_contract_names_files_beside_it_only(tmp_path: Path, part: str) -> None:
    file: Any = {"file": "../file", "sha256": "0", "size": 1, "operators": []}
    with pytest.raises(ContractInvalid, match=r"the file ../file is not beside the contract"):
        contract.read(models.write(tmp_path, **{part: file}))


def test_a_datatype_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractInvalid, match="x has the datatype FP8"):
        contract.read(models.write(tmp_path, inputs=[{"name": "x", "datatype": "FP8", "shape": [1]}]))


def test_exit_codes_differ() -> None:
    codes = [kind.exit_code for kind in StartError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert (SamplesDisagree.exit_code, DigestMismatch.exit_code, LoadFailed.exit_code) == (3, 4, 5)


def _compared(got: list[float], wanted: list[float]) -> Difference:
    tensor = Tensor(name="y", datatype=DATATYPES["FP32"], shape=(-1,))
    answer = Answer(tensor=tensor, shape=(len(got),), content=memoryview(np.array(got, np.float32).tobytes()))
    expected = Expected(shape=(len(wanted),), content=np.array(wanted, np.float32).tobytes())
    return compare(answer, expected, Tolerance(absolute=0.5, relative=0.25))


@pytest.mark.parametrize(
    ("got", "wanted", "beyond"),
    [
        ([1.0], [1.0], None),
        ([1.5], [1.0], None),
        ([1.75], [1.0], None),
        ([1.0, 1.875], [1.0, 1.0], 1),
        ([0.75], [0.0], 0),
        ([-14.5], [-11.0], 0),
        ([math.nan], [math.nan], None),
        ([math.nan], [1.0], 0),
        ([1.0], [math.nan], 0),
        ([math.inf], [math.inf], None),
        ([-math.inf], [math.inf], 0),
        ([math.inf], [1.0], 0),
    ],
)
def test_tolerance(got: list[float], wanted: list[float], beyond: int | None) -> None:
    assert _compared(got, wanted).beyond == beyond


def test_differences() -> None:
    difference = _compared([1.25, 8.0, 0.25], [1.0, 10.0, 0.0])
    assert (difference.absolute, difference.relative) == (2.0, 0.25)
