"""The builder: which CLI is taken, what a failed build is told as, and what of the host's settings a build gets."""

from pathlib import Path

import pytest

from pipeline.engine import Build, buildkit
from pipeline.engine.buildkit import Builder
from pipeline.errors import BuildError, EngineError, SpaceError

BUILD = Build(folder=Path("images"), dockerfile=Path("images/Dockerfile"), stage="runtime", tag="made:1")


def _clients(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    """`answers` maps a client to its version, with `+buildx` where it has the plugin."""
    monkeypatch.setattr(buildkit, "_clients", lambda: list(answers))

    def output(client: str, command: str, *_: str) -> str:
        version, _plus, plugin = answers[client].partition("+")
        return plugin if command == "buildx" else version

    monkeypatch.setattr(buildkit, "_output", output)


def test_buildx_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    _clients(monkeypatch, {"/usr/bin/docker": "20.10.24", "/opt/docker": "28.0.0+buildx"})
    assert Builder.discover("unix:///sock").command[:3] == ("/opt/docker", "buildx", "build")


def test_a_client_with_buildkit_built_in_is_found_behind_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    _clients(monkeypatch, {"/usr/local/bin/docker": "28.2.2", "/usr/bin/docker": "20.10.24"})
    assert Builder.discover("unix:///sock").command == ("/usr/bin/docker", "build")


@pytest.mark.parametrize("answers", [{}, {"/usr/local/bin/docker": "28.2.2"}])
def test_without_buildkit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    _clients(monkeypatch, answers)
    with pytest.raises(EngineError, match="Install the buildx plugin"):
        Builder.discover("unix:///sock")


@pytest.mark.parametrize(
    ("log", "kind", "message"),
    [
        ("#7 3.1 error: no matching function for call", BuildError, "no matching function"),
        ("write /var/lib/x: no space left on device", SpaceError, "disk filled up"),
        (
            "error: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF",
            EngineError,
            "went away",
        ),
        ("Cannot connect to the Docker daemon at unix:///sock", EngineError, "went away"),
        ("#5 0.264 half way\nunexpected EOF", EngineError, "went away"),
        ('3.1 unexpected EOF\nERROR: failed to solve: process "cat <<EOF; unexpected EOF"', BuildError, "could not"),
        ("#7 3.1 x.cpp:1: error: invalid sizeof\n#7 3.2 unexpected EOF, closing", BuildError, "could not be built"),
    ],
)
def test_a_failed_build_is_told_by_its_cause(log: str, kind: type[Exception], message: str) -> None:
    error = buildkit._failure(BUILD, log)
    assert type(error) is kind
    assert message in str(error)
    assert log in str(error)


def test_pip_gets_the_hosts_indexes_and_no_paths_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@packages.example.com/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///opt/wheels https://more.example.com/simple")
    settings = buildkit._pip_settings(with_bundle=True).splitlines()
    assert "index-url = https://user:secret@packages.example.com/simple" in settings
    assert "extra-index-url = https://more.example.com/simple" in settings
    assert "cert = /run/secrets/ca-bundle" in settings


def test_secrets_are_arguments_by_file_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificates")
    for name in buildkit._CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@packages.example.com/simple")
    with buildkit._secrets() as arguments:
        assert f"--secret=id=ca-bundle,src={bundle}" in arguments
        assert "secret@" not in " ".join(arguments)
        (settings,) = [Path(each.partition("src=")[2]) for each in arguments if "pip.conf" in each]
        assert "secret@" in settings.read_text()
        assert settings.parent.stat().st_mode & 0o077 == 0
    assert not settings.exists()


def test_a_bundle_that_is_not_there_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in buildkit._CA_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    assert buildkit.ca_bundle() is None
