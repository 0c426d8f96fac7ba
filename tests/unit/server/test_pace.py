"""How long a client is kept, by the pace at which it sends or reads."""

from collections.abc import Callable

import pytest

from server.pace import Pace


@pytest.mark.parametrize(
    ("patience", "moved", "seconds"),
    [
        (60, lambda _: 0, 61),
        (10, lambda _: 0, 11),
        (10, lambda now: 2**14 * now, 600),
        (10, lambda now: 2**13 * now, 21),
        # A kernel takes more in lumps, and the faster, the larger they may be.
        (60, lambda now: 2**15 * (now // 50 * 50), 600),
        (60, lambda now: 2**15 * (now // 70 * 70), 61),
        # Whatever was moved before, a minute of it is enough for a minute.
        (10, lambda now: 2**24 * min(now, 100), 161),
        (10, lambda now: 2**24 * min(now, 100) + 2**13 * now, 221),
    ],
)
def test_a_client_is_kept_as_long_as_it_moves_bytes(patience: float, moved: Callable[[int], int], seconds: int) -> None:
    pace = Pace(1000.0, 7, patience=patience)
    kept = next((now for now in range(1, 600) if pace.is_too_slow(1000.0 + now, 7 + moved(now))), 600)
    assert kept == seconds
