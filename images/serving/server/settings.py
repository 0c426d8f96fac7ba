"""What the environment says about how to serve."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from server import cgroup
from server.errors import SettingsError
from server.log import LEVELS, Level

Choice = TypeVar("Choice", bound=str)

_MEBIBYTE = 2**20
_DAY_MS = 86_400_000
# After the last answer the model's threads end, and the process; nobody is served in less than the second one.
_ENDING_SECONDS, _LEAST_DRAIN_SECONDS = 1.5, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to serve; what is not set has the default in brackets.

    `threads` for one operator (TORCHYARD_THREADS [the cgroup's cores]) and `instances`, threads that run the model
    (TORCHYARD_INSTANCES [None: measured]); `plans` says that both are open. Whether operators may be fused for single
    requests (TORCHYARD_FUSION [auto: where that is faster]). The largest request body in bytes
    (TORCHYARD_MAX_BODY_MIB [64]). How many requests may wait (TORCHYARD_QUEUE [128]), and how many bytes of requests
    may be held (TORCHYARD_QUEUE_MIB [128, at least one body]). How long a request may take in seconds
    (TORCHYARD_DEADLINE_MS [None: as long as it takes]), and a run of the model before the server counts as stuck
    (TORCHYARD_STUCK_SECONDS [60]). How long load balancers are given after SIGTERM to see that this server is not ready
    (TORCHYARD_GRACE_MS [500]), and until the process is killed (TORCHYARD_STOP_SECONDS [10, as `docker stop`]): `drain`
    is what that leaves for accepted requests. Open connections (TORCHYARD_CONNECTIONS [1024]). How long a request takes
    that the log tells about (TORCHYARD_SLOW_MS [1000]), and the least level that it tells (TORCHYARD_LOG_LEVEL [info]).
    """

    threads: int
    instances: int | None
    plans: bool
    fusion: bool
    max_body: int
    queue: int
    queue_size: int
    deadline: float | None
    stuck: float
    grace: float
    drain: float
    connections: int
    slow: float
    log_level: Level


def read(environment: Mapping[str, str]) -> Settings:
    """The settings that an environment holds.

    Raises:
        SettingsError: a variable is not a whole number in its range.
    """

    def number(name: str, default: int, most: int) -> int:
        return _number(environment, f"TORCHYARD_{name}", default=default, most=most)

    max_body = number("MAX_BODY_MIB", 64, 2048) * _MEBIBYTE
    grace, stop = number("GRACE_MS", 500, _DAY_MS) / 1e3, number("STOP_SECONDS", 10, _DAY_MS)
    drain = stop - grace - _ENDING_SECONDS
    if drain < _LEAST_DRAIN_SECONDS:
        raise SettingsError(
            f"TORCHYARD_GRACE_MS is {1e3 * grace:.0f} and TORCHYARD_STOP_SECONDS {stop}: at least "
            f"{grace + _ENDING_SECONDS + _LEAST_DRAIN_SECONDS:g} seconds are needed to answer what was accepted. Give "
            "the container as much time to stop and say so, or load balancers less."
        )
    return Settings(
        threads=number("THREADS", cgroup.threads(), 1024),
        instances=number("INSTANCES", 0, 1024) or None,
        plans=not (environment.get("TORCHYARD_THREADS") or environment.get("TORCHYARD_INSTANCES")),
        fusion=_choice(environment, "TORCHYARD_FUSION", ("auto", "off"), "auto") == "auto",
        max_body=max_body,
        queue=number("QUEUE", 128, 100_000),
        queue_size=max(max_body, number("QUEUE_MIB", 128, 65_536) * _MEBIBYTE),
        deadline=number("DEADLINE_MS", 0, _DAY_MS) / 1e3 or None,
        stuck=number("STUCK_SECONDS", 60, _DAY_MS),
        grace=grace,
        drain=drain,
        connections=number("CONNECTIONS", 1024, 1_000_000),
        slow=number("SLOW_MS", 1000, _DAY_MS) / 1e3,
        log_level=_choice(environment, "TORCHYARD_LOG_LEVEL", LEVELS, "info"),
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


def _choice(environment: Mapping[str, str], name: str, choices: Sequence[Choice], default: Choice) -> Choice:
    text = environment.get(name, "") or default
    for choice in choices:
        if text == choice:
            return choice
    raise SettingsError(f"{name} is {text!r}; it must be one of {', '.join(choices)}, or not set.")
