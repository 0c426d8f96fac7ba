"""What is kept of a bootstrapped root, and how drift of its packages is told."""

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import bootstrap, pins
from pipeline.errors import PinsError, SpaceError

STATUS = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n\n"
PIN = replace(pins.load().serving_root, keep=("usr/bin/python3.13", "usr/lib/lib{a,b}.so*"), drop=("usr/lib/libb.*",))


@pytest.fixture
def mmdebstrap(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Stands in for the program: what it would extract, by path."""
    files = {
        "./usr/bin/python3.13": b"python",
        "./usr/bin/mawk": b"awk",
        "./usr/lib/liba.so.1": b"a",
        "./usr/lib/libb.so.1": b"b",
        "./var/lib/dpkg/status.d/libc6": STATUS,
    }

    def extract(_: object, out: Path) -> None:
        with tarfile.open(out, "w") as archive:
            link = tarfile.TarInfo("./bin")
            link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
            archive.addfile(link)
            device = tarfile.TarInfo("./dev/null")
            device.type = tarfile.CHRTYPE
            archive.addfile(device)
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), 2**32
                archive.addfile(member, io.BytesIO(content))

    monkeypatch.setattr(bootstrap, "_mmdebstrap", extract)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/mmdebstrap")
    return files


@pytest.mark.usefixtures("mmdebstrap")
def test_holds_what_the_pin_keeps_and_nothing_else(tmp_path: Path) -> None:
    bootstrap.bootstrap(PIN, tmp_path / "root.tar")
    with tarfile.open(tmp_path / "root.tar") as root:
        assert root.getnames() == ["etc/group", "etc/passwd", "bin", "usr/bin/python3.13", "usr/lib/liba.so.1"]
        assert all(member.mtime <= PIN.epoch for member in root)
    assert [path.name for path in tmp_path.iterdir()] == ["root.tar"]


@pytest.mark.usefixtures("mmdebstrap")
def test_equal_packages_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        bootstrap.bootstrap(PIN, tmp_path / name)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.usefixtures("mmdebstrap")
def test_says_which_packages_it_resolved_to(tmp_path: Path) -> None:
    assert bootstrap.bootstrap(PIN, tmp_path / "root.tar") == ("libc6 2.41-12 amd64",)


def test_drift_is_told_by_package() -> None:
    was, now = ("a 1 amd64", "b 1 amd64", "c 1 all"), ("a 1 amd64", "b 2 amd64", "d 1 all")
    assert bootstrap.drift(was, now) == ("- b 1 amd64", "+ b 2 amd64", "- c 1 all", "+ d 1 all")
    assert bootstrap.drift(was, was) == ()


def test_without_mmdebstrap_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(PinsError, match="apt-get install mmdebstrap"):
        bootstrap.bootstrap(PIN, tmp_path / "root.tar")


class _Failing:
    """Stands in for a process that prints a line and fails."""

    line = ""
    returncode = 1

    def __init__(self, *_: object, **__: object) -> None:
        self.stdout = [f"{self.line}\n"]

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("E: Unable to locate package python3.99", PinsError, "Unable to locate package python3.99"),
        ("tar: write error: No space left on device", SpaceError, "disk filled up"),
    ],
)
def test_a_failure_shows_the_last_lines_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/mmdebstrap")
    monkeypatch.setattr(subprocess, "Popen", type("Popen", (_Failing,), {"line": line}))
    with pytest.raises(error, match=message):
        bootstrap.bootstrap(PIN, tmp_path / "root.tar")
    assert list(tmp_path.iterdir()) == []
