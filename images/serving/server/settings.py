"""What the environment says about how to serve."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from server import cgroup
from server.errors import SettingsError

_MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`threads` that one operator uses (TORCHYARD_THREADS; by default the cgroup's cores), and the largest request
    body in bytes (TORCHYARD_MAX_BODY_MIB; by default 64 MiB)."""

    threads: int
    max_body: int


def read(environment: Mapping[str, str]) -> Settings:
    """The settings that an environment holds.

    Raises:
        SettingsError: a variable is not a whole number in its range.
    """
    return Settings(
        threads=_number(environment, "TORCHYARD_THREADS", default=cgroup.threads(), most=1024),
        max_body=_number(environment, "TORCHYARD_MAX_BODY_MIB", default=64, most=2048) * _MEBIBYTE,
    )


def prepare_openmp(threads: int) -> None:
    """Tells OpenMP about threads; it reads its environment once, when its library is loaded with the engine.

    A thread that waits at a barrier spins briefly and then sleeps. Spinning takes the core from what it waits for as
    soon as anything else (the client, this server's event loop, another container) wants one; sleeping at once pays a
    wake-up at every operator. Medians for resnet18 at 64x64 over the wire, 2 threads on 2 cores, alone and beside one
    busy process, in ms: asleep at once 15-20 and 18-19, spinning 1000 times 8-13 and 8-16, 15000 times 11-16 and
    10-75, OpenMP's default of 300000 times 10-12 and 7-327.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _number(environment: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise SettingsError(f"{name} is {text!r}; it must be a whole number from 1 to {most}, or not set.")
    return int(text)
