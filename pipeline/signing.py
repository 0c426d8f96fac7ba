"""cosign, run from the release-tools image: who signs, what is signed, and what verifies.

https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
"""

import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pipeline.artifacts import Limits
from pipeline.engine import Engine, Image, Job, Mount
from pipeline.engine.buildkit import ca_bundle
from pipeline.engine.credentials import credentials
from pipeline.errors import ContainerFailed, CosignError, RegistryError, ReleaseError, VerifyError
from pipeline.oci import Repository, once, parse, parsed
from pipeline.sigstore import TOKEN, Claimed, Instance, claimed, logged, token

IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PASSPHRASE = "COSIGN_PASSWORD"  # noqa: S105 (the variable's name)
PASSPHRASE_FILE = f"{PASSPHRASE}_FILE"
# A workflow has the key as a secret and no file of it; cosign reads it from env://COSIGN_PRIVATE_KEY then.
PRIVATE_KEY = "COSIGN_PRIVATE_KEY"

# Opening a key takes scrypt 64 MiB; the rest is for attestations with SBOMs in them.
_LIMITS = Limits(memory=1024, cpus=2, pids=128)
_SECONDS = 300.0
# A large image over a slow line.
_COPY_SECONDS = 1200.0
_UNREACHABLE = (
    *("dial tcp", "connection re", "no such host", "i/o timeout", "EOF", "TLS handshake timeout"),
    *("TOOMANYREQUESTS", "unexpected status code 429", "unexpected status code 5", "context deadline exceeded"),
)
# What a registry answers is told so, also behind a signature that could not be read because of it: it refuses then,
# unless it has only lost what is asked for.
_REFUSES = re.compile(
    r"\b(?:GET|HEAD|POST|PUT|PATCH) https?://\S+: "
    r"(?!(?:BLOB|MANIFEST|NAME)_UNKNOWN|unexpected status code 404)"
    # Go's own words, of a host that it could not ask at all.
    r'|\b(?:Get|Head|Post|Put|Patch) "https?://'
)
# How cosign says that nothing verifies. Of an image it does so in few words; of content in many, and there is little
# else that can go wrong: keys and roots that cannot be read, and a command line that it does not know.
_NOTHING = {
    "verify": re.compile(r"Error: (no signatures found|no matching signatures)"),
    "verify-attestation": re.compile(r"Error: (no matching attestations|none of the attestations matched)"),
    "verify-blob": re.compile(r"Error: (?!getting |loading public key|error creating |open |(?:unknown|missing) flag)"),
}

# The longest is that of a key of RSA with 16,384 bits.
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{1,4096}={0,2}")

# Who signs: with the private key in a file, or without one as whoever runs this.
Key: TypeAlias = Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody whose signatures count; `name` is what promotion.toml calls him. By the public `key`, or by `claimed`,
    whom a certificate is made out to; that identity may end with * for any one branch or tag."""

    name: str
    key: Path | None = None
    claimed: Claimed | None = None

    @property
    def shown(self) -> str:
        """What his signatures are verified with."""
        return self.claimed.identity if self.claimed else str(self.key)

    def is_claimed(self, by: Claimed) -> bool:
        """Whether a certificate that is made out so is his."""
        if self.claimed is None or self.claimed.issuer != by.issuer:
            return False
        return re.fullmatch(pattern(self.claimed.identity), by.identity) is not None


def shown(signers: tuple[Identity, ...]) -> str:
    """What the signatures of any of these are verified with."""
    return " or ".join(each.shown for each in signers)


def pattern(identity: str) -> str:
    """The regular expression for an identity, in which a * at the end stands for the name of any one branch or tag."""
    exact = identity.removesuffix("*")
    return f"^{re.escape(exact)}{'[^/@]+' if exact != identity else ''}$"


def me(key: Key) -> Identity:
    """Whoever signs: by the public key beside the private one, or as a token says.

    Raises:
        ReleaseError: there is no key, and nobody says who runs this.
    """
    if key:
        return Identity(name="this key", key=key.with_suffix(".pub"))
    return Identity(name="this run", claimed=claimed(token()))


class Cosign(Protocol):
    """Signing and verifying. Every method raises RegistryError when a registry does not answer, and those that verify
    raise VerifyError when somebody's public key is not there, and CosignError when it could not be found out."""

    def sign(self, reference: str, *, key: Key, annotations: Mapping[str, str]) -> None:
        """Signs a digest in a registry; the annotations are part of what is signed."""
        ...

    def sign_bytes(self, content: bytes, *, key: Key) -> str:
        """The signature of some bytes: base64 or, without a key, cosign's bundle of it with certificate and promise."""
        ...

    def logged(self, envelope: bytes, certificate: str) -> str:
        """The transparency log's promise for an envelope that was signed without a key, in cosign's JSON."""
        ...

    def signatures(self, reference: str, *, by: Identity) -> tuple[dict[str, Any], ...]:
        """What the signatures of a digest say that verify under somebody's key; none where there is no such one."""
        ...

    def attestations(self, reference: str, *, kind: str, by: Identity) -> tuple[bytes, ...]:
        """The statements of a predicate type about a digest that verify under somebody's key."""
        ...

    def verifies(self, content: bytes, signature: str, *, by: Identity) -> bool:
        """Whether a signature of some bytes verifies under somebody's key."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Copies an image with its signatures and attestations to another repository; the target names a tag."""
        ...

    def generate(self) -> tuple[str, str]:
        """A new pair of keys in PEM: the private one, encrypted with our passphrase, and the public one."""
        ...


def envelope(statement: bytes, *, cosign: Cosign, key: Key) -> bytes:
    """A signed DSSE envelope of an in-toto statement, with all that it takes to verify it.

    https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    """
    signature = cosign.sign_bytes(encoded(statement), key=key)
    # The bundle is beside what DSSE knows of, and is verified as such.
    return _enveloped(statement, signature, {} if key else {"bundle": signature})


def attested(statement: bytes, *, cosign: Cosign, key: Key) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """A signed DSSE envelope of an in-toto statement, and the annotations that cosign wants beside it.

    https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
    """
    signature = cosign.sign_bytes(encoded(statement), key=key)
    content = _enveloped(statement, signature, {})
    notes = [("dev.cosignproject.cosign/signature", "")]
    if not key:
        certificate = base64.b64decode(json.loads(signature)["cert"]).decode()
        notes += [
            ("dev.sigstore.cosign/certificate", certificate),
            ("dev.sigstore.cosign/bundle", cosign.logged(content, certificate)),
        ]
    return content, tuple(notes)


def _enveloped(statement: bytes, signature: str, more: Mapping[str, str]) -> bytes:
    bare = json.loads(signature)["base64Signature"] if signature.startswith("{") else signature
    document = {
        "payloadType": IN_TOTO,
        "payload": base64.b64encode(statement).decode(),
        "signatures": [{"keyid": "", "sig": bare, **more}],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def encoded(statement: bytes) -> bytes:
    """What DSSE signs: its pre-authentication encoding of type and payload."""
    return b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(statement), statement)


def passphrase() -> str:
    """The passphrase of private keys, from the environment or from the file that it names.

    Raises:
        ReleaseError: neither is set, or the file cannot be read.
    """
    if (given := os.environ.get(PASSPHRASE)) is not None:
        return given
    if not (file := os.environ.get(PASSPHRASE_FILE)):
        raise ReleaseError(
            f"The private key has a passphrase, and neither {PASSPHRASE} nor {PASSPHRASE_FILE} is set. "
            f"Set one of them: {PASSPHRASE_FILE} names a file that only you can read."
        )
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{PASSPHRASE_FILE} names {file}, which cannot be read ({error}).") from error


class ToolCosign:
    """Implements `Cosign` with jobs in the release-tools image, on the host's network.

    Keys are read-only mounts, and credentials those of Docker's store for the one registry that is asked. Signatures by
    a key go into no transparency log: a key that is kept needs none. Those without one are logged in `instance`.
    """

    def __init__(self, *, engine: Engine, tools: Image, instance: Instance | None = None) -> None:
        self._engine = engine
        self._tools = tools
        self._instance = instance or Instance()

    def sign(self, reference: str, *, key: Key, annotations: Mapping[str, str]) -> None:
        notes = [f"--annotations={name}={value}" for name, value in sorted(annotations.items())]
        self._signing("sign", *notes, reference, key=key, hosts=(reference,))

    def sign_bytes(self, content: bytes, *, key: Key) -> str:
        option = "--output-signature=/work/out/signature" if key else "--bundle=/work/out/signature"
        return self._signing("sign-blob", option, "/work/in/content", key=key, content=content)["signature"].strip()

    def logged(self, envelope: bytes, certificate: str) -> str:
        return logged(envelope, certificate, instance=self._instance)

    def generate(self) -> tuple[str, str]:
        made = self._run("generate-key-pair", "--output-key-prefix=/work/out/cosign", env={PASSPHRASE: passphrase()})
        return made["cosign.key"], made["cosign.pub"]

    def signatures(self, reference: str, *, by: Identity) -> tuple[dict[str, Any], ...]:
        found = self._verifying("verify", "--output=json", reference, by=by, hosts=(reference,))
        return () if found is None else _payloads(found)

    def attestations(self, reference: str, *, kind: str, by: Identity) -> tuple[bytes, ...]:
        found = self._verifying("verify-attestation", f"--type={kind}", reference, by=by, hosts=(reference,))
        return () if found is None else _statements(found)

    def verifies(self, content: bytes, signature: str, *, by: Identity) -> bool:
        more: dict[str, Any] = {"content": content}
        if by.claimed:
            if not (bundle := _certified(signature)):
                return False
            option, more["bundle"] = "--bundle=/work/in/bundle", bundle
        else:
            # cosign takes what is no base64 for a path or a URL, and goes there.
            if not _SIGNATURE.fullmatch(signature):
                return False
            option = f"--signature={signature}"
        return self._verifying("verify-blob", option, "/work/in/content", by=by, **more) is not None

    def copy(self, source: str, target: str) -> None:
        self._run("copy", "--force", source, target, hosts=(source, target))

    def _signing(self, command: str, *options: str, key: Key, **more: Any) -> dict[str, str]:
        if key is None:
            places = (f"--fulcio-url={self._instance.fulcio}", f"--rekor-url={self._instance.rekor}")
            try:
                return self._run(command, "--yes", *places, *options, env={TOKEN: token()}, keyless=True, **more)
            except ContainerFailed as failure:
                raise ReleaseError(
                    f"cosign could not sign without a key. Does {self._instance.fulcio} know who says who this is, and "
                    f"was the token made for it? {failure}"
                ) from failure
        unlogged = ("--tlog-upload=false", "--yes", *options)
        if private := os.environ.get(PRIVATE_KEY):
            secrets = {PASSPHRASE: passphrase(), PRIVATE_KEY: private}
            return self._run(command, f"--key=env://{PRIVATE_KEY}", *unlogged, env=secrets, **more)
        if not key.is_file():
            raise ReleaseError(
                f"{key}: there is no such private key. Make a pair with `inv keys`, or name yours: "
                f"signing.key in torchyard.toml, or TORCHYARD_KEY; or give the key itself as {PRIVATE_KEY}."
            )
        secret = {PASSPHRASE: passphrase()}
        try:
            return self._run(command, "--key=/work/key", *unlogged, key=key, env=secret, **more)
        except ContainerFailed as failure:
            raise ReleaseError(
                f"cosign could not sign with {key}. Is it a key of `inv keys` or of cosign, and is its passphrase what "
                f"{PASSPHRASE} or {PASSPHRASE_FILE} gives? {failure}"
            ) from failure

    def _verifying(self, command: str, *options: str, by: Identity, **more: Any) -> str | None:
        """What cosign wrote, or None where it refused."""
        who: tuple[str, ...]
        if by.key and not by.key.is_file():
            raise VerifyError(
                f"{by.key}: there is no such public key, so nothing of {by.name} verifies. "
                "Get it from whoever signs, and not from here."
            )
        if by.claimed:
            who = (
                f"--certificate-identity-regexp={pattern(by.claimed.identity)}",
                f"--certificate-oidc-issuer={by.claimed.issuer}",
                # By what is beside the signature; without that cosign would look for it in a log.
                "--offline=true",
            )
        else:
            who = ("--key=/work/key", "--insecure-ignore-tlog=true")
        common = (*who, "--output-file=/work/out/found")
        try:
            return self._run(command, *common, *options, key=by.key, keyless=not by.key, **more).get("found", "")
        except ContainerFailed:
            return None

    def _run(
        self,
        command: str,
        *options: str,
        key: Path | None = None,
        content: bytes = b"",
        bundle: bytes = b"",
        hosts: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        keyless: bool = False,
    ) -> dict[str, str]:
        """Runs cosign; returns the files that it wrote to /work/out, by name."""
        with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
            home = Path(folder)
            for name in ("in", "out", "docker"):
                (home / name).mkdir()
            (home / "in" / "content").write_bytes(content)
            (home / "in" / "bundle").write_bytes(bundle)
            roots = self._roots() if keyless else {}
            logins = _logins(parse(host)[0] for host in hosts)
            with _private(home / "docker" / "config.json", json.dumps({"auths": logins})):
                secrets = {**(env or {}), **{name: f"/work/{name}" for name in roots}, "DOCKER_CONFIG": "/work/docker"}
                mounts = [Mount(source=path, target=f"/work/{name}") for name, path in roots.items()]
                mounts += [Mount(source=key, target="/work/key")] if key else []
                # What verifies the public instance's certificates is fetched.
                self._job(command, options, home, tuple(mounts), secrets, bool(hosts) or keyless)
            return {path.name: path.read_text(encoding="utf-8") for path in (home / "out").iterdir()}

    def _roots(self) -> dict[str, Path]:
        """What verifies certificates and logs, by the variable that cosign reads its path from."""
        found = {
            "SIGSTORE_ROOT_FILE": self._instance.root,
            "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE": self._instance.ctlog,
            "SIGSTORE_REKOR_PUBLIC_KEY": self._instance.log,
        }
        return {name: path for name, path in found.items() if path}

    def _job(
        self,
        command: str,
        options: tuple[str, ...],
        home: Path,
        mounts: tuple[Mount, ...],
        env: dict[str, str],
        network: bool,
    ) -> None:
        bundle = ca_bundle()
        job = Job(
            image=self._tools.digest,
            command=("/usr/bin/cosign", command, *options),
            limits=_LIMITS,
            mounts=(
                Mount(source=home / "in", target="/work/in"),
                Mount(source=home / "docker", target="/work/docker"),
                Mount(source=home / "out", target="/work/out", writable=True),
                *mounts,
                *((Mount(source=bundle, target="/etc/ssl/certs/ca-certificates.crt"),) if bundle else ()),
            ),
            env={**env, "HOME": "/tmp"},  # noqa: S108 (inside the container)
            network=network,
            seconds=_COPY_SECONDS if command == "copy" else _SECONDS,
        )
        lines: list[str] = []
        try:
            self._engine.run(job, on_line=lines.append)
        except ContainerFailed as failure:
            # One error may have several lines, the reason in any of them.
            first = next((number for number, line in enumerate(lines) if line.startswith("Error")), len(lines))
            told = "\n".join(lines[first:])
            if any(sign in told for sign in _UNREACHABLE) or _REFUSES.search(told):
                raise RegistryError(
                    f"cosign {command}: a registry or Sigstore does not answer, or refuses "
                    f"({told.removeprefix('Error: ')}). `inv registry` starts a local registry, and `docker login` "
                    "tells others who you are; then run the same command, which goes on from here."
                ) from failure
            if command in _NOTHING and not _NOTHING[command].match(told):
                raise CosignError(
                    f"cosign {command} could not find out who signed: {failure} This says nothing about signatures. "
                    "Is the public key one, and has the machine memory, disk and time left? Then run it again."
                ) from failure
            raise


def _payloads(found: str) -> tuple[dict[str, Any], ...]:
    """What signatures say, in the JSON of `cosign verify`."""
    try:
        payloads: list[dict[str, Any]] = json.loads(found)
        if all(isinstance(each["critical"]["identity"]["docker-reference"], str) for each in payloads) and payloads:
            return tuple(payloads)
        raise ValueError("it tells of no signature")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable("verify", found, error) from error


def _statements(found: str) -> tuple[bytes, ...]:
    """The statements in the envelopes that `cosign verify-attestation` writes. These are as the registry has them, in
    one line or in several; one that has another payload for some reader does not count."""
    statements, text = list[bytes](), found.strip()
    try:
        while text:
            document, end = _DECODER.raw_decode(text)
            text = text[end:].lstrip()
            if not isinstance(document, dict):
                raise TypeError("it tells of something else than an envelope")
            with suppress(ValueError):
                statements.append(_payload(document))
        if not found.strip():
            raise ValueError("it tells of no attestation")
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable("verify-attestation", found, error) from error
    return tuple(statements)


def payload_of(envelope: bytes) -> bytes:
    """The payload of a DSSE envelope, as every reader finds it.

    Raises:
        ValueError: it is no envelope, or somebody might read another payload in it.
    """
    return _payload(parsed(envelope, strict=True))


def _payload(document: object) -> bytes:
    if not isinstance(document, dict) or document.keys() != _ENVELOPE:
        raise ValueError(f"not an object of {', '.join(sorted(_ENVELOPE))}, each once")
    if not isinstance(document["payload"], str):
        raise ValueError("the payload is no string")
    return base64.b64decode(document["payload"], validate=True)


_DECODER = json.JSONDecoder(object_pairs_hook=once)
_ENVELOPE = {"payloadType", "payload", "signatures"}
_BUNDLE = {"base64Signature", "cert", "rekorBundle"}


def _unreadable(command: str, found: str, error: Exception) -> CosignError:
    return CosignError(
        f"cosign {command} accepted something and told of it in a way that nobody can read ({error!r}): "
        f"{found[:200]!r}. This says nothing about signatures. `inv clean --images` has its image built again."
    )


def _certified(bundle: str) -> bytes:
    """cosign's bundle of a signature without a key, as it was read here and in ASCII; nothing where it is none. In the
    place of the certificate there may be a key, also under a name that only cosign reads as that: it would be the one
    to verify with, whosever it is."""
    try:
        document = parsed(bundle, strict=True)
        if not isinstance(document, dict) or document.keys() != _BUNDLE:
            return b""
        certificate = base64.b64decode(document["cert"], validate=True)
        written = json.dumps(document).encode()
    except (ValueError, TypeError):
        return b""
    whole = certificate.startswith(b"-----BEGIN CERTIFICATE-----\n") and certificate.count(b"-----BEGIN ") == 1
    return written if whole else b""


def _logins(repositories: Iterator[Repository]) -> dict[str, dict[str, str]]:
    known = {each.host: credentials(each.host) for each in repositories}
    return {host: {"auth": base64.b64encode(":".join(who).encode()).decode()} for host, who in known.items() if who}


@contextmanager
def _private(path: Path, text: str) -> Iterator[None]:
    """A file that only its owner can read, for as long as it is needed."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.unlink()
