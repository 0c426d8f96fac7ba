"""The fake HTTP/2 keeps the contract that the container tests hold the real one to."""

from tests.unit.server import fake_http2, http2_contract


def test_the_fake_keeps_the_contract() -> None:
    http2_contract.hold(fake_http2)
