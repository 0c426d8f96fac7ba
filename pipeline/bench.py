"""A request over the wire beside the same archive in process: same image, same threads, in turns, in one run."""

import json
from pathlib import Path

from pipeline import records
from pipeline.artifacts import ServingImage
from pipeline.deploy import wait_until_ready
from pipeline.engine import Engine, Job
from pipeline.progress import say

_MEASURE = ("/usr/bin/python3.13", "-m", "server.measure", "--model", "/model", "--server", "127.0.0.1:8080")


def bench(image: ServingImage, *, requests: int, engine: Engine, build: Path) -> None:
    """Prints p50, p95 and p99 in milliseconds of the first sample, in process and over binary REST, and their ratio.

    One client, one request at a time, on the server's own loopback: a port that the engine publishes would add its
    proxy. The figures are kept in `build`/bench.json.
    """
    spec = image.archive.trained.spec
    with engine.serve(image.tag, name=f"torchyard-bench-{spec.name}", port=0, limits=spec.serving) as serving:
        ready = wait_until_ready(serving)
        say(f"{image.tag} ready {ready:.2f} s after its start; measuring {requests} requests each way")
        lines: list[str] = []
        job = Job(
            image=image.digest,
            command=(*_MEASURE, "--requests", str(requests)),
            limits=spec.serving,
            beside=serving.id,
        )
        engine.run(job, on_line=lines.append)
    figures = json.loads(lines[-1])
    for name in ("in_process", "over_the_wire"):
        row = "  ".join(f"{key.removesuffix('_ms')} {value:7.3f} ms" for key, value in figures[name].items())
        say(f"{name.replace('_', ' '):<14}{row}")
    ratio = figures["over_the_wire"]["p50_ms"] / figures["in_process"]["p50_ms"]
    say(f"p50 over the wire is {ratio:.3f} times the one in process, {figures['threads']} threads each")
    kept = {"image": image.digest, "requests": requests, "ready_seconds": ready, "ratio": ratio, **figures}
    records.write_atomic(build / "bench.json", json.dumps(kept, indent=2) + "\n")
