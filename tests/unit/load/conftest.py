"""Connections of the clients lead to a peer in the same process."""

import socket
from collections.abc import Callable

import pytest

from tests.unit.load.peer import Peer


@pytest.fixture
def connect_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[Peer], None]:
    """Makes every new connection one to a peer."""
    return lambda peer: monkeypatch.setattr(socket, "create_connection", peer.connect)
