"""The paths of the Open Inference Protocol over REST, and what does not change about their answers.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.http import metrics, openapi
from server.inference.statistics import Statistics
from server.model.contract import Contract
from server.protocol import describing
from server.refusal import Refusal

Action: TypeAlias = Literal["live", "ready", "tell", "index", "infer"]
_JSON = b"application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What to do at a path; `body` is what it answers when all is well, and `tell` makes it where it changes."""

    method: Literal["GET", "POST"]
    action: Action
    body: bytes = b""
    tell: Callable[[], bytes] | None = None
    content_type: bytes = _JSON


class Routes:
    """Every path of one model's server."""

    def __init__(self, contract: Contract, statistics: Statistics) -> None:
        self._contract = contract
        self._routes = dict(_routes(contract, statistics))
        self._read_only = {f"/v2/repository/models/{contract.name}/{verb}" for verb in ("load", "unload")}

    def find(self, method: str, path: str) -> Route:
        """The route of a request; HEAD is a GET whose body the HTTP server leaves out.

        Raises:
            Refusal: 404 for an unknown path, model or version; 405 for a method that the path does not have.
        """
        route = self._routes.get(path)
        if route is None:
            if path in self._read_only:
                told = "This server has one model, which it neither loads nor unloads on request."
                raise Refusal(405, told)
            raise Refusal(404, self._unknown(path))
        if route.method != ("GET" if method == "HEAD" else method):
            allow = "GET, HEAD" if route.method == "GET" else route.method
            raise Refusal(405, f"{path}: expected {route.method}, got {method}.", allow=allow)
        return route

    def _unknown(self, path: str) -> str:
        name, version = self._contract.name, self._contract.version
        parts = path[:200].split("/")
        if parts[:3] == ["", "v2", "models"] and len(parts) > 3 and parts[3] != name:
            return f"There is no model {parts[3]!r}; this server has {name!r}."
        if parts[4:5] == ["versions"] and len(parts) > 5 and parts[5] != version:
            return f"Model {name!r} has no version {parts[5]!r}; this server has {version!r}."
        return f"There is nothing at {path[:200]!r}; see GET /v2 and GET /v2/models/{name}."


def as_json(content: object) -> bytes:
    """A JSON body."""
    return json.dumps(content, separators=(",", ":")).encode()


def _routes(contract: Contract, statistics: Statistics) -> Iterator[tuple[str, Route]]:
    server = as_json(describing.server_metadata())
    yield "/v2", Route(method="GET", action="tell", body=server)
    yield "/v2/", Route(method="GET", action="tell", body=server)
    yield "/v2/health/live", Route(method="GET", action="live", body=as_json({"live": True}))
    yield "/v2/health/ready", Route(method="GET", action="ready", body=as_json({"ready": True}))
    statistics_route = Route(
        method="GET", action="tell", tell=lambda: as_json(describing.statistics(contract, statistics))
    )
    ready = as_json({"name": contract.name, "ready": True})
    for path in (f"/v2/models/{contract.name}", f"/v2/models/{contract.name}/versions/{contract.version}"):
        yield path, Route(method="GET", action="tell", body=as_json(describing.metadata(contract)))
        yield f"{path}/ready", Route(method="GET", action="ready", body=ready)
        yield f"{path}/config", Route(method="GET", action="tell", body=as_json(describing.configuration(contract)))
        yield f"{path}/stats", statistics_route
        yield f"{path}/infer", Route(method="POST", action="infer")
    yield "/v2/models/stats", statistics_route
    yield "/v2/repository/index", Route(method="POST", action="index")
    yield "/openapi.json", Route(method="GET", action="tell", body=as_json(openapi.document(contract)))
    yield (
        "/metrics",
        Route(
            method="GET",
            action="tell",
            tell=lambda: metrics.text(contract, statistics),
            content_type=metrics.CONTENT_TYPE,
        ),
    )
