"""The paths of the Open Inference Protocol over REST, and what does not change about their answers.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server import __version__
from server.contract import Contract, Tensor
from server.refusal import Refusal

Action: TypeAlias = Literal["live", "ready", "tell", "infer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What to do at a path; `body` is what a GET of it answers when all is well."""

    method: Literal["GET", "POST"]
    action: Action
    body: bytes = b""


class Routes:
    """Every path of one model's server."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._routes = dict(_routes(contract))

    def find(self, method: str, path: str) -> Route:
        """The route of a request; HEAD is a GET whose body the HTTP server leaves out.

        Raises:
            Refusal: 404 for an unknown path, model or version; 405 for a method that the path does not have.
        """
        route = self._routes.get(path)
        if route is None:
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


def _routes(contract: Contract) -> Iterator[tuple[str, Route]]:
    server = as_json({"name": "torchyard", "version": __version__, "extensions": ["binary_tensor_data"]})
    yield "/v2", Route(method="GET", action="tell", body=server)
    yield "/v2/", Route(method="GET", action="tell", body=server)
    yield "/v2/health/live", Route(method="GET", action="live", body=as_json({"live": True}))
    yield "/v2/health/ready", Route(method="GET", action="ready", body=as_json({"ready": True}))
    ready = as_json({"name": contract.name, "ready": True})
    for path in (f"/v2/models/{contract.name}", f"/v2/models/{contract.name}/versions/{contract.version}"):
        yield path, Route(method="GET", action="tell", body=as_json(_metadata(contract)))
        yield f"{path}/ready", Route(method="GET", action="ready", body=ready)
        yield f"{path}/infer", Route(method="POST", action="infer")


def _metadata(contract: Contract) -> dict[str, object]:
    return {
        "name": contract.name,
        "versions": [contract.version],
        "platform": "pytorch_torchscript",
        "inputs": [_tensor(tensor) for tensor in contract.inputs],
        "outputs": [_tensor(tensor) for tensor in contract.outputs],
    }


def _tensor(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype.name, "shape": list(tensor.shape)}
