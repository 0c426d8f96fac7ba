"""Who we are to a registry over HTTP: a token or a password where it asks for one, and nothing from anywhere else."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import docker
import pytest
import requests
from docker.types import Mount as DockerMount

from pipeline import images, pins
from pipeline.engine import LABEL
from pipeline.engine.credentials import credentials
from pipeline.engine.docker import DockerEngine, connect
from pipeline.errors import RegistryError
from pipeline.keys import keys
from pipeline.oci import EMPTY, Repository
from pipeline.oci.http import HttpRegistry
from pipeline.signing import PASSPHRASE, ToolCosign, me

US = ("somebody", "planted-password")
TOKEN = "planted-token"


def _basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


class Guarded(ThreadingHTTPServer):
    """A registry of one empty repository. `asks` is how it wants to know who is there: Basic, Bearer, or not at all;
    `elsewhere` is where it sends on to."""

    def __init__(self, asks: str, elsewhere: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asks, self.elsewhere = asks, elsewhere
        self.uploads = ""
        self.trouble = 0
        self.seen: list[str | None] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def challenge(self) -> str:
        return (
            f'Bearer realm="http://{self.address}/token",service="ours"' if self.asks == "Bearer" else 'Basic realm="x"'
        )


class _Answers(BaseHTTPRequestHandler):
    server: Guarded

    def do_GET(self) -> None:
        asked, given = urlsplit(self.path), self.headers.get("Authorization")
        self.server.seen.append(given)
        if asked.path == "/token":
            wanted = {"service": ["ours"], "scope": ["repository:a:pull,push"]}
            known = given == _basic(*US) and parse_qs(asked.query) == wanted
            self._answer(200 if known else 401, {"token": TOKEN} if known else {})
        elif self.server.elsewhere:
            self.send_response(307)
            self.send_header("Location", f"http://{self.server.elsewhere}{self.path}")
            self.end_headers()
        elif self.server.trouble:
            self._answer(self.server.trouble, {})
        elif self.server.asks and given not in {_basic(*US), f"Bearer {TOKEN}"}:
            self._answer(401, {}, challenge=self.server.challenge)
        else:
            self._answer(200, {"tags": ["1"]})

    def do_HEAD(self) -> None:
        given = self.headers.get("Authorization")
        self.server.seen.append(given)
        if self.server.asks and given != _basic(*US):
            self._answer(401, {}, challenge=self.server.challenge)
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))
        self.send_response(202)
        self.send_header("Location", f"http://{self.server.uploads}/upload")
        self.end_headers()

    def do_PUT(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))
        self._answer(400, {})

    def _answer(self, status: int, document: object, *, challenge: str = "") -> None:
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def _serving(asks: str, elsewhere: str = "") -> Iterator[Guarded]:
    with Guarded(asks, elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _tags(server: Guarded, known: tuple[str, str] | None) -> tuple[str, ...]:
    hosts = {server.address: known}
    return HttpRegistry(lambda host: hosts[host]).tags(Repository(host=server.address, path="a"))


@pytest.mark.parametrize("asks", ["Basic", "Bearer"])
def test_a_registry_that_asks_who_we_are_is_told(asks: str) -> None:
    with _serving(asks) as server:
        assert _tags(server, US) == ("1",)
    assert server.seen[0] is None


@pytest.mark.parametrize("asks", ["Basic", "Bearer"])
@pytest.mark.parametrize("known", [None, ("somebody", "another-password")])
def test_whoever_it_does_not_know_is_told_to_log_in(asks: str, known: tuple[str, str] | None) -> None:
    with _serving(asks) as server, pytest.raises(RegistryError, match=f"docker login {server.address}") as refused:
        _tags(server, known)
    assert "another-password" not in str(refused.value)


def test_nothing_of_netrc_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1\nlogin {US[0]}\npassword {US[1]}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with _serving("") as there, _serving("", elsewhere=there.address) as here:
        assert _tags(here, None) == ("1",)
    assert here.seen == there.seen == [None]


def test_a_token_is_not_sent_where_an_upload_goes() -> None:
    """A registry may send an upload to another host."""
    with _serving("") as there, _serving("Basic") as here:
        here.uploads = there.address
        where = Repository(host=here.address, path="a")
        with pytest.raises(RegistryError, match="refuses PUT"):
            HttpRegistry(lambda _: US).put_blob(where, b"{}", media_type=EMPTY)
    assert here.seen[-1] == _basic(*US)
    assert there.seen == [None]


@pytest.mark.parametrize("status", [401, 403, 418, 429, 500, 503])
def test_a_registry_in_trouble_is_not_one_without_signatures(cosign: ToolCosign, tmp_path: Path, status: int) -> None:
    keys(tmp_path / "cosign.key", cosign=cosign)
    with _serving("") as server:
        server.trouble = status
        reference = Repository(host=server.address, path="ours/a").at("sha256:" + "0" * 64)
        with pytest.raises(RegistryError, match="a registry or Sigstore does not answer"):
            cosign.signatures(reference, by=me(tmp_path / "cosign.key"))
        server.trouble = 404
        assert cosign.signatures(reference, by=me(tmp_path / "cosign.key")) == ()


def test_a_password_stays_with_whom_it_is_for() -> None:
    with _serving("") as there, _serving("Basic", elsewhere=there.address) as here:
        registry = HttpRegistry(lambda _: US)
        where = Repository(host=here.address, path="a")
        here.elsewhere = ""
        assert registry.tags(where) == ("1",)
        here.elsewhere = there.address
        assert registry.tags(where) == ("1",)
    assert here.seen[-1] == _basic(*US)
    assert there.seen == [None]


# `htpasswd -B` of US; what the registry keeps is no secret of anybody's.
_HTPASSWD = "somebody:$2b$05$b36hz5kvkqGvUjOrfEvqoOIqjk2TrMbFw91KdcA2lXftVI9EB8pca\n"
_ASKING = {
    "REGISTRY_AUTH": "htpasswd",
    "REGISTRY_AUTH_HTPASSWD_REALM": "tests",
    "REGISTRY_AUTH_HTPASSWD_PATH": "/htpasswd",
}


@pytest.fixture
def asking(engine: DockerEngine, tmp_path: Path) -> Iterator[str]:
    """Our registry, asking for a password; its address."""
    (tmp_path / "htpasswd").write_text(_HTPASSWD)
    image = images.registry(pins.load(), engine=engine)
    client = docker.from_env()
    container = client.containers.run(
        image.digest,
        detach=True,
        environment=_ASKING,
        ports={"5000/tcp": ("127.0.0.1", 0)},
        mounts=[DockerMount("/htpasswd", str(tmp_path / "htpasswd"), type="bind", read_only=True)],
        labels={LABEL: "test"},
    )
    try:
        container.reload()
        published = container.ports["5000/tcp"]
        assert published
        address = f"127.0.0.1:{published[0]['HostPort']}"
        for _ in range(100):
            with suppress(requests.ConnectionError):
                if requests.get(f"http://{address}/v2/", timeout=5).status_code == 401:
                    break
            time.sleep(0.05)
        else:
            pytest.fail(container.logs().decode())
        yield address
    finally:
        container.remove(force=True, v=True)
        client.close()


def _log_in(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `docker login` does."""
    stored = {"auths": {address: {"auth": base64.b64encode(":".join(US).encode()).decode()}}}
    (folder / "config.json").write_text(json.dumps(stored))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def test_what_docker_login_stored_is_enough_for_a_release(
    asking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the engine that pushes, for cosign that signs and copies, and for what is read and written besides."""
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    _log_in(tmp_path, asking, monkeypatch)
    engine = connect()
    cosign = ToolCosign(engine=engine, tools=images.release_tools(pins.load(), engine=engine))
    keys(tmp_path / "cosign.key", cosign=cosign)
    where = Repository(host=asking, path="guarded/image")
    image = images.registry(pins.load(), engine=engine)
    pushed = engine.push(image.digest, repository=str(where), tag="1")
    store = HttpRegistry(credentials)
    found = store.manifest(where, "1")
    assert found
    assert found.digest == pushed.digest
    cosign.sign(where.at(pushed.digest), key=tmp_path / "cosign.key", annotations={"a": "b"})
    cosign.copy(where.at(pushed.digest), f"{asking}/guarded/copy:1")
    copied = Repository(host=asking, path="guarded/copy").at(pushed.digest)
    (payload,) = cosign.signatures(copied, by=me(tmp_path / "cosign.key"))
    assert payload["optional"] == {"a": "b"}
    blob = store.put_blob(where, b"{}", media_type=EMPTY)
    assert store.blob(where, blob.digest) == b"{}"


def test_whoever_did_not_log_in_is_told_to(asking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine, where = connect(), Repository(host=asking, path="guarded/image")
    with pytest.raises(RegistryError, match=f"docker login {asking}"):
        HttpRegistry(credentials).manifest(where, "1")
    with pytest.raises(RegistryError, match=f"docker login {asking}"):
        engine.push(images.registry(pins.load(), engine=engine).digest, repository=str(where), tag="1")
