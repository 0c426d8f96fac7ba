"""Registries over HTTP, with a token where one asks for it.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#endpoints
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

import requests

from pipeline.errors import ContentError, RegistryError
from pipeline.oci import DOCKER_MANIFEST, MANIFEST, Blob, Manifest, Repository, digest_of, parsed

# Seconds until a registry that says nothing is given up.
_PATIENCE = 60
_CHUNK = 2**20
# More than any manifest or attestation has a reason to be, in bytes.
_LARGEST = 128 * 2**20


class HttpRegistry:
    """Implements `pipeline.oci.Registry`; `credentials` gives a user name and a password for a host, or None."""

    def __init__(self, credentials: Callable[[str], tuple[str, str] | None]) -> None:
        self._credentials = credentials
        self._session = _Session()
        self._tokens: dict[str, str] = {}

    def manifest(self, repository: Repository, name: str) -> Manifest | None:
        accept = {"Accept": f"{MANIFEST}, {DOCKER_MANIFEST}"}
        answer = self._ask("GET", repository, f"manifests/{name}", headers=accept, fine=(200, 404))
        if answer.status_code == 404:
            return None
        found = Manifest(media_type=answer.headers.get("Content-Type", "").partition(";")[0], content=answer.content)
        if name.startswith("sha256:") and found.digest != name:
            raise _lie(repository, name, found.digest)
        return found

    def put_manifest(self, repository: Repository, name: str, manifest: Manifest) -> None:
        headers = {"Content-Type": manifest.media_type}
        self._ask("PUT", repository, f"manifests/{name}", headers=headers, data=manifest.content, fine=(201,))

    def blob(self, repository: Repository, digest: str) -> bytes:
        with self.stream(repository, digest) as chunks:
            content = b""
            for chunk in chunks:
                content += chunk
                if len(content) > _LARGEST:
                    raise RegistryError(f"{repository.at(digest)} has more than {_LARGEST >> 20} MiB, and should not.")
        return content

    @contextmanager
    def stream(self, repository: Repository, digest: str) -> Iterator[Iterator[bytes]]:
        with self._ask("GET", repository, f"blobs/{digest}", stream=True) as answer:
            yield _checked(answer, repository, digest)

    def put_blob(self, repository: Repository, content: bytes, *, media_type: str) -> Blob:
        digest = digest_of(content)
        if self._ask("HEAD", repository, f"blobs/{digest}", fine=(200, 404)).status_code == 404:
            begun = self._ask("POST", repository, "blobs/uploads/", fine=(202,))
            place = urljoin(begun.url, begun.headers.get("Location", ""))
            headers = {"Content-Type": "application/octet-stream"}
            self._send("PUT", repository, place, params={"digest": digest}, headers=headers, data=content, fine=(201,))
        return Blob(media_type=media_type, digest=digest, size=len(content))

    def tags(self, repository: Repository) -> tuple[str, ...]:
        found: list[str] = []
        path = "tags/list"
        while path:
            answer = self._ask("GET", repository, path, fine=(200, 404))
            found += _listed(answer) if answer.ok else []
            path = f"tags/list?{answer.links['next']['url'].partition('?')[2]}" if "next" in answer.links else ""
        return tuple(sorted(found))

    def _ask(self, method: str, repository: Repository, path: str, **options: Any) -> requests.Response:
        return self._send(method, repository, f"{_base(repository)}/v2/{repository.path}/{path}", **options)

    def _send(
        self, method: str, repository: Repository, url: str, *, fine: tuple[int, ...] = (200,), **options: Any
    ) -> requests.Response:
        try:
            answer = self._authorised(method, repository, url, options)
            if answer.status_code == 401:
                self._log_in(repository, answer.headers.get("WWW-Authenticate", ""))
                answer = self._authorised(method, repository, url, options)
        except requests.RequestException as error:
            raise RegistryError(
                f"The registry at {repository.host} does not answer ({type(error).__name__}). "
                "`inv registry` starts a local one; then run the same command, which goes on from here."
            ) from error
        if answer.status_code in fine:
            return answer
        advice = f"Run `docker login {repository.host}`." if answer.status_code in {401, 403} else "Is the name right?"
        kind = ContentError if (method, answer.status_code) == ("GET", 404) else RegistryError
        raise kind(
            f"The registry at {repository.host} refuses {method} of {repository.path} with {answer.status_code}: "
            f"{answer.text[:300].strip()} {advice}"
        )

    def _authorised(self, method: str, repository: Repository, url: str, options: dict[str, Any]) -> requests.Response:
        headers = dict(options.get("headers", {}))
        # Where a registry sends an upload to is its own affair, and who we are is nobody's there.
        if (token := self._tokens.get(str(repository))) and url.startswith(f"{_base(repository)}/"):
            headers["Authorization"] = token
        return self._session.request(method, url, **options | {"headers": headers, "timeout": _PATIENCE})

    def _log_in(self, repository: Repository, challenge: str) -> None:
        """Answers a challenge: https://distribution.github.io/distribution/spec/auth/token/."""
        known = self._credentials(repository.host)
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if challenge.lower().startswith("bearer") and "realm" in asked:
            wanted = {"service": asked.get("service", ""), "scope": f"repository:{repository.path}:pull,push"}
            answer = self._session.get(asked["realm"], params=wanted, auth=known, timeout=_PATIENCE)
            token = _token(answer) if answer.ok else ""
            self._tokens[str(repository)] = f"Bearer {token}"
        elif known:
            self._tokens[str(repository)] = _basic(*known)


class _Session(requests.Session):
    """Without the passwords of ~/.netrc, which requests takes for a host, and for one that it is sent on to.

    `trust_env` is not the way: proxies and the CA bundle come from there, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        before, after = response.request.url, prepared_request.url
        if self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


def _checked(answer: requests.Response, repository: Repository, digest: str) -> Iterator[bytes]:
    seen = hashlib.sha256()
    try:
        for chunk in answer.iter_content(_CHUNK):
            seen.update(chunk)
            yield chunk
    except requests.RequestException as error:
        raise RegistryError(
            f"The registry at {repository.host} broke off in {digest} ({type(error).__name__}). Run it again."
        ) from error
    if f"sha256:{seen.hexdigest()}" != digest:
        raise _lie(repository, digest, f"sha256:{seen.hexdigest()}")


def _base(repository: Repository) -> str:
    return f"{'http' if repository.is_local else 'https'}://{repository.host}"


def _listed(answer: requests.Response) -> list[str]:
    try:
        return [str(each) for each in parsed(answer.content)["tags"] or ()]
    except (ValueError, KeyError, TypeError) as error:
        raise ContentError(f"{answer.url} gives no list of tags ({error!r}). Is it a registry?") from error


def _token(answer: requests.Response) -> str:
    try:
        found = parsed(answer.content)
        return str(found.get("token") or found.get("access_token", ""))
    except (ValueError, AttributeError) as error:
        raise ContentError(f"{answer.url} gives no token ({error!r}). Is it who the registry asks?") from error


def _lie(repository: Repository, digest: str, found: str) -> ContentError:
    return ContentError(
        f"{repository.at(digest)}: the registry gives something else, with the digest {found}. "
        "What it stores was changed or damaged; do not use it, and release again into a registry that you trust."
    )


def _basic(name: str, secret: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{secret}'.encode()).decode()}"
