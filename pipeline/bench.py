"""A request over the wire beside the same archive in process: same image, same limits, one run."""

import http.client
import json
import statistics
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from safetensors import safe_open

from pipeline import records
from pipeline.artifacts import ServingImage
from pipeline.deploy import wait_until_ready
from pipeline.engine import Engine, Job
from pipeline.progress import say

# Machines drift while one measures: the two are measured in turns and the medians of the rounds compared.
_ROUNDS = 5
_WARM_UP = 50


def bench(image: ServingImage, *, requests: int, engine: Engine, build: Path) -> None:
    """Prints p50, p95 and p99 in milliseconds of the first sample, over binary REST and in process, and their ratio.

    One keep-alive client, one request at a time. The figures are kept in `build`/bench.json.
    """
    spec = image.archive.trained.spec
    wire: list[list[float]] = []
    inside: list[list[float]] = []
    with engine.serve(image.tag, name=f"torchyard-bench-{spec.name}", port=0, limits=spec.serving) as serving:
        ready = wait_until_ready(serving)
        say(f"{image.tag} ready {ready:.2f} s after its start; {_ROUNDS} rounds of {requests} requests each way")
        body, headers = _request(image)
        for _ in range(_ROUNDS):
            inside.append(_in_process(image, requests, engine))
            with closing(http.client.HTTPConnection(serving.address)) as client:
                wire.append(_over_the_wire(client, f"/v2/models/{spec.name}/infer", body, headers, requests))
    rows = {"in process": _quantiles(inside), "over REST": _quantiles(wire)}
    for name, row in rows.items():
        say(f"{name:<11} " + "  ".join(f"{key} {value:7.3f} ms" for key, value in row.items()))
    ratio = rows["over REST"]["p50"] / rows["in process"]["p50"]
    say(f"p50 over the wire is {ratio:.3f} times the in-process one")
    figures = {
        "image": image.digest,
        "requests": requests,
        "rounds": _ROUNDS,
        "ready_s": ready,
        "ms": rows,
        "ratio": ratio,
    }
    records.write_atomic(build / "bench.json", json.dumps(figures, indent=2) + "\n")


def _quantiles(rounds: list[list[float]]) -> dict[str, float]:
    """The median over the rounds of each round's p50, p95 and p99, from seconds to milliseconds."""
    cuts = [statistics.quantiles(latencies, n=100) for latencies in rounds]
    return {f"p{percent}": statistics.median(cut[percent - 1] for cut in cuts) * 1e3 for percent in (50, 95, 99)}


def _in_process(image: ServingImage, requests: int, engine: Engine) -> list[float]:
    """Latencies in seconds of the forward alone, in a container of the same image with the same limits."""
    lines: list[str] = []
    command = ("/usr/bin/python3.13", "-m", "server.measure", "--model", "/model", "--requests", str(requests))
    engine.run(
        Job(image=image.digest, command=command, limits=image.archive.trained.spec.serving), on_line=lines.append
    )
    return [float(latency) for latency in json.loads(lines[-1])["latencies_s"]]


def _over_the_wire(
    client: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str], requests: int
) -> list[float]:
    latencies = []
    for index in range(_WARM_UP + requests):
        started = time.perf_counter()
        client.request("POST", path, body, headers)
        answer = client.getresponse()
        answer.read()
        if index >= _WARM_UP:
            latencies.append(time.perf_counter() - started)
        assert answer.status == 200, answer.reason
    return latencies


def _request(image: ServingImage) -> tuple[bytes, dict[str, str]]:
    """The first sample as a binary request: tensors in and out as raw bytes (OIP, binary tensor data extension)."""
    spec = image.archive.trained.spec
    inputs, tensors = [], []
    with safe_open(image.archive.samples.path, framework="numpy") as samples:
        for tensor in spec.inputs:
            value: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = samples.get_tensor(f"0/input/{tensor.name}")
            raw = value.tobytes()
            parameters = {"binary_data_size": len(raw)}
            inputs.append(
                {"name": tensor.name, "datatype": tensor.datatype, "shape": value.shape, "parameters": parameters}
            )
            tensors.append(raw)
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return head + b"".join(tensors), headers
