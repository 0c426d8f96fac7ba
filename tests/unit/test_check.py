"""The check gate with a fake engine: what it runs, what it hands over and how each refusal reads."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import File
from pipeline.check import check
from pipeline.check.evidence import contract_in
from pipeline.check.runtime import FACTS
from pipeline.check.zipped import open_archive
from pipeline.engine import Image, Job
from pipeline.errors import CheckError, ContainerFailed
from tests.unit.fake_engine import FakeEngine, layer

GOLDEN = Path(__file__).parents[1] / "golden"
RUNTIME = "torchscript-runtime:v2.8-cpu"
REPORT = {"samples": 2, "outputs": {"logits": {"max_abs": 1e-6, "max_rel": 2e-6}}}


@pytest.fixture
def runtime(engine: FakeEngine) -> Image:
    """A runtime that has what the good archives need, and whose replay is content."""
    engine.on_run = _answering('{"loaded": true, "methods": ["forward"]}')
    return engine.add(RUNTIME, layers=(layer({FACTS.removeprefix("/"): (GOLDEN / "runtime.json").read_bytes()}),))


def _answering(*lines: str, code: int = 0) -> Callable[[Job, Callable[[str], None]], None]:
    def run(_: Job, on_line: Callable[[str], None]) -> None:
        for line in lines:
            on_line(line)
        if code:
            raise ContainerFailed("the replay ended", code=code)

    return run


def _bare(folder: Path, name: str = "traced") -> Path:
    return Path(shutil.copy(GOLDEN / f"{name}.pt", folder / "model.pt"))


def _exported(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    """An archive with its contract and samples beside it, as export leaves them, after `change` to the contract."""
    path = _bare(folder)
    (folder / "samples.safetensors").write_bytes(b"")
    with path.open("rb") as stream:
        contract = json.loads(contract_in(open_archive(stream)) or b"")
    file = File.of(path)
    contract["archive"] = {"file": path.name, "sha256": file.sha256, "size": file.size}
    contract["samples"] |= {"file": "samples.safetensors"}
    change(contract)
    (folder / "contract.json").write_text(json.dumps(contract))
    return path


def _refusal(path: Path, engine: FakeEngine) -> str:
    with pytest.raises(CheckError) as refused:
        check(path, runtime=RUNTIME, engine=engine)
    return str(refused.value)


def test_an_archive_from_elsewhere_is_loaded_and_nothing_else_is_shown(
    engine: FakeEngine, runtime: Image, tmp_path: Path
) -> None:
    path = _bare(tmp_path)
    (tmp_path / "secret").write_text("")
    verdict = check(path, runtime=RUNTIME, engine=engine)
    (job,) = engine.jobs
    assert job.command == ("/usr/bin/python3.13", "-m", "server.replay", "--archive", "/model/model.pt")
    assert [(mount.source, mount.target, mount.writable) for mount in job.mounts] == [(path, "/model/model.pt", False)]
    assert (job.image, verdict.against) == (runtime.digest, runtime.digest)
    assert verdict.gate == "check"
    assert verdict.digest == f"sha256:{File.of(path).sha256}"
    assert [finding.rule for finding in verdict.findings] == ["no-samples"]
    assert verdict.measured == {}


def test_an_export_is_replayed_and_measured(engine: FakeEngine, runtime: Image, tmp_path: Path) -> None:
    engine.on_run = _answering("a library says hello", json.dumps(REPORT), "and goodbye")
    path = tmp_path / "export"
    path.mkdir()
    verdict = check(_exported(path), runtime=runtime.digest, engine=engine)
    (job,) = engine.jobs
    assert job.command[-2:] == ("--model", "/model")
    assert {mount.target for mount in job.mounts} == {f"/model/{file.name}" for file in path.iterdir()}
    assert verdict.measured == {"samples": 2.0, "logits.max_abs": 1e-6, "logits.max_rel": 2e-6}
    assert verdict.findings == ()


def test_a_warm_up_beside_the_archive_is_no_other_contract(engine: FakeEngine, runtime: Image, tmp_path: Path) -> None:
    engine.on_run = _answering(json.dumps(REPORT))
    path = _exported(tmp_path, lambda contract: contract.update(warm_up=[{"sample": 0, "runs": 3}]))
    assert check(path, runtime=runtime.digest, engine=engine).findings == ()


def test_probes_beside_the_archive_are_replayed(engine: FakeEngine, runtime: Image, tmp_path: Path) -> None:
    engine.on_run = _answering(json.dumps({**REPORT, "probes": 4}))
    path = _exported(tmp_path)
    path.with_name("probes.safetensors").write_bytes(b"")
    assert check(path, runtime=runtime.digest, engine=engine).measured["probes"] == 4
    assert "/model/probes.safetensors" in {mount.target for mount in engine.jobs[0].mounts}


@pytest.mark.parametrize(
    ("code", "rule", "told"),
    [
        (3, "samples-disagree", "does not give the answers"),
        (4, "digest", "not the ones that the contract names"),
        (5, "does-not-load", "cannot load the archive"),
        (6, "bad-contract", "cannot read the contract or the samples"),
        (139, "replay-failed", "exit code 139"),
    ],
)
@pytest.mark.usefixtures("runtime")
def test_each_way_in_which_the_replay_fails(
    engine: FakeEngine, tmp_path: Path, code: int, rule: str, told: str
) -> None:
    engine.on_run = _answering("the server's own words", code=code)
    message = _refusal(_exported(tmp_path), engine)
    assert f"error {rule}, in the runtime" in message
    assert told in message
    assert "the server's own words" in message


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("line", ["", "[" * 100_000, '{"samples": 1, "outputs": 7}', '{"samples": "x", "outputs": {}}'])
def test_a_replay_without_a_usable_report_proves_nothing(engine: FakeEngine, tmp_path: Path, line: str) -> None:
    engine.on_run = _answering(line)
    assert "error no-report" in _refusal(_exported(tmp_path), engine)


@pytest.mark.usefixtures("runtime")
def test_an_export_that_was_only_loaded_is_refused(engine: FakeEngine, tmp_path: Path) -> None:
    engine.on_run = _answering('{"loaded": true}')
    assert "error no-report" in _refusal(_exported(tmp_path), engine)


@pytest.mark.usefixtures("runtime")
def test_an_archive_with_errors_is_never_loaded_and_all_are_told(engine: FakeEngine, tmp_path: Path) -> None:
    message = _refusal(_bare(tmp_path, "operators"), engine)
    assert engine.jobs == []
    assert "2 errors" in message
    assert "torchvision::nms" in message
    assert "acme::scale" in message


@pytest.mark.usefixtures("runtime")
def test_of_very_many_findings_the_first_are_told(engine: FakeEngine, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/version", "3\n")
        archive.writestr("model/code/__torch__.py", "".join(f"  ops.acme.a{n}()\n" for n in range(90)))
    message = _refusal(tmp_path / "model.pt", engine)
    assert "90 errors" in message
    assert "acme::a49" in message
    assert message.endswith("and 40 more")


def _with_operators(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    """An archive that calls acme::scale and torchvision::nms, with the library and the contract that export leaves."""
    path = _bare(folder, "operators")
    library = folder / "ops.so"
    library.write_bytes(b"library")
    schemas = ["acme::scale(Tensor x, float by) -> Tensor", "torchvision::nms(Tensor boxes, Tensor scores) -> Tensor"]
    contract: dict[str, Any] = {
        "ops": {"file": "ops.so", "sha256": File.of(library).sha256, "size": 7, "operators": schemas},
        "operators": schemas,
        "samples": {"sha256": File.of(path).sha256, "size": path.stat().st_size},
    }
    shutil.copy(path, folder / "samples.safetensors")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0].partition("/")[0] + "/extra/contract.json", json.dumps(contract))
    file = File.of(path)
    contract["archive"] = {"sha256": file.sha256, "size": file.size}
    contract["samples"] |= {"file": "samples.safetensors"}
    change(contract)
    (folder / "contract.json").write_text(json.dumps(contract))
    return path


@pytest.mark.usefixtures("runtime")
def test_operators_of_the_model_are_those_of_the_library_beside_it(engine: FakeEngine, tmp_path: Path) -> None:
    engine.on_run = _answering(json.dumps(REPORT))
    assert check(_with_operators(tmp_path), runtime=RUNTIME, engine=engine).findings == ()
    (job,) = engine.jobs
    assert {mount.target for mount in job.mounts} == {f"/model/{file.name}" for file in tmp_path.iterdir()}


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("named", [True, False])
def test_a_missing_library_is_told_with_operator_line_and_cure(engine: FakeEngine, tmp_path: Path, named: bool) -> None:
    path = _with_operators(tmp_path, lambda contract: None if named else contract.pop("ops"))
    (tmp_path / "ops.so").unlink()
    message = _refusal(path, engine)
    assert "has no operator acme::scale: loading would fail" in message
    assert "code/__torch__.py:11: _1 = ops.acme.scale(" in message
    assert "Put its .cpp under model_src/<name>/ops/" in message
    assert ("error no-library, ops.so" in message) == named
    assert engine.jobs == []


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda contract: contract.pop("ops"), "has no operator acme::scale"),
        (lambda contract: contract["ops"]["operators"].pop(), "has no operator torchvision::nms"),
        (lambda contract: contract["ops"].update(sha256="f" * 64), "error digest, ops.so"),
        (lambda contract: contract["ops"].update(file="other.so"), "error bad-contract, contract.json"),
        (lambda contract: contract.update(ops=7), "error bad-contract, contract.json"),
        (lambda contract: contract["ops"].update(operators=7), "error bad-contract, contract.json"),
    ],
)
def test_a_library_that_is_not_the_archives(
    engine: FakeEngine, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    assert told in _refusal(_with_operators(tmp_path, change), engine)
    assert engine.jobs == []


@pytest.mark.usefixtures("runtime")
def test_a_swapped_library_is_never_loaded(engine: FakeEngine, tmp_path: Path) -> None:
    path = _with_operators(tmp_path)
    (tmp_path / "ops.so").write_bytes(b"LIBRARY")
    assert "error digest, ops.so" in _refusal(path, engine)
    assert engine.jobs == []


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda contract: contract["archive"].update(sha256="f" * 64), "and contract.json says ffff"),
        (lambda contract: contract["archive"].update(size=1), "and contract.json says 1"),
        (lambda contract: contract["samples"].update(size=7), "error digest, samples.safetensors"),
        (lambda contract: contract["tolerance"].update(absolute=1.0), "inside the archive in: tolerance"),
        (lambda contract: contract.update(extra=1), "inside the archive in: extra"),
        (lambda contract: contract.pop("archive"), "error bad-contract, contract.json"),
        (lambda contract: contract.update(samples=[1]), "error bad-contract, contract.json"),
    ],
)
def test_a_contract_that_is_not_the_archives(
    engine: FakeEngine, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    assert told in _refusal(_exported(tmp_path, change), engine)
    assert engine.jobs == []


@pytest.mark.usefixtures("runtime")
def test_samples_that_are_missing(engine: FakeEngine, tmp_path: Path) -> None:
    path = _exported(tmp_path)
    (tmp_path / "samples.safetensors").unlink()
    assert "error no-samples, samples.safetensors" in _refusal(path, engine)


@pytest.mark.usefixtures("runtime")
def test_a_contract_beside_an_archive_that_has_none(engine: FakeEngine, tmp_path: Path) -> None:
    path = _exported(tmp_path)
    contract = json.loads((tmp_path / "contract.json").read_text())
    shutil.copy(GOLDEN / "scripted.pt", path)
    contract["archive"] = {"file": path.name, "sha256": File.of(path).sha256, "size": path.stat().st_size}
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    assert "none is inside it" in _refusal(path, engine)


@pytest.mark.usefixtures("runtime")
def test_there_is_no_such_file(engine: FakeEngine, tmp_path: Path) -> None:
    assert "there is no such file" in _refusal(tmp_path / "model.pt", engine)


def test_there_is_no_such_image(engine: FakeEngine, tmp_path: Path) -> None:
    assert "no such image" in _refusal(_bare(tmp_path), engine)


def test_an_image_that_is_no_runtime(engine: FakeEngine, tmp_path: Path) -> None:
    engine.add(RUNTIME, layers=(layer({"bin/sh": b""}),))
    assert "no TorchScript runtime" in _refusal(_bare(tmp_path), engine)


def test_an_image_whose_facts_are_broken(engine: FakeEngine, tmp_path: Path) -> None:
    engine.add(RUNTIME, layers=(layer({FACTS.removeprefix("/"): b"{}"}),))
    assert "not what the runtime's build writes" in _refusal(_bare(tmp_path), engine)
