"""Who runs this, by a token, and that nothing begins where nobody says so; with cosign it is in the container tests."""

import base64
import json
from typing import Any

import pytest
import requests

from pipeline import sigstore
from pipeline.errors import RegistryError, ReleaseError
from pipeline.release import provenance
from pipeline.sigstore import GITHUB, TOKEN, Claimed, Instance

WORKFLOW = "octo/yard/.github/workflows/release.yml@refs/heads/main"


def _token(**claims: str) -> str:
    return f"head.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.signature"


class Answer:
    """What somebody answers over HTTP."""

    def __init__(self, content: Any, status: int = 200) -> None:
        self._content = content
        self._status = status

    def raise_for_status(self) -> None:
        if self._status >= 400:
            raise requests.HTTPError(f"{self._status} for the secret handshake")

    def json(self) -> Any:
        return self._content


@pytest.fixture(autouse=True)
def github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "https://github.test/token")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret handshake")


def test_a_workflow_asks_github_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def get(address: str, **more: Any) -> Answer:
        asked.update(more, address=address)
        return Answer({"value": "token"})

    monkeypatch.setattr(requests, "get", get)
    assert sigstore.token() == "token"
    assert (asked["address"], asked["params"]) == ("https://github.test/token", {"audience": "sigstore"})
    assert asked["headers"] == {"Authorization": "Bearer secret handshake"}
    monkeypatch.setenv(TOKEN, "mine")
    assert sigstore.token() == "mine"


@pytest.mark.parametrize("answer", [Answer({}, 403), Answer({}), Answer([])])
def test_no_token_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    monkeypatch.setattr(requests, "get", lambda *_, **__: answer)
    with pytest.raises(ReleaseError, match="GitHub gave no token") as told:
        sigstore.token()
    assert "secret handshake" not in str(told.value)


@pytest.mark.parametrize("name", ["ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"])
def test_a_job_that_may_not_ask_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(ReleaseError, match=r"permissions: id-token: write.*SIGSTORE_ID_TOKEN"):
        sigstore.token()


def test_a_token_names_who_its_certificate_will() -> None:
    workflow = _token(iss=GITHUB, sub="repo:octo/yard", job_workflow_ref=WORKFLOW)
    assert sigstore.claimed(workflow) == Claimed(identity=f"https://github.com/{WORKFLOW}", issuer=GITHUB)
    person = _token(iss="https://accounts.test", sub="1", email="ada@example.com")
    assert sigstore.claimed(person) == Claimed(identity="ada@example.com", issuer="https://accounts.test")


@pytest.mark.parametrize("token", ["", "a.b", "a.!.c", _token(sub="1"), _token(iss=GITHUB), "a.MQ.c"])
def test_what_is_no_token_is_told(token: str) -> None:
    with pytest.raises(ReleaseError, match="no token of OpenID Connect"):
        sigstore.claimed(token)


@pytest.mark.parametrize("answer", [Answer({}, 500), Answer({}), Answer({"1": {"body": ""}}), Answer([1])])
def test_a_log_that_does_not_take_an_attestation_is_told(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    monkeypatch.setattr(requests, "post", lambda *_, **__: answer)
    with pytest.raises(RegistryError, match=r"rekor\.sigstore\.dev: the transparency log did not take"):
        sigstore.logged(b"{}", "certificate", instance=Instance())


def test_a_run_has_an_address_where_it_is_one_of_a_workflow() -> None:
    run = {
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "octo/yard",
        "GITHUB_RUN_ID": "7",
        "GITHUB_RUN_ATTEMPT": "2",
    }
    assert provenance.run(run) == "https://github.com/octo/yard/actions/runs/7/attempts/2"
    assert provenance.run({}) == ""
