"""What is pinned, brought up to date: what counts as stale, what is refused, and that a check writes nothing."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

import tasks
from pipeline import pins
from pipeline.errors import DriftError, PinsError, SpecError
from pipeline.refresh import actions, debian, python, refresh, write

PINS = pins.load()
REAL = pins.IMAGES.parent
OLD, NEW = "1" * 40, "2" * 40
WORKFLOW = f"""\
steps:
  - uses: acme/build@{OLD} # v1.9.0
    with: {{uses: nothing}}
  - uses: acme/tools/lint@{NEW} # v2.0.0
  - uses: ./local
  - run: ./inv lint
"""
RELEASES = {"acme/build": {"v1.9.0": OLD, "v1.10.0": NEW, "v1.2.3": "3" * 40}, "acme/tools": {"v2.0.0": NEW}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This project's pins and one workflow; the archive, the index and GitHub answer with what is pinned."""
    shutil.copytree(pins.IMAGES, tmp_path / "images")
    shutil.copytree(REAL / "tests/containers/kserve", tmp_path / "tests/containers/kserve")
    for name in ("requirements.in", "requirements.lock"):
        shutil.copy(REAL / name, tmp_path)
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/ci.yml").write_text(WORKFLOW.replace(OLD, NEW).replace("v1.9.0", "v1.10.0"))

    def bootstrap(pin: pins.RootPin, _: Path) -> tuple[str, ...]:
        folder = {"toolchain": "pytorch-cuda", "build": "base", "serving": "base"}.get(pin.name, pin.name)
        return tuple((pins.IMAGES / folder / f"{pin.name}.packages").read_text().splitlines())

    monkeypatch.setattr(debian, "bootstrap", bootstrap)
    monkeypatch.setattr(python, "_compiled", lambda source, *_: (REAL / source).with_suffix(".lock").read_text())
    monkeypatch.setattr(actions, "_tags", lambda url: RELEASES[url.removeprefix("https://github.com/")])
    return tmp_path


def _contents(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_what_is_up_to_date_is_not_stale(home: Path) -> None:
    assert refresh(PINS, home) == ()


def test_the_record_of_each_root_is_resolved(home: Path) -> None:
    for record in ("base/build", "base/serving", "pytorch-cuda/toolchain", "load/load"):
        path = home / "images" / f"{record}.packages"
        path.write_text(re.sub("^libc6 .*", "libc6 1 amd64", path.read_text(), flags=re.MULTILINE))
    stale = refresh(PINS, home, kinds=("debian",))
    names = [file.path.name for file in stale]
    assert names == ["build.packages", "serving.packages", "toolchain.packages", "load.packages"]
    assert all(file.changes[0] == "- libc6 1 amd64" and file.changes[1].startswith("+ libc6 2") for file in stale)
    write(stale)
    assert refresh(PINS, home) == ()


def test_no_record_is_forgotten(home: Path) -> None:
    assert {file.path for file in debian.stale(PINS, home)} == set(home.glob("images/*/*.packages"))
    assert {file.path for file in python.stale(home)} == set(home.rglob("requirements.lock"))


def test_the_toolchain_is_the_build_root_with_its_packages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def bootstrap(pin: pins.RootPin, _: Path) -> tuple[str, ...]:
        asked.append(pin.packages)
        return ()

    monkeypatch.setattr(debian, "bootstrap", bootstrap)
    refresh(PINS, home, kinds=("debian",))
    assert asked == [
        PINS.build_root.packages,
        PINS.serving_root.packages,
        (*PINS.build_root.packages, *PINS.toolchain),
        PINS.load_root.packages,
        PINS.registry_root.packages,
        PINS.tools_root.packages,
    ]


def test_a_root_from_a_registry_has_no_record(home: Path) -> None:
    (home / "images/base/build.packages").unlink()
    root = replace(PINS.build_root, image="debian@sha256:" + "0" * 64)
    (home / "images/pytorch-cuda/toolchain.packages").unlink()
    assert refresh(replace(PINS, build_root=root), home, kinds=("debian",)) == ()


def test_locks_differ_in_versions_and_files_and_in_nothing_else() -> None:
    was = "a==1 \\\n    --hash=sha256:1\n    # via b\nb==1 ; sys_platform == 'x' --hash=2\nc==1 --hash=3\n"
    now = "a==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:9\nb==2 --hash=2\nc==1 \\\n    --hash=3\n"
    assert python.changes(was, now) == ("- b 1", "+ b 2", "~ a 1, other files")
    assert python.changes(was, was.replace("# via b", "# via c")) == ()


def _wheel(name: str, digit: str) -> dict[str, object]:
    return {"url": f"https://example.com/{name}", "hashes": {"sha256": digit * 64}}


def test_a_lock_of_an_image_has_the_file_that_fits_it_best() -> None:
    lock = (
        f"a-b==1 \\\n    --hash=sha256:{'1' * 64} \\\n    --hash=sha256:{'2' * 64} \\\n    --hash=sha256:{'3' * 64}\n"
        f"    # via c\nc==2 ; x \\\n    --hash=sha256:{'4' * 64}\n"
    )
    wheels = [
        _wheel("a_b-1-py3-none-any.whl", "1"),
        _wheel("a_b-1-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "2"),
        _wheel("a_b-1-cp313-cp313-manylinux_2_34_x86_64.whl", "3"),
    ]
    other = {"name": "c", "version": "2", "wheels": [_wheel("c-2-cp310-abi3-manylinux1_x86_64.whl", "4")]}
    found: dict[str, Any] = {"lock-version": "1.0", "created-by": "uv", "requires-python": ">=3.13"}
    found["packages"] = [{"name": "a-b", "version": "1", "wheels": wheels}, other]
    assert python.one_file_each(lock, found) == (
        f"a-b==1 \\\n    --hash=sha256:{'2' * 64}\n    # via c\nc==2 ; x \\\n    --hash=sha256:{'4' * 64}\n"
    )
    found["packages"] = [{"name": "a-b", "version": "1", "wheels": wheels[2:]}, other]
    with pytest.raises(PinsError, match=r"a-b(.|\n)*pin a version that has one for them"):
        python.one_file_each(lock, found)


def test_every_lock_of_an_image_names_one_file_for_each_package() -> None:
    locks = [path.with_suffix(".lock").read_text() for path in python.sources(REAL) if path.parent != REAL]
    assert len(locks) == 4
    assert all(lock.count("==") == lock.count("--hash=sha256:") > 0 for lock in locks)


def test_an_action_goes_to_its_newest_release_by_number(home: Path) -> None:
    workflow = home / ".github/workflows/ci.yml"
    workflow.write_text(WORKFLOW)
    (stale,) = refresh(PINS, home, kinds=("actions",))
    assert stale.changes == (f"- uses: acme/build@{OLD} # v1.9.0", f"+ uses: acme/build@{NEW} # v1.10.0")
    write((stale,))
    assert workflow.read_text() == WORKFLOW.replace(f"{OLD} # v1.9.0", f"{NEW} # v1.10.0")


@pytest.mark.parametrize("ref", ["v1", "v1.9.0", "main", "v1 # v1.9.0", f"{OLD} # v1", f"{OLD} # the newest"])
def test_an_action_by_tag_gets_a_commit(home: Path, ref: str) -> None:
    workflow = home / ".github/workflows/ci.yml"
    workflow.write_text(f"- uses: acme/build@{ref}\n")
    write(refresh(PINS, home, kinds=("actions",)))
    assert workflow.read_text() == f"- uses: acme/build@{NEW} # v1.10.0\n"


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (f"acme/build@{NEW} # v1.9.0", f"pinned to {NEW} as v1.9.0, and that tag is now {OLD}"),
        (f"acme/build@{NEW} # v1.11.0", "that tag is now gone"),
        (f"acme/none@{NEW} # v1.0.0", "acme/none has no release"),
    ],
)
def test_a_tag_that_moved_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, use: str, message: str) -> None:
    monkeypatch.setitem(RELEASES, "acme/none", {})
    (home / ".github/workflows/ci.yml").write_text(f"- uses: {use}\n")
    with pytest.raises(PinsError, match=message):
        refresh(PINS, home, kinds=("actions",))


@pytest.fixture
def stale_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file of each kind is stale, and the command works in this copy."""
    (home / ".github/workflows/ci.yml").write_text(WORKFLOW)
    (home / "images/base/build.packages").write_text("libc6 1 amd64\n")
    (home / "requirements.lock").write_text("ruff==0.1 --hash=sha256:1\n")
    monkeypatch.setattr(tasks, "HOME", home)
    return home


def test_a_check_lists_what_is_stale_and_writes_nothing(stale_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _contents(stale_home)
    with pytest.raises(Exit, match="3 files of pins are stale") as ended:
        tasks.pins(Context(), check=True)
    assert ended.value.code == DriftError.exit_code
    assert _contents(stale_home) == before
    printed = capsys.readouterr().out
    assert all(
        line in printed
        for line in ("build.packages:\n  + apt", "requirements.lock:\n", f"- uses: acme/build@{OLD} # v1.9.0\n")
    )


def test_what_is_stale_is_refreshed_once(stale_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.pins(Context())
    assert "3 files refreshed" in capsys.readouterr().out
    tasks.pins(Context(), check=True)
    assert "what is pinned is up to date" in capsys.readouterr().out
    assert (stale_home / "requirements.lock").read_bytes() == (REAL / "requirements.lock").read_bytes()


def test_what_cannot_be_resolved_leaves_every_file_as_it_was(stale_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> dict[str, str]:
        raise PinsError(f"{url} cannot be asked")

    monkeypatch.setattr(actions, "_tags", unreachable)
    before = _contents(stale_home)
    with pytest.raises(Exit, match="cannot be asked"):
        tasks.pins(Context())
    assert _contents(stale_home) == before


def test_only_one_kind_is_asked_for(stale_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_tags", None)
    monkeypatch.setattr(debian, "bootstrap", None)
    tasks.pins(Context(), only="python")
    with pytest.raises(Exit, match="--only pyhton: there is actions, python, debian") as ended:
        tasks.pins(Context(), only="pyhton")
    assert ended.value.code == SpecError.exit_code
    assert (stale_home / "images/base/build.packages").read_text() == "libc6 1 amd64\n"
