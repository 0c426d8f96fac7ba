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

    A thread that has reached a barrier sleeps instead of spinning: what it spins is taken from the threads that it
    waits for, as soon as anything else (another container, the client, this server's event loop) wants a core.
    Measured for resnet18 at 64x64, 2 threads on 2 busy cores: p50 13 ms asleep, 19 ms after a short spin
    (GOMP_SPINCOUNT=1000), 214 ms with OpenMP's default.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _number(environment: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise SettingsError(f"{name} is {text!r}; it must be a whole number from 1 to {most}, or not set.")
    return int(text)
