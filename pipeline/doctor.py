"""What this machine has and lacks for Torchyard, each with the way to mend it."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.engine import Engine, Info
from pipeline.engine.buildkit import Builder, ca_bundle
from pipeline.errors import EngineError
from pipeline.pins import Pins

_DISK = 20 * 2**30
_MEMORY = 4 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at: `ok`, `missing` (nothing works without it) or `note` (worth knowing)."""

    name: str
    state: Literal["ok", "missing", "note"]
    found: str
    fix: str = ""


def examine(connect: Callable[[], Engine], *, pins: Pins) -> tuple[Check, ...]:
    """Looks at everything; a missing engine hides only what the engine would tell."""
    checks = [_python(), _mmdebstrap(pins), _git_lfs(), _ca_bundle()]
    try:
        info = connect().info()
    except EngineError as error:
        fix = "apt-get install docker.io iptables && dockerd, or ./inv as root, which does both"
        return (*checks, Check(name="engine", state="missing", found=str(error), fix=fix))
    return (*checks, _engine(info), _buildkit(info), _disk(info), _memory(info), _gpu(info), _apparmor(info))


def _python() -> Check:
    return Check(name="python", state="ok", found=f"{sys.version.split()[0]} at {sys.executable}")


def _mmdebstrap(pins: Pins) -> Check:
    if found := shutil.which("mmdebstrap"):
        return Check(name="mmdebstrap", state="ok", found=found)
    roots = ", ".join(root.name for root in pins.bootstrapped)
    if not roots:
        found = "not on PATH; images/pins.toml has every root from a registry"
        return Check(name="mmdebstrap", state="note", found=found)
    found = f"not on PATH, and it makes these roots: {roots}"
    fix = "apt-get install mmdebstrap debian-archive-keyring, or pin base images by digest in images/pins.toml"
    return Check(name="mmdebstrap", state="missing", found=found, fix=fix)


def _git_lfs() -> Check:
    if found := shutil.which("git-lfs"):
        return Check(name="git-lfs", state="ok", found=found)
    found, fix = "not on PATH; only a store of Git LFS and its tests need it", "apt-get install git-lfs"
    return Check(name="git-lfs", state="note", found=found, fix=fix)


def _ca_bundle() -> Check:
    bundle = ca_bundle()
    if bundle:
        return Check(name="CA bundle", state="ok", found=f"{bundle}, given to builds as a secret")
    return Check(
        name="CA bundle",
        state="note",
        found="none named; builds use pip's own",
        fix="behind a proxy with its own certificates, set SSL_CERT_FILE to the bundle",
    )


def _engine(info: Info) -> Check:
    return Check(name="engine", state="ok", found=f"{info.version} at {info.address}")


def _buildkit(info: Info) -> Check:
    try:
        builder = Builder.discover(info.address)
    except EngineError as error:
        return Check(name="BuildKit", state="missing", found=str(error), fix="apt-get install docker-buildx")
    return Check(name="BuildKit", state="ok", found=" ".join(builder.command))


def _disk(info: Info) -> Check:
    if not info.root.exists():
        return Check(name="disk", state="note", found=f"{info.root} is inside the engine's virtual machine")
    free = shutil.disk_usage(info.root).free
    text = f"{free / 2**30:.0f} GiB free at {info.root}"
    if free >= _DISK:
        return Check(name="disk", state="ok", found=text)
    fix = f"free up {_DISK / 2**30:.0f} GiB for the training image; docker system prune helps"
    return Check(name="disk", state="missing", found=text, fix=fix)


def _memory(info: Info) -> Check:
    text = f"{info.memory / 2**30:.0f} GiB, {info.cpus} cores"
    if info.memory >= _MEMORY:
        return Check(name="memory", state="ok", found=text)
    return Check(name="memory", state="missing", found=text, fix="give the engine at least 4 GiB")


def _gpu(info: Info) -> Check:
    if info.gpus:
        return Check(name="GPU", state="ok", found="the engine has NVIDIA's runtime; training uses it")
    if Path("/dev/nvidiactl").exists():
        fix = "install nvidia-container-toolkit and restart the engine"
        return Check(name="GPU", state="note", found="a card, and no runtime in the engine", fix=fix)
    return Check(name="GPU", state="note", found="none; models train on the CPU")


def _apparmor(info: Info) -> Check:
    profiles = ", ".join(option.split(",")[0].removeprefix("name=") for option in info.security)
    if any("apparmor" in option for option in info.security):
        return Check(name="confinement", state="ok", found=profiles)
    found = f"{profiles or 'none'}; AppArmor is not applicable on this kernel ({os.uname().release})"
    return Check(name="confinement", state="note", found=found)
