"""Which libraries the image ships: what is needed and not in the root, and never silently less."""

from pathlib import Path

import pytest

import closure

_NEEDS = {
    "_engine.so": ["libtorch_cpu.so", "libc.so.6"],
    "libtorch_cpu.so": ["libc10.so", "libgomp.so.1", "libc.so.6"],
    "libc10.so": ["libc.so.6"],
    "libgomp.so.1": ["libc.so.6", "libc10.so"],
}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    root, torch = tmp_path / "root", tmp_path / "torch"
    (root / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (root / "usr/lib/x86_64-linux-gnu/libc.so.6").touch()
    torch.mkdir()
    for name in _NEEDS:
        (torch / name).touch()
    monkeypatch.setattr(closure, "needed_by", lambda file: _NEEDS[file.name])
    return root, torch


def test_what_the_root_lacks_is_shipped_once(folders: tuple[Path, Path]) -> None:
    root, torch = folders
    found = closure.closure_of([torch / "_engine.so"], root, [root / "nowhere", torch])
    assert found == {name: torch / name for name in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")}


def test_a_missing_library_stops_the_build(folders: tuple[Path, Path]) -> None:
    root, torch = folders
    (torch / "libgomp.so.1").unlink()
    with pytest.raises(SystemExit, match=r"nowhere: libgomp.so.1 \(needed by .*libtorch_cpu.so\)"):
        closure.closure_of([torch / "_engine.so"], root, [torch])


def test_a_library_tells_which_wheel_it_is_from(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    told = site / "nvidia_cuda_runtime_cu12-12.8.90.dist-info"
    for path in (site / "nvidia/cuda_runtime/lib/libcudart.so.12", site / "torch/lib/libplanted.so", told / "RECORD"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia_cuda_runtime_cu12\nVersion: 12.8.90\n")
    (told / "RECORD").write_text("nvidia/cuda_runtime/lib/libcudart.so.12,,\n")
    found = closure.wheel_of(site / "nvidia/cuda_runtime/lib/libcudart.so.12")
    assert found == {"package": "nvidia-cuda-runtime-cu12", "version": "12.8.90"}
    with pytest.raises(SystemExit, match=r"libplanted\.so is in no package's RECORD"):
        closure.wheel_of(site / "torch/lib/libplanted.so")
