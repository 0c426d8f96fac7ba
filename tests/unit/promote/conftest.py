"""Whoever promotes, on a registry and with signatures in memory."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import policy
from pipeline.promote import lock
from pipeline.promote.lock import Holder
from pipeline.promote.office import Office
from pipeline.settings import HOME
from pipeline.sigstore import GITHUB, TOKEN, Claimed
from tests.unit.fake_registry import FakeCosign, FakeRegistry

KEY = Path("keys/cosign.key")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_SETTLE", 0.0)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    store = FakeRegistry()
    text = (HOME / "promotion.toml").read_text().replace("~/.config/torchyard/cosign.pub", "/keys/cosign.pub")
    (tmp_path / "promotion.toml").write_text(text)
    return Office(
        policy=policy.load(tmp_path / "promotion.toml"),
        releases="127.0.0.1:5000/releases",
        registry=store,
        cosign=FakeCosign(store),
        key=KEY,
        holder=Holder(name="me@here", process=1, machine="here"),
    )


@pytest.fixture
def keyless(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """The same by a workflow that signs without a key."""
    claimed = Claimed(identity="https://github.com/octo/yard/.github/workflows/c.yml@refs/heads/main", issuer=GITHUB)
    claims = {"iss": GITHUB, "job_workflow_ref": claimed.identity.removeprefix("https://github.com/")}
    monkeypatch.setenv(TOKEN, f"a.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}.b")
    text = (tmp_path / "promotion.toml").read_text()
    signer = f'{{ identity = "{claimed.identity}", issuer = "{GITHUB}" }}'
    (tmp_path / "promotion.toml").write_text(text.replace('"/keys/cosign.pub"', signer))
    store = office.registry
    assert isinstance(store, FakeRegistry)
    return replace(
        office, policy=policy.load(tmp_path / "promotion.toml"), cosign=FakeCosign(store, claimed=claimed), key=None
    )
