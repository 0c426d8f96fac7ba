"""The doctor: what is missing is named with its fix, and a missing engine hides nothing else."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import doctor, pins
from pipeline.doctor import Check
from pipeline.engine import Engine, Info
from pipeline.engine.buildkit import Builder
from pipeline.errors import EngineError
from pipeline.pins import Pins
from tests.unit.fake_engine import FakeEngine

PINS = pins.load()
Usage = namedtuple("Usage", "total used free")


def _by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def _info(**changes: object) -> Info:
    values: dict[str, object] = {
        "address": "unix:///sock",
        "version": "20.10.24",
        "memory": 2**34,
        "cpus": 2,
        "root": Path("/"),
        "gpus": False,
        "security": ("name=seccomp,profile=default",),
    }
    return Info(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything installed, and a large disk."""
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, 2**40))
    monkeypatch.setattr(Builder, "discover", lambda address: Builder(command=("docker", "build"), address=address))


def _examine(monkeypatch: pytest.MonkeyPatch, info: Info, pinned: Pins = PINS) -> dict[str, Check]:
    engine = FakeEngine()
    monkeypatch.setattr(engine, "info", lambda: info)
    return _by_name(doctor.examine(lambda: engine, pins=pinned))


def test_a_good_machine_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = _examine(monkeypatch, _info())
    assert {"python", "mmdebstrap", "CA bundle", "engine", "BuildKit", "disk", "memory", "GPU"} <= set(checks)
    assert not [check for check in checks.values() if check.state == "missing"]


def test_no_engine_is_told_beside_the_rest() -> None:
    def connect() -> Engine:
        raise EngineError("No container engine answers")

    checks = _by_name(doctor.examine(connect, pins=PINS))
    assert checks["engine"].state == "missing"
    assert "apt-get install docker.io" in checks["engine"].fix
    assert checks["mmdebstrap"].state == "ok"


def test_what_is_missing_comes_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def discover(_: str) -> NoReturn:
        raise EngineError("No docker CLI can drive BuildKit")

    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, 2**30))
    monkeypatch.setattr(Builder, "discover", discover)
    checks = _examine(monkeypatch, _info(memory=2**30))
    missing = {name for name, check in checks.items() if check.state == "missing"}
    assert missing == {"mmdebstrap", "BuildKit", "disk", "memory"}
    assert all(checks[name].fix for name in missing)
    assert (checks["git-lfs"].state, checks["git-lfs"].fix) == ("note", "apt-get install git-lfs")


def test_mmdebstrap_is_needed_for_the_roots_that_come_from_no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    image = f"docker.io/library/debian@sha256:{'0' * 64}"
    names = ("build_root", "serving_root", "load_root", "registry_root", "tools_root")
    fetched = {name: replace(getattr(PINS, name), image=image) for name in names}
    check = _examine(monkeypatch, _info(), replace(PINS, **fetched))["mmdebstrap"]
    assert (check.state, check.fix) == ("note", "")
    del fetched["load_root"]
    check = _examine(monkeypatch, _info(), replace(PINS, **fetched))["mmdebstrap"]
    assert (check.state, check.found) == ("missing", "not on PATH, and it makes these roots: load")


def test_apparmor_is_told_as_not_applicable_and_never_as_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    without = _examine(monkeypatch, _info())["confinement"]
    assert (without.state, "AppArmor is not applicable" in without.found) == ("note", True)
    security = ("name=apparmor", "name=seccomp,profile=default")
    assert _examine(monkeypatch, _info(security=security))["confinement"].state == "ok"


def test_a_gpu_of_the_engine_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "training uses it" in _examine(monkeypatch, _info(gpus=True))["GPU"].found
