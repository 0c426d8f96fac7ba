"""The pinned images: built when what they are made from changes; drift and a full disk are noticed early."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import images, pins
from pipeline.engine import Job
from pipeline.errors import DriftError, SpaceError
from tests.unit.fake_engine import FakeEngine, layer

PINS = pins.load()
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def world(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of images/, a mmdebstrap that resolves to what is recorded, and a large disk."""
    folder = tmp_path / "images"
    shutil.copytree(pins.IMAGES, folder)
    monkeypatch.setattr(images, "IMAGES", folder)

    def bootstrap(pin: pins.RootPin, out: Path) -> tuple[str, ...]:
        out.write_bytes(layer({"etc/os-release": pin.name.encode()}))
        return tuple((folder / "base" / f"{pin.name}.packages").read_text().splitlines())

    def query(_: Job, on_line: Callable[[str], None]) -> None:
        for line in (folder / "pytorch-cuda/toolchain.packages").read_text().splitlines():
            on_line(line)

    monkeypatch.setattr(images, "bootstrap", bootstrap)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**40, 0, 2**40))
    engine.on_run = query
    return folder


def _tags(engine: FakeEngine) -> list[str]:
    return [build.tag for build in engine.builds]


def test_builds_everything_that_the_runtime_needs_once(engine: FakeEngine) -> None:
    images.runtime(PINS, engine=engine)
    made = ["pytorch-cuda:v2.8", "pytorch-cuda:v2.8-toolchain", "torchscript-runtime:v2.8-cpu"]
    assert _tags(engine) == made
    images.runtime(PINS, engine=engine)
    images.trainer(PINS, engine=engine)
    assert _tags(engine) == made


@pytest.mark.parametrize(
    ("path", "rebuilt"),
    [
        ("serving/Dockerfile", ["torchscript-runtime:v2.8-cpu"]),
        (
            "pytorch-cuda/requirements.lock",
            ["pytorch-cuda:v2.8", "pytorch-cuda:v2.8-toolchain", "torchscript-runtime:v2.8-cpu"],
        ),
        ("pytorch-cuda/toolchain.packages", ["pytorch-cuda:v2.8-toolchain", "torchscript-runtime:v2.8-cpu"]),
    ],
)
def test_a_change_rebuilds_what_is_made_from_it(engine: FakeEngine, world: Path, path: str, rebuilt: list[str]) -> None:
    images.runtime(PINS, engine=engine)
    engine.builds.clear()
    with (world / path).open("a") as stream:
        stream.write("# changed\n")
    images.runtime(PINS, engine=engine)
    assert _tags(engine) == rebuilt


def test_a_registry_base_takes_the_place_of_a_root(engine: FakeEngine) -> None:
    reference = "debian@sha256:" + "0" * 64
    engine.add(reference, layers=(layer({"etc/os-release": b"debian"}),))
    images.trainer(replace(PINS, build_root=replace(PINS.build_root, image=reference)), engine=engine)
    assert engine.builds[0].args == {"BASE": reference}
    assert engine.find("torchyard-base:build") is None


def test_drift_is_reported(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _drift(monkeypatch)
    images.trainer(PINS, engine=engine)
    assert "+ newcomer 1 all" in capsys.readouterr().out


def test_drift_stops_a_locked_build_before_anything_is_made(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _drift(monkeypatch)
    with pytest.raises(DriftError, match=r"\+ newcomer 1 all(.|\n)*--locked"):
        images.trainer(PINS, engine=engine, locked=True)
    assert engine.builds == []
    assert engine.find("torchyard-base:build") is None


def test_drift_of_the_toolchain_stops_a_locked_build_and_leaves_no_tag(engine: FakeEngine) -> None:
    engine.on_run = lambda _, on_line: on_line("g++ 99 amd64")
    with pytest.raises(DriftError, match=r"The toolchain resolved to other packages(.|\n)*\+ g\+\+ 99 amd64"):
        images.toolchain(PINS, engine=engine, locked=True)
    assert engine.find("pytorch-cuda:v2.8-toolchain") is None


def test_what_was_built_with_drift_is_refused_by_a_locked_build_later(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _drift(monkeypatch)
    images.trainer(PINS, engine=engine)
    with pytest.raises(DriftError, match=r"\+ newcomer 1 all(.|\n)*--locked"):
        images.trainer(PINS, engine=engine, locked=True)
    images.trainer(PINS, engine=engine)


def test_a_toolchain_with_drift_is_refused_by_a_locked_build_later(engine: FakeEngine) -> None:
    engine.on_run = lambda _, on_line: on_line("g++ 99 amd64")
    made = images.toolchain(PINS, engine=engine)
    with pytest.raises(DriftError, match=r"\+ g\+\+ 99 amd64"):
        images.toolchain(PINS, engine=engine, locked=True)
    # Whoever built it without asked for it.
    assert images.toolchain(PINS, engine=engine) == made


def test_what_it_is_built_with_is_told_by_the_file_of_each_package(engine: FakeEngine) -> None:
    lines = [
        f"{'1' * 64}  cpp_4%3a14.2.0-1_amd64.deb",
        f"{'2' * 64}  /var/cache/apt/archives/libstdc++6_14.2.0-19_amd64.deb",
        f"{'3' * 64}  tzdata_2026b-0+deb13u1_all.deb",
    ]
    compiler = images.toolchain(PINS, engine=engine)
    asked: list[tuple[str, ...]] = []

    def told(job: Job, on_line: Callable[[str], None]) -> None:
        asked.append(job.command)
        for line in lines:
            on_line(line)

    engine.on_run = told
    assert images.built_with(compiler, engine=engine) == {
        ("cpp", "4:14.2.0-1"): "1" * 64,
        ("libstdc++6", "14.2.0-19"): "2" * 64,
        ("tzdata", "2026b-0+deb13u1"): "3" * 64,
    }
    assert asked == [("cat", "/var/lib/dpkg/debs.sha256")]


def test_too_small_a_disk_is_noticed_before_the_build(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**40, 2**40, 2**32))
    with pytest.raises(SpaceError, match=r"pytorch-cuda:v2\.8 needs 20 GiB free at / and there are 4\.0 GiB"):
        images.trainer(PINS, engine=engine)
    assert engine.builds == []


def _drift(monkeypatch: pytest.MonkeyPatch) -> None:
    def bootstrap(pin: pins.RootPin, out: Path) -> tuple[str, ...]:
        out.write_bytes(layer({"etc/os-release": pin.name.encode()}))
        return ("newcomer 1 all",)

    monkeypatch.setattr(images, "bootstrap", bootstrap)
