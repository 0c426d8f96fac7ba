"""What the export containers are given, what becomes of what they leave, and the archive's repeatable layout."""

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import BatchingChoice, Chosen, Decided, Deviation, ModelSpec
from pipeline.engine import Image, Job
from pipeline.errors import ContainerFailed, ExportError
from pipeline.export import export
from pipeline.inside.rewrite import rewrite
from tests.unit.fake_engine import FakeEngine
from tests.unit.values import BATCHING, EVIDENCE, PROFILE, file, trained_model

FILES = ["contract.json", "model.pt", "probes.safetensors", "samples.safetensors"]
EXACT = {"absolute": 0.0, "relative": 0.0, "equal": True, "agreement": 1.0}
CLOSE = {"absolute": 2.5e-7, "relative": 1e-6, "equal": False, "agreement": None}


@pytest.fixture
def trainer(engine: FakeEngine) -> Image:
    return engine.add("pytorch-cuda:v2.8")


@pytest.fixture
def runtime(engine: FakeEngine) -> Image:
    return engine.add("torchscript-runtime:v2.8-cpu")


def _out(job: Job) -> Path:
    (out,) = (mount.source for mount in job.mounts if mount.writable)
    return out


@dataclass
class _Containers:
    """Containers that export `content`, compare it, and try it in a runtime; what each says can be changed.

    `apart` is why requests cannot be answered together.
    `p50` has the candidates by name in milliseconds; `metrics` and `refused` are those of the candidates in `p50`
    that are named.
    """

    content: str = "new"
    p50: Mapping[str, float] = field(default_factory=lambda: {"fp32-contiguous": 2.0})
    metrics: Mapping[str, dict[str, float]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    refused_by_all: str = ""
    bf16: bool = True
    apart: str = ""

    def __call__(self, job: Job, on_line: Callable[[str], None]) -> None:
        work = {
            "pipeline.inside.export": self._export,
            "pipeline.inside.parity": self._compare,
            "server.trial": self._try,
            "server.profile": self._profile,
            "server.together": self._together,
        }
        work[job.command[2]](job, on_line)

    def _export(self, job: Job, _: Callable[[str], None]) -> None:
        out, order = _out(job), json.loads(job.env["TORCHYARD_ORDER"])
        contract = order["contract"] | {"operators": ["aten::relu"], "producer": {"torchyard": order["torchyard"]}}
        contract |= {"evidence": asdict(EVIDENCE)}
        result = {}
        for name in self.p50:
            precision, memory_format = name.split("-")
            (out / name).mkdir()
            for part in FILES:
                (out / name / part).write_text(f"{self.content} {name}")
            for mount in job.mounts:
                if mount.target == "/torchyard/ops.so":
                    shutil.copy(mount.source, out / name / "ops.so")
            (out / name / "contract.json").write_text(json.dumps(contract | {"precision": precision}))
            refused = name in self.refused
            found = {"refused": self.refused[name]} if refused else {"parity": _stage("program")}
            result[name] = {"precision": precision, "memory_format": memory_format, **found}
        (out / "result.json").write_text(json.dumps(result))

    def _compare(self, job: Job, _: Callable[[str], None]) -> None:
        out, order = _out(job), json.loads(job.env["TORCHYARD_ORDER"])
        assert all((out / name / file).is_file() for name in order["candidates"] for file in FILES)
        if self.refused_by_all:
            (out / "result.json").write_text(json.dumps({"refused": self.refused_by_all}))
            raise ContainerFailed("exit code 1", code=1)
        result = {
            name: {
                "parity": _stage("frozen") | _stage("optimised"),
                "metrics": self.metrics.get(name, {"accuracy": 0.9}),
            }
            for name in order["candidates"]
        }
        (out / "result.json").write_text(json.dumps(result))

    def _try(self, job: Job, on_line: Callable[[str], None]) -> None:
        names = [mount.source.name for mount in job.mounts]
        tried = {name: {"parity": _stage("runtime"), "p50": self.p50[name]} for name in names}
        on_line(json.dumps({"bf16": self.bf16, "threads": 1, "candidates": tried}))

    def _profile(self, _: Job, on_line: Callable[[str], None]) -> None:
        on_line("a library says something")
        on_line(json.dumps({"threads": 1, "shapes": [asdict(PROFILE)]}))

    def _together(self, job: Job, on_line: Callable[[str], None]) -> None:
        assert job.command[-2] == "--memory"
        size = 1 if self.apart else BATCHING.max_size
        row_ms = {} if self.apart else BATCHING.row_ms
        because = self.apart or BATCHING.because
        on_line(json.dumps({"max_size": size, "because": because, "row_ms": row_ms, "possible": not self.apart}))


def _stage(name: str) -> dict[str, Any]:
    return {name: {"y": EXACT if name == "program" else CLOSE}}


def test_containers_export_compare_try_profile_and_batch(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    engine.on_run = _Containers()

    archive = export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out)

    modules = ["pipeline.inside.export", "pipeline.inside.parity", "server.trial", "server.profile", "server.together"]
    assert [job.command[2] for job in engine.jobs] == modules
    assert [job.image for job in engine.jobs] == [trainer.digest] * 2 + [runtime.digest] * 3
    assert {job.env["PYTHONHASHSEED"] for job in engine.jobs[:2]} == {"0"}
    assert not any(job.gpus for job in engine.jobs)
    weights = {mount.target: mount for mount in engine.jobs[0].mounts}["/torchyard/weights.safetensors"]
    assert (weights.source, weights.writable) == (trained.weights.path, False)
    assert {(m.target, m.writable) for job in engine.jobs[2:] for m in job.mounts} == {
        ("/candidates/fp32-contiguous", False)
    }
    assert {job.limits.cpus for job in engine.jobs[2:]} == {trained.spec.serving.cpus}
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (archive.file.path, archive.samples.path, archive.probes.path, archive.contract.path) == (
        out / "model.pt",
        out / "samples.safetensors",
        out / "probes.safetensors",
        out / "contract.json",
    )
    assert all(file.is_intact() for file in (archive.file, archive.samples, archive.probes, archive.contract))
    assert archive.operators == ("aten::relu",)
    assert archive.evidence == EVIDENCE
    assert list(archive.parity) == ["program", "frozen", "optimised", "runtime"]
    assert archive.parity["program"] == {"y": Deviation(absolute=0.0, relative=0.0, equal=True, agreement=1.0)}
    assert archive.parity["runtime"] == {"y": Deviation(absolute=2.5e-7, relative=1e-6, equal=False, agreement=None)}
    assert (archive.precision, archive.memory_format, archive.metrics) == ("fp32", "contiguous", {"accuracy": 0.9})
    assert archive.profile == (PROFILE,)
    assert archive.trained == trained
    assert archive.batching == BATCHING
    contract = json.loads(archive.contract.path.read_text())
    assert contract["warm_up"] == [{"sample": 0, "runs": 3}]
    assert contract["batching"] == {"max_size": 8, "max_delay_ms": 0.0}


@pytest.mark.parametrize(
    ("choice", "apart", "wanted"),
    [
        (BatchingChoice(), "y differs", (1, 0.0, "y differs")),
        (BatchingChoice(max_size=1), "", (1, 0.0, "model.yaml turns it off")),
        (BatchingChoice(max_size=3, max_delay_ms=2.5), "", (3, 2.5, "model.yaml asks for it; 27 got the same answers")),
    ],
)
def test_requests_are_answered_together_by_evidence(
    engine: FakeEngine,
    trainer: Image,
    runtime: Image,
    tmp_path: Path,
    choice: BatchingChoice,
    apart: str,
    wanted: tuple[int, float, str],
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    trained = replace(trained, spec=replace(trained.spec, batching=choice))
    engine.on_run = _Containers(apart=apart)
    archive = export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out)
    found = archive.batching
    assert (found.max_size, found.max_delay_ms, found.because) == wanted
    told = {"max_size": found.max_size, "max_delay_ms": found.max_delay_ms} if found.max_size > 1 else None
    assert json.loads(archive.contract.path.read_text()).get("batching") == told


@pytest.mark.parametrize("apart", ["", "y differs"])
def test_what_was_chosen_is_not_measured_again(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path, apart: str
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    trained = replace(trained, spec=replace(trained.spec, precision="auto", memory_format="auto"))
    engine.on_run = _Containers(p50={"fp32-contiguous": 1.0, "bf16-channels_last": 2.0}, apart=apart)
    chosen = Chosen(precision="bf16", memory_format="channels_last", batch_size=1, runs={0: 7})
    export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out, decided=Decided(chosen=chosen))
    ordered = json.loads(engine.jobs[1].env["TORCHYARD_ORDER"])
    assert (ordered["precision"], ordered["memory_format"]) == ("bf16", "channels_last")
    contract = json.loads((out / "contract.json").read_text())
    assert contract["precision"] == "bf16"
    assert contract["warm_up"] == [{"sample": 0, "runs": 7}]
    assert contract.get("batching") == (None if apart else {"max_size": 1, "max_delay_ms": 0.0})


def test_what_was_chosen_does_not_go_past_what_is_asked_for(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    asked = replace(trained.spec, precision="fp32", memory_format="contiguous", batching=BatchingChoice(max_size=3))
    engine.on_run = _Containers()
    chosen = Chosen(precision="bf16", memory_format="channels_last", batch_size=9, runs={})
    trained = replace(trained, spec=asked)
    export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out, decided=Decided(chosen=chosen))
    contract = json.loads((out / "contract.json").read_text())
    assert (contract["precision"], contract["batching"]["max_size"]) == ("fp32", 3)


def test_batches_of_a_model_that_mixes_its_rows_are_refused(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    trained = replace(trained, spec=replace(trained.spec, batching=BatchingChoice(max_size=3)))
    engine.on_run = _Containers(apart="y differs")
    with pytest.raises(ExportError, match=r"tiny: model\.yaml asks for batches of 3, and .* one by one: y differs"):
        export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out)


def test_operators_of_the_model_go_with_the_archive_and_leave_with_it(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    ops = file(tmp_path / "compile/ops.so", "library")
    engine.on_run = _Containers()

    archive = export(replace(trained, ops=ops), trainer=trainer, runtime=runtime, engine=engine, out=out)

    assert all("/torchyard/ops.so" in {mount.target for mount in job.mounts} for job in engine.jobs[:2])
    assert archive.ops
    assert (archive.ops.path, archive.ops.sha256) == (out / "ops.so", ops.sha256)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "ops.so"])
    assert export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out).ops is None
    assert sorted(path.name for path in out.iterdir()) == FILES


def _choosing(spec: ModelSpec, **choice: Any) -> ModelSpec:
    return replace(spec, **({"precision": "auto", "memory_format": "auto"} | choice))


def test_the_fastest_candidate_becomes_the_archive(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    trained = trained_model(tmp_path)
    trained = replace(trained, spec=_choosing(trained.spec))
    engine.on_run = _Containers(p50={"fp32-contiguous": 2.0, "fp32-channels_last": 1.5})
    archive = export(trained, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")
    assert archive.file.path.read_text() == "new fp32-channels_last"
    assert archive.memory_format == "channels_last"
    assert [candidate.because for candidate in archive.candidates] == [
        "1.33 times as slow",
        "1.33 times as fast as fp32 contiguous",
    ]


def test_bf16_on_a_cpu_without_it_stays_at_fp32_and_says_so(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = trained_model(tmp_path)
    trained = replace(trained, spec=_choosing(trained.spec, precision="bf16", memory_format="contiguous"))
    engine.on_run = _Containers(
        bf16=False,
        p50={"fp32-contiguous": 2.0, "bf16-contiguous": 1.0},
        refused={"bf16-contiguous": "this CPU has no instructions for bf16"},
    )
    archive = export(trained, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")
    assert [job.command[2] for job in engine.jobs][:2] == ["server.trial", "pipeline.inside.export"]
    order = json.loads(engine.jobs[1].env["TORCHYARD_ORDER"])
    assert (order["precision"], order["bf16"]) == ("bf16", False)
    assert archive.precision == "fp32"
    assert "bf16 contiguous: not tried; not taken: this CPU has no instructions for bf16" in capsys.readouterr().out


def test_a_runtime_that_reports_nothing_is_an_export_error(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    class Silent(_Containers):
        def _try(self, _: Job, on_line: Callable[[str], None]) -> None:
            on_line("hello")

    engine.on_run = Silent()
    with pytest.raises(ExportError, match=r"(?s)tiny: server\.trial in the runtime image reported nothing.*hello"):
        export(trained_model(tmp_path), trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")


def test_the_contract_says_what_model_yaml_declares(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    engine.on_run = _Containers()
    export(trained_model(tmp_path), trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")
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


def test_a_refused_archive_leaves_the_last_one_whole(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    trained, out = trained_model(tmp_path), tmp_path / "out"
    engine.on_run = _Containers("old")
    export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out)

    engine.on_run = _Containers("new", refused_by_all="The archive fails on sample 0.")
    with pytest.raises(ExportError, match=r"^tiny: The archive fails on sample 0\.$"):
        export(trained, trainer=trainer, runtime=runtime, engine=engine, out=out)

    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (out / "model.pt").read_text() == "old fp32-contiguous"


def test_leftovers_of_a_killed_export_are_not_taken_for_its_result(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    left = tmp_path / "out" / ".half"
    left.mkdir(parents=True)
    (left / "raw.pt").write_text("left by a kill")
    engine.on_run = _Containers()
    export(trained_model(tmp_path), trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_a_failed_container_is_an_export_error(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    def crash(_: Job, __: Callable[[str], None]) -> None:
        raise ContainerFailed("`python` ended with exit code 139:\n  Segmentation fault", code=139)

    engine.on_run = crash
    with pytest.raises(ExportError, match=r"(?s)tiny: `python` ended with exit code 139:.*Segmentation fault"):
        export(trained_model(tmp_path), trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")


def test_weights_that_changed_since_training_are_not_exported(
    engine: FakeEngine, trainer: Image, runtime: Image, tmp_path: Path
) -> None:
    trained = trained_model(tmp_path)
    trained.weights.path.write_text("edited!")
    with pytest.raises(ExportError, match=r"weights\.safetensors: is gone, or not what training wrote"):
        export(trained, trainer=trainer, runtime=runtime, engine=engine, out=tmp_path / "out")
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
