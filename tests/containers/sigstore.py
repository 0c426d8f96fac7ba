"""A small Sigstore on loopback: who a workflow is, a certificate authority with its log, and a transparency log.

cosign is the real one; what it talks to keeps to the same protocols and to nothing of what makes them trustworthy:
- GitHub's tokens: https://docs.github.com/en/actions/reference/security/oidc
- Fulcio: https://github.com/sigstore/fulcio/blob/main/docs/how-certificate-issuing-works.md
- certificate transparency, in the certificates: https://www.rfc-editor.org/rfc/rfc6962#section-3.2
- Rekor: https://github.com/sigstore/rekor/blob/main/openapi.yaml
"""

import base64
import hashlib
import hmac
import json
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = "https://token.actions.githubusercontent.com"
# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_MINUTES = timedelta(minutes=10)
_SHA256 = ec.ECDSA(hashes.SHA256())


def encoded(content: bytes) -> str:
    """Base64 as JSON web tokens have it."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Sigstore:
    """Serves while its `with` block lasts. What verifies its signatures lies in `folder`.

    `workflow` is who asks for tokens now, as a workflow's file and its ref.
    """

    def __init__(self, folder: Path, *, workflow: str) -> None:
        self.workflow = workflow
        self.issuer = ISSUER
        self.audience = "sigstore"
        self._secret = b"only this server makes tokens"
        self._root_key, self._ct_key, self._rekor_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self._root = _root(self._root_key)
        self.entries: list[dict[str, Any]] = []
        self.root, self.ctlog, self.rekor = (folder / name for name in ("root.pem", "ctlog.pub", "rekor.pub"))
        self.root.write_bytes(self._root.public_bytes(serialization.Encoding.PEM))
        for path, key in ((self.ctlog, self._ct_key), (self.rekor, self._rekor_key)):
            path.write_bytes(_public(key, serialization.Encoding.PEM))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What GitHub gives a job that may ask for tokens."""
        return {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "a job's own",
        }

    def token(self, audience: str) -> str:
        """A token that says who asks."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": audience,
            "sub": f"repo:{self.workflow.split('/.github')[0]}:environment:release",
            "job_workflow_ref": self.workflow,
            "iat": now,
            "exp": now + 300,
        }
        signed = (
            f"{encoded(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{encoded(json.dumps(claims).encode())}"
        )
        return f"{signed}.{encoded(hmac.digest(self._secret, signed.encode(), 'sha256'))}"

    def certificate(self, token: str, asked: dict[str, Any]) -> bytes:
        """A certificate for whom a token names, and ours after it, in PEM. Raises ValueError for a token of no use."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(encoded(hmac.digest(self._secret, signed.encode(), "sha256")), signature):
            raise ValueError("the token is not ours")
        claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
        if claims["aud"] != self.audience:
            raise ValueError(f"the token is for {claims['aud']}")
        key = serialization.load_pem_public_key(base64.b64decode(asked["publicKey"]["content"]))
        assert isinstance(key, ec.EllipticCurvePublicKey)
        # Who asks has the key.
        key.verify(base64.b64decode(asked["signedEmailAddress"]), claims["sub"].encode(), _SHA256)
        leaf = self._issued(key, f"https://github.com/{claims['job_workflow_ref']}", claims["iss"])
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (leaf, self._root))

    def _issued(self, key: ec.EllipticCurvePublicKey, subject: str, issuer: str) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=5))
            .not_valid_after(now + _MINUTES)
            .add_extension(_usage(signing=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root_key.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, issuer.encode()), critical=False)
        )
        logged = builder.sign(self._root_key, hashes.SHA256()).tbs_certificate_bytes
        extension = x509.UnrecognizedExtension(_SCT_OID, self._timestamp(logged))
        return builder.add_extension(extension, critical=False).sign(self._root_key, hashes.SHA256())

    def _timestamp(self, logged: bytes) -> bytes:
        """The list with the one SCT of a certificate, as the octet string that its extension holds."""
        now = int(time.time() * 1000)
        issuer = hashlib.sha256(_public(self._root_key, serialization.Encoding.DER)).digest()
        entry = struct.pack(">BBQH", 0, 0, now, 1) + issuer + len(logged).to_bytes(3, "big") + logged + b"\0\0"
        signature = self._ct_key.sign(entry, _SHA256)
        log = hashlib.sha256(_public(self._ct_key, serialization.Encoding.DER)).digest()
        # The two bytes before the signature: SHA-256 and ECDSA.
        sct = b"\0" + log + struct.pack(">QH", now, 0) + b"\4\3" + struct.pack(">H", len(signature)) + signature
        listed = struct.pack(">HH", len(sct) + 2, len(sct)) + sct
        assert len(listed) < 128
        return bytes([4, len(listed)]) + listed

    def log(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """The entry that a proposed one becomes, as the first one of its log."""
        body = _canonical(_kept(proposed))
        encoded_body = base64.b64encode(body).decode()
        log = hashlib.sha256(_public(self._rekor_key, serialization.Encoding.DER)).hexdigest()
        number, now = len(self.entries), int(time.time())
        promised = {"body": encoded_body, "integratedTime": now, "logID": log, "logIndex": number}
        promise = self._rekor_key.sign(_canonical(promised), _SHA256)
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"rekor.test - 1\n1\n{base64.b64encode(root).decode()}\n"
        hint = bytes.fromhex(log)[:4] + self._rekor_key.sign(note.encode(), _SHA256)
        proof = {
            "checkpoint": f"{note}\n\N{EM DASH} rekor.test {base64.b64encode(hint).decode()}\n",
            "hashes": [],
            "logIndex": 0,
            "rootHash": root.hex(),
            "treeSize": 1,
        }
        signed = {"inclusionProof": proof, "signedEntryTimestamp": base64.b64encode(promise).decode()}
        self.entries.append(proposed)
        return {f"{number:064x}": {**promised, "verification": signed}}


def _kept(proposed: dict[str, Any]) -> dict[str, Any]:
    """What Rekor keeps: of an envelope its hashes and signatures."""
    if proposed["kind"] != "dsse":
        return proposed
    content = proposed["spec"]["proposedContent"]
    envelope = json.loads(content["envelope"])
    (verifier,) = content["verifiers"]
    signatures = [{"signature": each["sig"], "verifier": verifier} for each in envelope["signatures"]]
    spec = {
        "envelopeHash": _hash(content["envelope"].encode()),
        "payloadHash": _hash(base64.b64decode(envelope["payload"])),
        "signatures": signatures,
    }
    return {"apiVersion": proposed["apiVersion"], "kind": "dsse", "spec": spec}


def _hash(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _public(key: ec.EllipticCurvePrivateKey, encoding: serialization.Encoding) -> bytes:
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _root(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sigstore.test")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _MINUTES)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signing=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage(*, signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signing,
        crl_sign=not signing,
        encipher_only=False,
        decipher_only=False,
    )


def _handler(sigstore: Sigstore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path != "/token" or self.headers["Authorization"] != "Bearer a job's own":
                self._answer(403, {"message": "no"})
                return
            words = dict(word.partition("=")[::2] for word in query.split("&"))
            self._answer(200, {"value": sigstore.token(words.get("audience", ""))})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/api/v1/log/entries":
                self._answer(201, sigstore.log(asked))
                return
            try:
                issued = sigstore.certificate(self.headers["Authorization"].removeprefix("Bearer "), asked)
            except ValueError as error:
                self._answer(401, {"code": 16, "message": str(error)})
                return
            self._answer(201, issued, "application/pem-certificate-chain")

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        def _answer(self, status: int, body: dict[str, Any] | bytes, kind: str = "application/json") -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
