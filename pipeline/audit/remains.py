"""Rules about what a build leaves behind: secrets, certificates, caches, sockets."""

import re
from collections.abc import Iterator

from pipeline.audit import traces
from pipeline.audit.contents import Contents, Placed

_SECRET_FILES = re.compile(
    r".*/(?:pip\.conf|[._]netrc|\.pypirc|\.npmrc|\.yarnrc|\.git-credentials|\.pgpass|\.my\.cnf|\.vault-token|\.s3cfg"
    r"|\.boto|\.htpasswd|[^/]*\.env(?:\.[^/]+)?|kubeconfig|terraform\.tfstate|id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?"
    r"|ssh_host_\w+_key|authorized_keys|credentials\.json|application_default_credentials\.json"
    r"|[^/]+\.(?:p12|pfx|jks|keystore|kdbx|ppk))"
    r"|.*/\.docker/config\.json|.*/\.dockercfg|.*/\.kube/config|.*/\.cargo/credentials(?:\.toml)?"
    r"|/etc/apt/auth\.conf(?:\.d/.+)?|/run/secrets/.+"
)
_SECRET_FOLDERS = re.compile(r"(.*/\.(?:ssh|aws|azure|gnupg|config/gcloud)/).+")
_CERTIFICATES = re.compile(
    r"(/etc/ssl/certs/|/etc/pki/|/usr/share/ca-certificates/|/usr/local/share/ca-certificates/|.*/certifi/).+"
)
_CERTIFICATE_SETTINGS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_LEFTOVER_FOLDERS = re.compile(
    r"(/var/lib/apt/lists/|/var/cache/[^/]+/|/var/log/|/tmp/|/var/tmp/|.*/\.(?:cache|git|hg|svn|\w+_cache)/).+"
)
_LEFTOVER_FILES = re.compile(r".*/(?:[^/]+\.log|\.\w+_history|\.wget-hsts|\.lesshst|core\.\d+|\.DS_Store)")
_SOCKETS = re.compile(r".*/(?:docker|containerd|podman|crio|buildkitd)\.sock")


def secret_file(contents: Contents) -> Iterator[tuple[str, str]]:
    """A file whose name says that it holds credentials, in any layer."""
    for placed in _remaining(contents):
        if placed.entry.kind == "file" and not placed.entry.size:
            continue  # BuildKit leaves an empty file where it mounted a secret.
        if _SECRET_FILES.fullmatch(placed.entry.path):
            yield placed.where, "Files of this name hold credentials, and whoever has the image has them too."
        elif match := _SECRET_FOLDERS.fullmatch(placed.entry.path):
            yield (
                placed.under(match[1]),
                "Folders of this name hold credentials, and whoever has the image has them too.",
            )


def secret_content(contents: Contents) -> Iterator[tuple[str, str]]:
    """A file that holds a private key, a token or a password, in any layer."""
    for placed in _remaining(contents):
        found = [name for name in placed.entry.traces if name != traces.CERTIFICATE]
        if found:
            yield placed.where, f"It holds {' and '.join(found)}, and whoever has the image has it too."


def ca_bundle(contents: Contents) -> Iterator[tuple[str, str]]:
    """Certificates, which only whoever built the image needs: the server accepts connections and opens none."""
    why = "Certificates of the builder would make the server trust what its users do not."
    for name in _CERTIFICATE_SETTINGS:
        if name in contents.env:
            yield f"config.Env {name}", why
    for placed in _remaining(contents):
        if match := _CERTIFICATES.fullmatch(placed.entry.path):
            yield placed.under(match[1]), why
        elif traces.CERTIFICATE in placed.entry.traces:
            yield placed.where, why


def leftover(contents: Contents) -> Iterator[tuple[str, str]]:
    """A cache, a log, a history or a temporary file, in any layer."""
    for placed in _remaining(contents):
        if match := _LEFTOVER_FOLDERS.fullmatch(placed.entry.path):
            yield (
                placed.under(match[1]),
                "A build left it behind: it makes the image larger and tells about the builder.",
            )
        elif _LEFTOVER_FILES.fullmatch(placed.entry.path):
            yield placed.where, "A build left it behind: it makes the image larger and tells about the builder."


def docker_socket(contents: Contents) -> Iterator[tuple[str, str]]:
    """The socket of a container engine: in a layer, or in a setting."""
    why = "Whoever reaches the engine's socket is root on the machine."
    for placed in _remaining(contents):
        if _SOCKETS.fullmatch(placed.entry.path):
            yield placed.where, why
    for name, value in contents.env.items():
        if name == "DOCKER_HOST" or _SOCKETS.search(value):
            yield f"config.Env {name}", why
    for key in ("Entrypoint", "Cmd"):
        if any(_SOCKETS.search(str(word)) for word in contents.config.get(key) or ()):
            yield f"config.{key}", why
    for path in contents.config.get("Volumes") or ():
        if _SOCKETS.search(path):
            yield f"config.Volumes {path}", why


def _remaining(contents: Contents) -> Iterator[Placed]:
    return (placed for placed in contents.placed if placed.entry.kind != "folder")
