"""Pins resolved for real: Debian's archive by mmdebstrap, Python's index by uv, releases of actions by git."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import bootstrap, pins
from pipeline.errors import PinsError
from pipeline.refresh import actions, debian, python, write
from pipeline.settings import HOME

PINS = pins.load()


def test_debian_packages_are_those_that_a_root_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(pins.IMAGES, tmp_path / "images")
    record = tmp_path / "images/base/serving.packages"
    record.write_text(re.sub(r"^libgcc-s1 .*\n", "libgcc-s1 1 amd64\n", record.read_text(), flags=re.MULTILINE))

    def only_serving(pin: pins.RootPin, out: Path) -> tuple[str, ...]:
        return bootstrap.bootstrap(pin, out) if pin.name == "serving" else ()

    monkeypatch.setattr(debian, "bootstrap", only_serving)
    (stale,) = (file for file in debian.stale(PINS, tmp_path) if file.path == record)
    assert "- libgcc-s1 1 amd64" in stale.changes
    assert any(re.fullmatch(r"\+ libgcc-s1 \d\S+ amd64", change) for change in stale.changes)
    named = {line.split()[0] for line in record.read_text().splitlines()}
    assert {line.split()[0] for line in stale.text.splitlines()} == named


def test_a_lock_gets_the_newest_versions_with_hashes(tmp_path: Path) -> None:
    (tmp_path / "requirements.in").write_text("iniconfig\n")
    lock = tmp_path / "requirements.lock"
    lock.write_text("iniconfig==1.0.0 --hash=sha256:" + "0" * 64 + "\n")
    (stale,) = python.stale(tmp_path)
    assert stale.changes[0] == "- iniconfig 1.0.0"
    write((stale,))
    assert re.match(r"iniconfig==[2-9][\d.]* \\\n    --hash=sha256:[0-9a-f]{64}", lock.read_text())
    assert python.changes(lock.read_text(), stale.text) == ()


def test_what_is_locked_is_kept_as_long_as_its_requirements_allow_it() -> None:
    """The locks that are here follow from their requirements, up to files that the index got since."""
    found = list(python.stale(HOME, keep=True))
    assert len(found) == len(python.sources(HOME))
    assert [change for file in found for change in file.changes if not change.startswith("~")] == []


def test_versions_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    (tmp_path / "requirements.in").write_text("iniconfig==1.0.0\niniconfig==1.1.1\n")
    (tmp_path / "requirements.lock").touch()
    with pytest.raises(PinsError, match=r"requirements\.in could not be resolved:(.|\n)*iniconfig==1\.1\.1"):
        list(python.stale(tmp_path))


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A folder of git repositories with acme/build: a plain and an annotated release, a pre-release, another tag."""
    repository = tmp_path / "server" / "acme" / "build"
    _git("init", "--quiet", repository)
    for tag in (("v1.0.0",), ("-m", "annotated", "v1.10.0"), ("v2.0.0-rc.1",), ("v1",)):
        author = ("-c", "user.name=acme", "-c", "user.email=acme@example.org")
        _git("-C", repository, *author, "commit", "--quiet", "--allow-empty", "-m", tag[-1])
        _git("-C", repository, *author, "tag", *tag)
    return tmp_path / "server"


def _git(*arguments: str | Path) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _workflow(home: Path, use: str) -> Path:
    path = home / ".github" / "workflows" / "ci.yml"
    path.parent.mkdir(parents=True)
    path.write_text(f"    - uses: {use}\n")
    return path


def test_an_action_is_pinned_to_the_commit_of_its_newest_release(tmp_path: Path, server: Path) -> None:
    first, newest = (
        _git("-C", server / "acme/build", "rev-parse", f"{tag}^{{commit}}") for tag in ("v1.0.0", "v1.10.0")
    )
    workflow = _workflow(tmp_path, f"acme/build@{first} # v1.0.0")
    (stale,) = actions.stale(tmp_path, server=server.as_uri())
    assert stale.changes == (f"- uses: acme/build@{first} # v1.0.0", f"+ uses: acme/build@{newest} # v1.10.0")
    write((stale,))
    assert workflow.read_text() == f"    - uses: acme/build@{newest} # v1.10.0\n"


def test_a_release_that_was_moved_is_refused(tmp_path: Path, server: Path) -> None:
    first = _git("-C", server / "acme/build", "rev-parse", "v1.0.0")
    _workflow(tmp_path, f"acme/build@{first} # v1.0.0")
    _git("-C", server / "acme/build", "tag", "--force", "v1.0.0", "HEAD")
    with pytest.raises(PinsError, match=f"pinned to {first} as v1.0.0, and that tag is now [0-9a-f]{{40}}"):
        list(actions.stale(tmp_path, server=server.as_uri()))


def test_a_server_that_cannot_be_asked_is_one_clear_error(tmp_path: Path) -> None:
    _workflow(tmp_path, "acme/build@v1.0.0")
    server = (tmp_path / "nowhere").as_uri()
    with pytest.raises(PinsError, match=r"acme/build cannot be asked for its releases: (.|\n)*--only debian"):
        list(actions.stale(tmp_path, server=server))
