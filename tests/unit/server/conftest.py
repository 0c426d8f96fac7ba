"""The messages of the gRPC services, compiled once."""

import pytest

from server.grpc.messages import Messages
from tests.unit.server import wire


@pytest.fixture(scope="session")
def protocols(tmp_path_factory: pytest.TempPathFactory) -> Messages:
    return wire.compiled(tmp_path_factory.mktemp("proto"))
