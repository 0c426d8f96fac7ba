"""The commands as a platform engineer gives them, in a copy of the repository that never built anything: one who holds
public keys and his own key, and whom channels know as another than who released."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from pipeline import images, pins
from pipeline.artifacts import Release
from pipeline.engine.docker import DockerEngine
from pipeline.keys import keys
from pipeline.line import Line
from pipeline.oci import Repository
from pipeline.oci.http import HttpRegistry
from pipeline.release import Desk
from pipeline.settings import HOME
from pipeline.signing import PASSPHRASE, ToolCosign
from tests.containers.conftest import REGISTRIES, SOURCE, remove_registry

# The engine sends no layer twice to one registry, and test_release looks at what it sends to the first one.
RELEASES, STAGING, PRODUCTION = (f"127.0.0.1:{REGISTRIES[number]}/elsewhere" for number in (1, 1, 0))
# What of promotion.toml is another thing here.
POLICY = {
    'local = "~/.config/torchyard/cosign.pub"': 'releaser = "keys/releaser.pub"\npromoter = "keys/promoter.pub"',
    'signers = ["local"]': 'signers = ["releaser", "promoter"]',
    '"127.0.0.1:5000/staging"': f'"{STAGING}/staging"',
    '"127.0.0.1:5000/production"': f'"{PRODUCTION}/production"',
    "approvers = []\n": 'approvers = ["promoter"]\n',
}


@pytest.fixture(scope="module")
def pair(cosign: ToolCosign, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The private keys of who releases and of who promotes."""
    folder = tmp_path_factory.mktemp("pair")
    found = {name: folder / f"{name}.key" for name in ("releaser", "promoter")}
    for private in found.values():
        keys(private, cosign=cosign)
    return found


@pytest.fixture(scope="module")
def released(
    tiny_line: Line, engine: DockerEngine, stores: HttpRegistry, cosign: ToolCosign, pair: dict[str, Path]
) -> Release:
    tools = images.release_tools(pins.load(), engine=engine)
    desk = Desk(engine=engine, registry=stores, cosign=cosign, tools=tools, key=pair["releaser"])
    return tiny_line.release(desk, releases=f"{RELEASES}/releases", source=SOURCE)


@dataclass(frozen=True)
class Copy:
    """What git has of the repository, in an empty folder, with a home that is empty, too."""

    folder: Path
    environment: dict[str, str]

    def inv(self, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def copy(pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder, home = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("home")
    listed = subprocess.run(
        ["git", "-C", str(HOME), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if (HOME / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HOME / name, folder / name)
    (folder / "keys").mkdir()
    for name, private in pair.items():
        shutil.copy(private.with_suffix(".pub"), folder / "keys" / f"{name}.pub")
    shutil.copy(pair["promoter"], home / "mine.key")
    shutil.copy(pair["promoter"].with_suffix(".pub"), home / "mine.pub")
    (home / "passphrase").write_text("planted-passphrase\n")
    policy = (folder / "promotion.toml").read_text()
    for shipped, here in POLICY.items():
        assert shipped in policy
        policy = policy.replace(shipped, here)
    (folder / "promotion.toml").write_text(policy)
    ours = (PASSPHRASE, "TORCHYARD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return Copy(
        folder=folder,
        environment=kept
        | {
            "HOME": str(home),
            "TORCHYARD_REGISTRY": f"{RELEASES}/releases",
            "TORCHYARD_KEY": str(home / "mine.key"),
            f"{PASSPHRASE}_FILE": str(home / "passphrase"),
        },
    )


def test_a_release_is_promoted_and_put_back_where_nothing_was_built(
    copy: Copy, released: Release, stores: HttpRegistry
) -> None:
    reference = f"{RELEASES}/releases/tiny@{released.digest}"
    assert f"{reference} verifies" in copy.inv("verify", "--ref", reference, "--key", "keys/releaser.pub")
    # Of whoever promotes there is nothing yet.
    told = copy.inv("verify", "--ref", reference, "--key", "keys/promoter.pub", fails=True)
    assert "signature-by-another-key" in told

    assert "there is nothing in staging" in copy.inv("promote", "--model", "tiny", "--to", "production", fails=True)
    assert "may go from releases to staging" in copy.inv("promote", "--model", "tiny", "--to", "staging", "--dry-run")
    told = copy.inv("promote", "--model", "tiny", "--to", "staging", "--digest", released.digest)
    assert f"staging has tiny 1.0.0 now: {released.digest} (entry 1 of its log)" in told
    assert "approval: promoter" in copy.inv("promote", "--model", "tiny", "--to", "production", fails=True)
    assert f"approved for production: {released.digest}" in copy.inv("approve", "--model", "tiny", "--to", "production")
    assert "production has tiny" in copy.inv("promote", "--model", "tiny", "--to", "production")
    assert "production has it already" in copy.inv("promote", "--model", "tiny", "--to", "production")

    there = _repository(f"{PRODUCTION}/production/tiny")
    found = [
        stores.manifest(where, released.digest)
        for where in (_repository(f"{RELEASES}/releases/tiny"), _repository(f"{STAGING}/staging/tiny"), there)
    ]
    assert found[0]
    assert found[0] == found[1] == found[2]

    # In a channel he who promoted signed the place, and he who released the evidence: it takes both keys.
    reference = there.at(released.digest)
    both = ("--key", "keys/releaser.pub", "--key", "keys/promoter.pub")
    assert f"{reference} verifies" in copy.inv("verify", "--ref", reference, *both)
    # Without a key, those count whom promotion.toml names.
    assert f"{reference} verifies" in copy.inv("verify", "--ref", reference)
    copy.inv("verify", "--ref", reference, "--key", "keys/promoter.pub", fails=True)
    assert "layers: " in copy.inv("diff", f"{RELEASES}/releases/tiny@{released.digest}", reference)

    told = copy.inv("status", "--model", "tiny")
    assert told.count("in order") == 3
    assert told.count("check passed") + told.count("check warned") == 3
    told = copy.inv("rollback", "--model", "tiny", "--channel", "production", "--reason", "a drill", fails=True)
    assert "no digest before the current one" in told
    again = ("--to", released.digest, "--reason", "a drill")
    told = copy.inv("rollback", "--model", "tiny", "--channel", "production", *again)
    assert "production has tiny 1.0.0 again" in told
    assert "(entry 2 of its log)" in told


def test_the_archive_is_fetched_and_a_missing_key_is_told(copy: Copy, released: Release) -> None:
    model = f"{RELEASES}/releases/tiny@{released.model}"
    told = copy.inv("fetch", "--ref", model, "--out", "fetched", "--key", "keys/releaser.pub")
    assert released.image.archive.file.sha256 in told
    assert (copy.folder / "fetched" / "model.pt").is_file()
    told = copy.inv("fetch", "--ref", model, "--out", "other", "--key", "keys/promoter.pub", fails=True)
    assert "no signature for this repository verifies" in told
    assert not (copy.folder / "other").exists()
    reference = f"{RELEASES}/releases/tiny@{released.digest}"
    told = copy.inv("verify", "--ref", reference, "--key", "keys/nobody.pub", fails=True)
    assert "nobody.pub: there is no such public key" in told
    assert "Traceback" not in told


def test_a_release_is_made_again_from_the_sources_of_a_copy(copy: Copy, released: Release) -> None:
    reference = f"{RELEASES}/releases/tiny@{released.digest}"
    told = copy.inv("reproduce", "--ref", reference, "--model", "tests/containers/models/tiny")
    same = dict(re.findall(r"^same +(.+?) +sha256:(\w+)", told, re.MULTILINE))
    assert {"training data", "weights", "archive", "model layer", "image"} <= same.keys()
    assert same["archive"] == released.image.archive.file.sha256
    assert "OTHER" not in told


def test_a_registry_is_started_once_and_stopped(copy: Copy, engine: DockerEngine) -> None:
    port = ("--port", "5973")
    try:
        for _ in range(2):
            assert "The registry answers at 127.0.0.1:5973" in copy.inv("registry", *port)
            assert requests.get("http://127.0.0.1:5973/v2/", timeout=10).status_code == 200
    finally:
        told = copy.inv("registry", *port, "--stop")
        remove_registry(5973, engine=engine)
    assert "stopped the registry at 127.0.0.1:5973" in told
    with pytest.raises(requests.ConnectionError):
        requests.get("http://127.0.0.1:5973/v2/", timeout=10)
    assert "no registry of ours runs at 127.0.0.1:5973" in copy.inv("registry", *port, "--stop")


def _repository(path: str) -> Repository:
    host, _, rest = path.partition("/")
    return Repository(host=host, path=rest)
