"""As many descriptors as connections may be open, in a resource module that says what a process may do."""

import resource

import pytest

from server import descriptors


def _allowed(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, connections: int) -> tuple[int, int]:
    """The limits after `allow`."""
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    descriptors.allow(connections)
    return limits[-1]


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [
        (1024, 1_048_576, (2112, 1_048_576)),
        (1024, resource.RLIM_INFINITY, (2112, resource.RLIM_INFINITY)),
        (4096, 4096, (4096, 4096)),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ],
)
def test_the_soft_limit_is_raised_where_it_is_too_low(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], soft: int, hard: int, after: tuple[int, int]
) -> None:
    assert _allowed(monkeypatch, soft, hard, 1024) == after
    assert not capsys.readouterr().err


def test_a_hard_limit_that_is_too_low_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _allowed(monkeypatch, 1024, 2000, 1024) == (2000, 2000)
    assert '"event": "few-descriptors", "needed": 2112, "allowed": 2000' in capsys.readouterr().err
