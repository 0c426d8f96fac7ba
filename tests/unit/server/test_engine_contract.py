"""The fake engine keeps what tests/containers/test_server.py holds the real one to."""

from pathlib import Path

from tests.unit.server import engine_contract
from tests.unit.server.fake_engine import ARCHIVES, NEEDED, FakeEngine


def test_the_fake_engine_behaves_as_the_real_one(tmp_path: Path) -> None:
    for name in ARCHIVES:
        (tmp_path / name).write_text(name)
    (tmp_path / "broken").write_text("no model at all")
    (tmp_path / "library").write_text(NEEDED["scaled"])
    (tmp_path / "unbound").write_text("no schema")
    engine_contract.hold(FakeEngine(), tmp_path)
