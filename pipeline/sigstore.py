"""Signing without a key: who runs this, by a token of OpenID Connect, and the transparency log that keeps it.

cosign has a certificate made out to whom a token names, signs with a key that is thrown away, and has the signature
logged; the log's promise says that the certificate was valid then. https://docs.sigstore.dev/about/overview/
"""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from pipeline.errors import RegistryError, ReleaseError

TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 (the variable's name)
# https://docs.github.com/en/actions/reference/security/oidc
GITHUB = "https://token.actions.githubusercontent.com"
_ASK, _WITH = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
_AUDIENCE = "sigstore"
_PATIENCE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Where certificates are made and signatures logged. `root`, `ctlog` and `log` verify what comes from there: the
    authority's certificate and the public keys of both logs, in PEM. Those of the public instance cosign gets by TUF.
    """

    fulcio: str = "https://fulcio.sigstore.dev"
    rekor: str = "https://rekor.sigstore.dev"
    root: Path | None = None
    ctlog: Path | None = None
    log: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """Whom a token names, as a certificate will, and who says so."""

    identity: str
    issuer: str


def token() -> str:
    """A token that says who runs this: the given one, or one of the workflow's, which may be used for minutes.

    Raises:
        ReleaseError: nobody says who runs this.
    """
    if given := os.environ.get(TOKEN):
        return given
    address, secret = os.environ.get(_ASK), os.environ.get(_WITH)
    if not address or not secret:
        raise ReleaseError(
            "Signing without a key needs a token that says who signs, and there is none. On GitHub, give the job "
            f"`permissions: id-token: write`; elsewhere set {TOKEN}. Or sign with a key: signing.key in torchyard.toml."
        )
    headers = {"Authorization": f"Bearer {secret}"}
    try:
        answer = requests.get(address, params={"audience": _AUDIENCE}, headers=headers, timeout=_PATIENCE)
        answer.raise_for_status()
        return str(answer.json()["value"])
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            f"GitHub gave no token that says who signs ({_without(secret, str(error))}). Run the job again."
        ) from error


def claimed(token: str) -> Claimed:
    """Whom a token names; nobody has verified it.

    Fulcio makes out certificates like that: https://github.com/sigstore/fulcio/blob/main/docs/oidc.md

    Raises:
        ReleaseError: it is no such token.
    """
    try:
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        if claims["iss"] == GITHUB:
            return Claimed(identity=f"https://github.com/{claims['job_workflow_ref']}", issuer=GITHUB)
        return Claimed(identity=str(claims.get("email") or claims["sub"]), issuer=str(claims["iss"]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ReleaseError(f"{TOKEN} is no token of OpenID Connect ({type(error).__name__}). Set a new one.") from error


def logged(envelope: bytes, certificate: str, *, instance: Instance) -> str:
    """Has a DSSE envelope logged, and gives the log's promise as cosign keeps it beside an attestation.

    https://github.com/sigstore/rekor/blob/main/pkg/types/dsse/v0.0.1/dsse_v0_0_1_schema.json

    Raises:
        RegistryError: the log does not answer, or does not take it.
    """
    content = {"envelope": envelope.decode(), "verifiers": [base64.b64encode(certificate.encode()).decode()]}
    proposed = {"apiVersion": "0.0.1", "kind": "dsse", "spec": {"proposedContent": content}}
    try:
        answer = requests.post(f"{instance.rekor}/api/v1/log/entries", json=proposed, timeout=_PATIENCE)
        answer.raise_for_status()
        (entry,) = answer.json().values()
        return json.dumps(_promise(entry))
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"{instance.rekor}: the transparency log did not take an attestation ({error}). Run the same command again."
        ) from error


def _promise(entry: dict[str, Any]) -> dict[str, Any]:
    payload = {name: entry[name] for name in ("body", "integratedTime", "logIndex", "logID")}
    return {"SignedEntryTimestamp": entry["verification"]["signedEntryTimestamp"], "Payload": payload}


def _without(secret: str, text: str) -> str:
    return text.replace(secret, "…")
