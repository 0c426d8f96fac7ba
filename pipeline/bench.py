"""What serving costs, and what it gains: the wire beside the archive in process, and the archive beside eager torch.

Both sides of a comparison have the same threads and cores and take turns in one run, because a machine is not equally
fast all the time.
"""

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path

from pipeline import records
from pipeline.artifacts import ServingImage
from pipeline.deploy import wait_until_ready
from pipeline.engine import Engine, Job, Mount
from pipeline.errors import EngineError
from pipeline.progress import say
from pipeline.workbench import Workbench

_ROUNDS = 5
_RUNS = 40
_TRIAL = ("/usr/bin/python3.13", "-m", "server.trial")
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


def bench_eager(image: ServingImage, *, engine: Engine, build: Path) -> None:
    """Prints medians in milliseconds of the first sample: eager fp32 in Python's torch, the archive there, and served.

    The first two take turns in one process, every few runs; the container that serves takes turns with that process.
    So on a machine with other work the first ratio can be trusted more. The figures are kept in
    `build`/bench-eager.json.

    Raises:
        EngineError: a container failed, or the image that trained the model is gone.
    """
    spec, trained = image.archive.trained.spec, image.archive.trained
    trainer = engine.find(trained.trainer)
    if trainer is None:
        raise EngineError(f"{trained.trainer}: the image that trained {spec.name} is gone. Make it with `inv images`.")
    limits = replace(spec.training.limits, cpus=spec.serving.cpus)
    bench = Workbench(
        spec=replace(spec, training=replace(spec.training, limits=limits)),
        trainer=trainer,
        engine=engine,
        out=build / ".bench",
        error=EngineError,
        ops=trained.ops,
    )
    order = {
        "contract": {kind: [asdict(t) for t in getattr(spec, kind)] for kind in ("inputs", "outputs")},
        "params": spec.params,
        "runs": _RUNS,
        "threads": bench.threads,
    }
    files = (trained.weights, image.archive.file, image.archive.samples)
    mounts = tuple(Mount(source=file.path, target=f"/torchyard/files/{file.path.name}") for file in files)
    job = Job(image=image.digest, command=(*_TRIAL, "--runs", str(_RUNS), "/model"), limits=bench.limits)
    rounds: list[dict[str, float]] = []
    for number in range(1, _ROUNDS + 1):
        # Threads wait at barriers as they do in the server, which is what counts most on a machine that is not idle.
        found = bench.run("eager", order, mounts=mounts, env={"GOMP_SPINCOUNT": "1000"})
        lines: list[str] = []
        engine.run(job, on_line=lines.append)
        medians = {name: statistics.median(seconds) * 1e3 for name, seconds in found.items()}
        rounds.append(medians | {"served": json.loads(lines[-1])["candidates"]["model"]["p50"]})
        say(f"  round {number}: " + ", ".join(f"{name} {median:.3f} ms" for name, median in rounds[-1].items()))
    p50 = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    say(f"{bench.threads} threads each, {image.archive.precision} {image.archive.memory_format}")
    for name, how in (("eager", ""), ("archive", "in turns in one process"), ("served", "in turns of containers")):
        times = "" if name == "eager" else f"  {p50['eager'] / p50[name]:.2f} times as fast, {how}"
        say(f"{name:<8}{p50[name]:8.3f} ms{times}")
    kept = {"image": image.digest, "threads": bench.threads, "p50_ms": p50, "rounds": rounds}
    records.write_atomic(build / "bench-eager.json", json.dumps(kept, indent=2) + "\n")
