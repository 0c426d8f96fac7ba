"""Running a serving image where a person can try it: on loopback, under the production contract."""

import http.client
import json
import time
from contextlib import closing
from pathlib import Path

from safetensors import safe_open

from pipeline import records
from pipeline.artifacts import ServingImage
from pipeline.engine import Engine, Serving
from pipeline.errors import EngineError
from pipeline.load.samples import strings
from pipeline.progress import say

_READY_SECONDS = 60
_ASK_SECONDS = 0.5


def serve(image: ServingImage, *, port: int, grpc_port: int, engine: Engine, build: Path) -> None:
    """Serves until interrupted; prints a curl line that sends the first sample, which is kept in `build`.

    Raises:
        EngineError: the port is taken, or the container ended or was not ready in time.
    """
    name = image.archive.trained.spec.name
    body = build / "request.json"
    records.write_atomic(body, json.dumps(first_request(image)) + "\n")
    limits = image.archive.trained.spec.serving
    with engine.serve(image.tag, name=f"torchyard-{name}", port=port, grpc_port=grpc_port, limits=limits) as serving:
        wait_until_ready(serving)
        shown = body.relative_to(Path.cwd()) if body.is_relative_to(Path.cwd()) else body
        say(
            f"{image.tag} is ready at http://{serving.address} (gRPC: {serving.grpc_address}) "
            "and stops with Ctrl-C. Try:"
        )
        say(f"  curl --data @{shown} http://{serving.address}/v2/models/{name}/infer")
        while (ended := serving.ended()) is None:
            time.sleep(1)
        raise EngineError(f"{image.tag} stopped: {ended}")


def first_request(image: ServingImage) -> dict[str, object]:
    """The first sample as an inference request of the Open Inference Protocol in JSON."""
    inputs = []
    with safe_open(image.archive.samples.path, framework="numpy") as samples:
        for tensor in image.archive.trained.spec.inputs:
            value = samples.get_tensor(f"0/input/{tensor.name}")
            data = strings(value.tobytes()) if tensor.datatype == "BYTES" else value.ravel().tolist()
            shape = [len(data)] if tensor.datatype == "BYTES" else list(value.shape)
            inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data})
    return {"inputs": inputs}


def wait_until_ready(serving: Serving) -> float:
    """Waits until the server's ready endpoint answers 200; returns the seconds it took.

    Raises:
        EngineError: the container ended, or was not ready within a minute.
    """
    address, started, asked = serving.address, time.monotonic(), 0.0
    while (waited := time.monotonic() - started) < _READY_SECONDS:
        if _is_ready(address):
            return waited
        # Asking the engine costs as much as the server's start does in that time.
        if waited > asked + _ASK_SECONDS:
            asked = waited
            if ended := serving.ended():
                raise EngineError(f"The container was never ready; {ended}")
        time.sleep(0.01)
    raise EngineError(f"The container was not ready after {_READY_SECONDS} s; its last lines:\n{serving.last_lines()}")


def _is_ready(address: str) -> bool:
    """Asks on a connection of its own, with as little work as can be: what starts needs the cores."""
    with closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
