"""How long a client may take: to send its request, and to read its answer."""

PATIENCE = 10.0
_SLOWEST = 2**14


def allowed(count: int) -> float:
    """The seconds that `count` bytes may take to come, or to be taken."""
    return PATIENCE + count / _SLOWEST
