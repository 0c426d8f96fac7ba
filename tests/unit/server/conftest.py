"""The messages of the gRPC services, compiled once, and a server that speaks them."""

from pathlib import Path
from typing import Any

import pytest

from server import log
from server.grpc.held import Held
from server.grpc.messages import Messages
from server.grpc.rpc_connection import Limits, Served
from server.grpc.service import Services
from server.http import connection
from server.model import contract
from server.model.served import ServedModel
from tests.unit.server import fake_http2, models, wire
from tests.unit.server.fake_engine import FakeEngine
from tests.unit.server.rpc_stage import MESSAGE, Here, Make, Stage


@pytest.fixture(scope="session")
def protocols(tmp_path_factory: pytest.TempPathFactory) -> Messages:
    return wire.compiled(tmp_path_factory.mktemp("proto"))


@pytest.fixture
def make(tmp_path: Path, protocols: Messages) -> Make:
    def made(
        behaviour: str = "double",
        *,
        deadline: float | None = None,
        held: int = 10**6,
        slow: float = 60,
        **changes: Any,
    ) -> Stage:
        described = contract.read(models.write(tmp_path / "model", behaviour=behaviour, **changes))
        engine = FakeEngine()
        model = engine.load(str(tmp_path / "model" / "model.pt"), optimize=True)
        inference = Here(ServedModel(contract=described, engine=engine, model=model))
        served = Served(
            http2=fake_http2,
            limits=Limits(message=MESSAGE, connections=2),
            held=Held(held),
            unary={},
            streaming={},
            requests=log.Requests(slow),
        )
        stage = Stage(inference, protocols, served)
        services = Services(described, inference, protocols, held=served.held, server=stage, deadline=deadline)
        served.unary, served.streaming = services.unary, services.streaming
        return stage

    return made


@pytest.fixture
def stage(make: Make) -> Stage:
    return make()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that connections see, in its only element."""
    now = [1000.0]
    monkeypatch.setattr(connection, "monotonic", lambda: now[0])
    return now
