"""Operators of a model's own, from their C++ to an audited image; every fault on the way is told where it is found."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import spec
from pipeline.artifacts import Archive, File, Limits
from pipeline.assemble import assemble
from pipeline.audit import audit, elf
from pipeline.check import check
from pipeline.compile import compile_operators
from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import AuditError, CheckError, CompileError, ContainerFailed
from pipeline.line import Line

HOME = Path(__file__).resolve().parents[2]
SCALED = Path(__file__).parent / "models" / "scaled"
SCHEMA = "acme::scale(Tensor x, float by) -> Tensor"
LIMITS = Limits(memory=1024, cpus=2, pids=256)
REPLAY = ("/usr/bin/python3.13", "-m", "server.replay", "--model", "/model")


def _compiled(source: str, toolchain: Image, engine: DockerEngine, folder: Path) -> File:
    """The library of the scaled model with another ops/scale.cpp."""
    shutil.copytree(SCALED, folder / "scaled")
    (folder / "scaled/ops/scale.cpp").write_text(source)
    return compile_operators(spec.load(folder / "scaled"), toolchain=toolchain, engine=engine, out=folder / "out")


@pytest.fixture(scope="module")
def archive(scaled_line: Line) -> Archive:
    return scaled_line.export


@pytest.fixture
def exported(archive: Archive, tmp_path: Path) -> Path:
    """The model's archive with all that lies beside it, to be damaged."""
    assert archive.ops
    for file in (archive.file, archive.contract, archive.samples, archive.ops):
        shutil.copy(file.path, tmp_path)
    return tmp_path / archive.file.path.name


def _sign(path: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Makes the contracts inside the archive and beside it name the library as it is now, after `change` to them."""
    library = File.of(path.with_name("ops.so"))
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    inside = next(name for name in entries if name.endswith("/extra/contract.json"))
    contract: dict[str, Any] = json.loads(entries[inside])
    contract["ops"] |= {"sha256": library.sha256, "size": library.size}
    change(contract)
    entries[inside] = json.dumps(contract).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    file = File.of(path)
    contract["archive"] = {"file": path.name, "sha256": file.sha256, "size": file.size}
    contract["samples"]["file"] = "samples.safetensors"
    path.with_name("contract.json").write_text(json.dumps(contract))


def _refusal(path: Path, runtime: Image, engine: DockerEngine) -> str:
    with pytest.raises(CheckError) as refused:
        check(path, runtime=runtime.digest, engine=engine)
    return str(refused.value)


def test_equal_sources_give_equal_bytes_that_need_torch_alone(
    scaled_line: Line, engine: DockerEngine, toolchain: Image, tmp_path: Path
) -> None:
    again = _compiled((SCALED / "ops/scale.cpp").read_text(), toolchain, engine, tmp_path)
    assert scaled_line.compile
    assert again.sha256 == scaled_line.compile.sha256
    content = again.path.read_bytes()
    library = elf.parse(content)
    assert library
    assert {"libtorch_cpu.so", "libc10.so"} <= set(library.needed)
    assert set(library.needed) <= {
        *("libtorch_cpu.so", "libc10.so", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6")
    }
    assert library.search == ()
    assert not [path for path in (b"/opt/venv", b"/torchyard", b"/tmp") if path in content]
    assert again.path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("int one() { return 1; }\nint two() { return missing; }\n", r"ops/scale\.cpp:2: 'missing' was not declared"),
        ("int other();\nint one() {\n  return other();\n}\n", r"ops/scale\.cpp:3: undefined reference to `other\(\)'"),
        ("int one(int unused) { return 1; }\n", r"ops/scale\.cpp:1: unused parameter 'unused'"),
        ('#include "gone.h"\n', r"ops/scale\.cpp:1: gone\.h: No such file or directory"),
    ],
)
def test_what_does_not_compile_is_named_with_its_line(
    engine: DockerEngine, toolchain: Image, tmp_path: Path, source: str, told: str
) -> None:
    with pytest.raises(
        CompileError, match=rf"scaled: The operators in ops/ cannot be compiled\. {told}(.|\n)*g\+\+ ends"
    ):
        _compiled(source, toolchain, engine, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("int one() { return 1; }\n", r"compile and register nothing.*Register each with TORCH_LIBRARY"),
        (
            '#include <stdexcept>\nstruct A { A() { throw std::runtime_error("planted"); } } a;\n',
            r"torch cannot register them\.(.|\n)*what\(\):  planted",
        ),
    ],
)
def test_operators_that_cannot_be_registered_are_refused(
    engine: DockerEngine, toolchain: Image, tmp_path: Path, source: str, told: str
) -> None:
    with pytest.raises(CompileError, match=told):
        _compiled(source, toolchain, engine, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_library_goes_from_training_to_the_image(scaled_line: Line, archive: Archive, engine: DockerEngine) -> None:
    contract = json.loads(archive.contract.path.read_bytes())
    assert archive.ops
    assert scaled_line.compile
    assert archive.ops.sha256 == scaled_line.compile.sha256
    assert contract["ops"] == {
        "file": "ops.so",
        "sha256": archive.ops.sha256,
        "size": archive.ops.size,
        "operators": [SCHEMA],
    }
    assert SCHEMA in contract["operators"]
    assert scaled_line.check.findings == ()
    assert scaled_line.audit.digest == scaled_line.assemble.digest
    assert engine.read_file(scaled_line.assemble.digest, "/model/ops.so") == archive.ops.path.read_bytes()
    lines: list[str] = []
    engine.run(Job(image=scaled_line.assemble.digest, command=REPLAY, limits=LIMITS), on_line=lines.append)
    assert json.loads(lines[-1])["samples"] == contract["samples"]["count"]


def test_a_missing_library_is_refused_before_anything_is_loaded(
    exported: Path, runtime: Image, engine: DockerEngine
) -> None:
    exported.with_name("ops.so").unlink()
    message = _refusal(exported, runtime, engine)
    assert "error no-library, ops.so" in message
    assert "has no operator acme::scale" in message
    assert "ops.acme.scale(" in message
    assert "Put its .cpp under model_src/<name>/ops/" in message


def test_a_swapped_library_is_refused_on_the_host_and_in_the_runtime(
    exported: Path, broken_libraries: Path, runtime: Image, engine: DockerEngine
) -> None:
    shutil.copy(broken_libraries / "unbound", exported.with_name("ops.so"))
    assert "error digest, ops.so" in _refusal(exported, runtime, engine)
    job = Job(
        image=runtime.digest, command=REPLAY, limits=LIMITS, mounts=(Mount(source=exported.parent, target="/model"),)
    )
    with pytest.raises(ContainerFailed, match=r"/model/ops\.so: it has \d+ bytes, and the contract says") as failed:
        engine.run(job, on_line=lambda _: None)
    assert failed.value.code == 4


@pytest.mark.parametrize(
    ("library", "told"),
    [
        ("unbound", "undefined symbol: nowhere"),
        ("lonely", "libabsent.so.1: cannot open shared object file"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_refused(
    exported: Path, broken_libraries: Path, runtime: Image, engine: DockerEngine, library: str, told: str
) -> None:
    shutil.copy(broken_libraries / library, exported.with_name("ops.so"))
    _sign(exported)
    message = _refusal(exported, runtime, engine)
    assert "error does-not-load, in the runtime" in message
    assert "/model/ops.so: this runtime cannot load the model's own operators" in message
    assert told in message


def test_a_library_without_what_the_contract_declares_is_refused(
    exported: Path, runtime: Image, engine: DockerEngine
) -> None:
    _sign(exported, lambda contract: contract["ops"]["operators"].append("acme::more(Tensor x) -> Tensor"))
    message = _refusal(exported, runtime, engine)
    assert "error does-not-load, in the runtime" in message
    assert "not what the contract says it does: acme::more(Tensor x) -> Tensor" in message


def test_an_image_without_what_the_library_needs_is_refused(
    archive: Archive, exported: Path, broken_libraries: Path, runtime: Image, engine: DockerEngine
) -> None:
    shutil.copy(broken_libraries / "lonely", exported.with_name("ops.so"))
    _sign(exported)
    planted = replace(
        archive,
        file=File.of(exported),
        contract=File.of(exported.with_name("contract.json")),
        ops=File.of(exported.with_name("ops.so")),
    )
    model = replace(archive.trained.spec, name="torchyard-test-lonely")
    planted = replace(planted, trained=replace(archive.trained, spec=model))
    image = assemble(planted, runtime=runtime, epoch=1_700_000_000, engine=engine)
    try:
        with pytest.raises(
            AuditError, match=r"model-library: /model/ops\.so (.|\n)*needs libabsent\.so\.1, not in the"
        ):
            audit(image.tag, engine=engine)
    finally:
        engine.remove((image.tag,))


def test_the_detectors_suppression_is_torchvisions(
    engine: DockerEngine, trainer: Image, toolchain: Image, tmp_path: Path
) -> None:
    model = spec.load(HOME / "model_src" / "detector")
    library = compile_operators(model, toolchain=toolchain, engine=engine, out=tmp_path)
    script = Path(__file__).with_name("suppression.py")
    mounts = (Mount(source=script, target="/suppression.py"), Mount(source=library.path, target="/ops.so"))
    lines: list[str] = []
    command = ("/opt/venv/bin/python", "/suppression.py")
    engine.run(Job(image=trainer.digest, command=command, limits=LIMITS, mounts=mounts), on_line=lines.append)
    assert lines[-1] == "agreed"
