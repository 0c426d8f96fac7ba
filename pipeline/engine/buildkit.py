"""Building: BuildKit through whichever docker CLI can drive it, since the SDK knows the legacy builder only."""

import configparser
import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import programs, progress
from pipeline.engine import Build
from pipeline.errors import BuildError, EngineError, SpaceError

_LAST_LINES = 25
# What BuildKit and its client say when the engine goes away.
_GONE = re.compile(
    r"cannot connect to the docker daemon|unexpected eof|error reading from server|code = unavailable|connection reset"
    r"|(?:transport|connection) is closing"
)
# What is no line of theirs: a step's number, or the time before what it printed; the Dockerfile's lines; what failed.
_OF_A_STEP = re.compile(r"[#>\d]|error: failed to solve: process")
# BuildKit 0.8 begins each step with its digest, which tells nobody anything.
_DIGEST = re.compile(r"#\d+ sha256:\w+$")
# Where pip and curl look for the bundle of certificate authorities that a host trusts.
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CA_SECRET = "/run/secrets/ca-bundle"  # noqa: S105 (a path, as the Dockerfiles mount it)


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A command line that builds with BuildKit against the engine at `address`."""

    command: tuple[str, ...]
    address: str

    @classmethod
    def discover(cls, address: str) -> "Builder":
        """The first docker CLI on PATH with buildx, or with BuildKit built in (20.10 to 22).

        Raises:
            EngineError: there is none.
        """
        clients = _clients()
        for client in clients:
            if _output(client, "buildx", "version"):
                # The default builder is the engine's own BuildKit: the only one that sees local base images.
                return cls(command=(client, "buildx", "build", "--builder", "default", "--load"), address=address)
        for client in clients:
            major = _output(client, "version", "--format", "{{.Client.Version}}").partition(".")[0]
            if major.isdigit() and int(major) < 23:
                return cls(command=(client, "build"), address=address)
        found = ", ".join(clients) or "no docker command at all"
        raise EngineError(
            f"No docker CLI on PATH can drive BuildKit (found: {found}). "
            "Install the buildx plugin (`apt-get install docker-buildx`, or Docker's docker-buildx-plugin package)."
        )

    def build(self, build: Build) -> None:
        """Runs one build and shows its log as it comes; a failed or interrupted one leaves no tag.

        Raises:
            BuildError: a step failed; the message ends with its last lines.
            SpaceError: the disk is full.
            EngineError: the engine went away.
        """
        with _secrets() as secrets:
            command = [*self.command, "--progress=plain", f"--file={build.dockerfile}", f"--target={build.stage}"]
            command += [f"--tag={build.tag}", *secrets]
            command += [f"--build-arg={key}={value}" for key, value in sorted(build.args.items())]
            command += [f"--label={key}={value}" for key, value in sorted(build.labels.items())]
            environment = os.environ | {"DOCKER_BUILDKIT": "1", "DOCKER_HOST": self.address}
            last: deque[str] = deque(maxlen=_LAST_LINES)

            def on_line(line: str) -> None:
                if line.strip() and not _DIGEST.match(line):
                    last.append(line)
                    progress.say(f"  {line}")

            code = programs.run([*command, str(build.folder)], env=environment, on_line=on_line)
        if code:
            raise _failure(build, "\n".join(f"  {line}" for line in last))


def ca_bundle() -> Path | None:
    """The bundle of certificate authorities that this host names in its environment, if any."""
    named = (Path(os.environ[name]) for name in _CA_VARIABLES if os.environ.get(name))
    return next((path for path in named if path.is_file()), None)


def _failure(build: Build, log: str) -> BuildError | SpaceError | EngineError:
    lowered = log.lower()
    if "no space left on device" in lowered:
        return SpaceError(f"The disk filled up while {build.tag} was built:\n{log}\nFree some space and run it again.")
    own = (line for line in map(str.strip, lowered.splitlines()) if not _OF_A_STEP.match(line))
    if any(_GONE.search(line) for line in own):
        return EngineError(
            f"The container engine went away while {build.tag} was built:\n{log}\n"
            "Nothing half-made was tagged; start the engine (`inv doctor` shows how) and run the same command."
        )
    return BuildError(f"{build.tag} (stage {build.stage} of {build.dockerfile}) could not be built:\n{log}")


def _clients() -> list[str]:
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = (shutil.which("docker", path=folder) for folder in folders)
    return list(dict.fromkeys(client for client in found if client))


def _output(*command: str) -> str:
    environment = os.environ | {"DOCKER_HOST": "unix:///nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout.strip()


@contextmanager
def _secrets() -> Iterator[list[str]]:
    """The build's secrets as CLI arguments: pip's settings, and the CA bundle where the host names one.

    They are mounted while a step runs and reach no layer; the file of pip's settings is gone afterwards.
    """
    bundle = ca_bundle()
    with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
        settings = Path(folder) / "pip.conf"
        settings.write_text(_pip_settings(with_bundle=bundle is not None), encoding="utf-8")
        arguments = [f"--secret=id=pip.conf,src={settings}"]
        if bundle:
            arguments.append(f"--secret=id=ca-bundle,src={bundle}")
        yield arguments


def _pip_settings(*, with_bundle: bool) -> str:
    """pip's settings of this host as far as they mean something inside a build: its indexes, by URL."""
    lines = ["[global]", "timeout = 120", "retries = 10", "disable-pip-version-check = true"]
    if with_bundle:
        lines.append(f"cert = {_CA_SECRET}")
    host = configparser.RawConfigParser()
    host.read(
        [Path("/etc/pip.conf"), Path("~/.config/pip/pip.conf").expanduser(), Path("~/.pip/pip.conf").expanduser()]
    )
    for key in ("index-url", "extra-index-url"):
        variable = f"PIP_{key.upper().replace('-', '_')}"
        value = os.environ.get(variable, "") or str(host.get("global", key, fallback=""))
        urls = [url for url in value.split() if url.startswith(("https://", "http://"))]
        if urls:
            lines.append(f"{key} = {' '.join(urls)}")
    return "\n".join(lines) + "\n"
