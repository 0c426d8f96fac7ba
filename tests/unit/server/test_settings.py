"""What the environment may say, and what is refused."""

import os

import pytest

from server import cgroup, settings
from server.errors import SettingsError


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "threads", lambda: 3)
    chosen = settings.read({})
    assert chosen.threads == 3
    assert chosen.max_body == 64 * 2**20
    assert (chosen.instances, chosen.plans, chosen.deadline, chosen.log_level) == (None, True, None, "info")
    assert (chosen.queue, chosen.queue_size, chosen.connections) == (128, 128 * 2**20, 1024)
    assert (chosen.stuck, chosen.grace, chosen.slow) == (60, 0.5, 1)


def test_the_environment_overrides() -> None:
    chosen = settings.read({"TORCHYARD_THREADS": "5", "TORCHYARD_MAX_BODY_MIB": "1"})
    assert (chosen.threads, chosen.max_body) == (5, 2**20)


def test_times_are_in_the_units_that_their_names_say() -> None:
    chosen = settings.read(
        {f"TORCHYARD_{name}": "250" for name in ("DEADLINE_MS", "STUCK_SECONDS", "GRACE_MS", "SLOW_MS")}
    )
    assert (chosen.deadline, chosen.stuck, chosen.grace, chosen.slow) == (0.25, 250, 0.25, 0.25)


@pytest.mark.parametrize(("name", "plans"), [("THREADS", False), ("INSTANCES", False), ("QUEUE", True)])
def test_a_plan_that_is_given_is_not_measured(name: str, plans: bool) -> None:
    assert settings.read({f"TORCHYARD_{name}": "2"}).plans is plans


def test_the_queue_has_room_for_the_largest_body() -> None:
    chosen = settings.read({"TORCHYARD_MAX_BODY_MIB": "500", "TORCHYARD_QUEUE_MIB": "1"})
    assert chosen.queue_size == chosen.max_body == 500 * 2**20


@pytest.mark.parametrize(
    ("grace", "stop", "drain"), [("", "", 8.0), ("5000", "", 3.5), ("15000", "60", 43.5), ("500", "3", 1.0)]
)
def test_accepted_requests_have_what_is_left_until_the_process_is_killed(grace: str, stop: str, drain: float) -> None:
    chosen = settings.read({"TORCHYARD_GRACE_MS": grace, "TORCHYARD_STOP_SECONDS": stop})
    assert chosen.drain == drain


@pytest.mark.parametrize(
    ("grace", "stop", "least"), [("7501", "", "10.001"), ("500", "2", "3"), ("60000", "30", "62.5")]
)
def test_time_to_stop_that_leaves_none_for_requests_is_refused(grace: str, stop: str, least: str) -> None:
    with pytest.raises(SettingsError, match=rf"at least {least} seconds are needed to answer what was accepted"):
        settings.read({"TORCHYARD_GRACE_MS": grace, "TORCHYARD_STOP_SECONDS": stop})


def test_an_unknown_level_is_refused() -> None:
    assert settings.read({"TORCHYARD_LOG_LEVEL": "debug"}).log_level == "debug"
    with pytest.raises(SettingsError, match="TORCHYARD_LOG_LEVEL is 'loud'; it must be one of error, warning, info"):
        settings.read({"TORCHYARD_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(("value", "fusion"), [("", True), ("auto", True), ("off", False)])
def test_fusion_can_be_turned_off(value: str, fusion: bool) -> None:
    assert settings.read({"TORCHYARD_FUSION": value}).fusion is fusion
    with pytest.raises(SettingsError, match="TORCHYARD_FUSION is 'on'; it must be one of auto, off, or not set"):
        settings.read({"TORCHYARD_FUSION": "on"})


@pytest.mark.parametrize("name", ["TORCHYARD_THREADS", "TORCHYARD_MAX_BODY_MIB"])
@pytest.mark.parametrize("value", ["0", "-1", "2.5", "two", "99999", "²"])
def test_other_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is '.*'; it must be a whole number from 1 to"):
        settings.read({name: value})


def _openmp(monkeypatch: pytest.MonkeyPatch, **choice: str) -> dict[str, str]:
    """What OpenMP's library reads after `choice` met `prepare_openmp(2)`."""
    environment = {"OMP_NUM_THREADS": "64", **choice}
    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", environment)
        settings.prepare_openmp(2)
    return environment


def test_openmp_is_told_and_spins_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _openmp(monkeypatch) == {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"}


@pytest.mark.parametrize("choice", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_an_operators_choice_of_waiting_is_kept(monkeypatch: pytest.MonkeyPatch, choice: dict[str, str]) -> None:
    assert _openmp(monkeypatch, **choice) == {"OMP_NUM_THREADS": "2"} | choice
