"""SIGTERM under full load, many times: what was accepted is answered, and the server ends as it should.

What is accepted? Over both protocols a request whose last byte was handed to the kernel, on an established connection,
before the engine said that SIGTERM was sent, which is some milliseconds after it was. All of them have to be answered,
and rightly. Of a request that was complete later it depends on what its client is told:

- REST: it was accepted if a byte of its answer has arrived. If its connection was closed without one, or its whole
  answer is a 503, it was turned away: its client sends it again, to a server that stays (RFC 9110, section 9.2.2,
  leaves it to the client whether that is safe; inference changes nothing).
- gRPC: it was accepted unless the server says that it was not: its stream is above the last one that GOAWAY names, or
  was reset with REFUSED_STREAM (RFC 9113, sections 6.8 and 8.7, and gRPC's clients make such a call again by
  themselves), or nothing was ever said on its connection, not even the server's settings. Only these were turned away.
  What was accepted has to end with OK: any other status, UNAVAILABLE among them, is a call that was lost, and so is
  one whose connection is cut.

What was turned away is counted, since a server that waits for load balancers to notice has little of it. A connection
that was refused, or a request that was refused or cut before it was complete: nothing was accepted.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import records
from pipeline.alone import alone
from pipeline.artifacts import ServingImage
from pipeline.deploy import wait_until_ready
from pipeline.engine import Engine, Image, Serving
from pipeline.errors import ContainerFailed, SpecError, StormError
from pipeline.load.bodies import Protocol
from pipeline.load.generator import Generator
from pipeline.progress import say

# What `docker stop` and Kubernetes' usual grace period leave is more; `docker stop` kills after ten seconds.
STOP_SECONDS = 10.0
# JSON goes over the same connections as binary tensors do.
STORMED: tuple[Protocol, ...] = ("rest-binary", "grpc")
_LOAD_SECONDS = 1.0
_MOST_CLIENTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One SIGTERM under requests of one protocol: how many were answered, turned away and refused, the seconds until
    the server had ended, its exit code, and what went wrong, by kind: empty where nothing did."""

    protocol: Protocol
    answered: int
    turned_away: int
    refused: int
    seconds: float
    code: int
    errors: Mapping[str, int]


def storm(
    image: ServingImage, *, times: int, clients: int, load: Image, engine: Engine, build: Path
) -> tuple[Stop, ...]:
    """Starts the image, has so many clients keep it busy, and sends SIGTERM; all of that so many times, over REST and
    gRPC in turns, as far as it is served.

    The figures are kept in `build`/storm.json.

    Raises:
        SpecError: that is no storm.
        StormError: an accepted request was lost or answered wrongly, or a server did not end with 0 in time.
    """
    if times < 1 or not 1 <= clients <= _MOST_CLIENTS:
        raise SpecError(
            f"--times {times} --clients {clients}: at least once, and by 1 to {_MOST_CLIENTS} clients at a time."
        )
    spec = image.archive.trained.spec
    protocols: list[Protocol] = []
    stops: list[Stop] = []
    with alone(build), Generator(load, image.archive, engine=engine, folder=build / ".storm") as generator:
        for number in range(1, times + 1):
            with engine.serve(image.tag, name=f"torchyard-storm-{spec.name}", port=0, limits=spec.serving) as serving:
                wait_until_ready(serving)
                protocols = protocols or [each for each in STORMED if generator.listens(serving.id, each)]
                if not protocols:
                    raise StormError(
                        f"{image.tag}: nothing listens for {' or '.join(STORMED)}, so nothing can be lost."
                    )
                protocol = protocols[(number - 1) % len(protocols)]
                stops.append(_stop(serving, protocol, generator, clients))
            last = stops[-1]
            say(
                f"  {number:>3}: {protocol}, {last.answered} answered, {last.turned_away} turned away, exit code "
                f"{last.code} after {last.seconds:.2f} s"
                f"{''.join(f'; {count} {kind}' for kind, count in last.errors.items())}"
            )
    kept = {"image": image.digest, "clients": clients, "stops": [asdict(stop) for stop in stops]}
    records.write_atomic(build / "storm.json", json.dumps(kept, indent=2) + "\n")
    errors = sum((Counter(stop.errors) for stop in stops), Counter[str]())
    if errors:
        listing = "\n".join(f"  {count} times {kind}" for kind, count in errors.items())
        raise StormError(
            f"{image.tag} was stopped {times} times under load, and not all was well:\n{listing}\n"
            f"{build / 'storm.json'} tells of each time."
        )
    seconds = [stop.seconds for stop in stops]
    stormed = dict.fromkeys(stop.protocol for stop in stops)
    answered, turned_away = (sum(getattr(stop, name) for stop in stops) for name in ("answered", "turned_away"))
    say(
        f"{image.tag} was stopped {times} times under {clients} clients of {' and '.join(stormed)}: {answered} "
        f"requests answered, none lost, {turned_away} turned away; exit code 0 after {statistics.median(seconds):.2f} "
        f"s, at most {max(seconds):.2f} s"
    )
    return tuple(stops)


def _stop(serving: Serving, protocol: Protocol, generator: Generator, clients: int) -> Stop:
    asked = sent = 0.0
    with ThreadPoolExecutor(max_workers=1) as pool:
        ends: list[Future[tuple[int, float]]] = []

        def on_loaded() -> None:
            nonlocal asked, sent
            asked = time.time()
            serving.terminate()
            sent = time.time()
            ends.append(pool.submit(_end, serving))

        outcome, errors = generator.storm(
            serving.id, protocol, clients=clients, seconds=_LOAD_SECONDS, on_loaded=on_loaded
        )
        if not ends:
            raise StormError(f"The server did not live to be stopped: {serving.ended()}")
        try:
            code, ended = ends[0].result()
        except ContainerFailed as failure:
            raise StormError(f"The server does not end: {failure}") from failure
    return judged(protocol, outcome, errors, sent=sent, code=code, seconds=ended - asked)


def _end(serving: Serving) -> tuple[int, float]:
    return serving.wait(STOP_SECONDS), time.time()


def judged(
    protocol: Protocol,
    outcome: Mapping[str, Any],
    errors: Counter[str],
    *,
    sent: float,
    code: int,
    seconds: float,
) -> Stop:
    """What became of the requests, beside a SIGTERM that was `sent` then, in seconds since the epoch."""
    found = Counter(errors)
    turned_away = 0
    for status, complete in outcome["others"]:
        # Whoever is told so in a whole answer knows that nothing was accepted.
        if protocol != "grpc" and status == 503 and complete >= sent:
            turned_away += 1
        else:
            found[f"accepted and lost, grpc-status {status}" if protocol == "grpc" else f"status {status}"] += 1
    for reason, complete, accepted in outcome["unanswered"]:
        if accepted or complete < sent:
            found[f"accepted and lost, {reason}"] += 1
        else:
            turned_away += 1
    if outcome["early"]:
        found["refused before SIGTERM"] += outcome["early"]
    if code:
        found[f"exit code {code}"] += 1
    return Stop(
        protocol=protocol,
        answered=sum(answer["count"] for answer in outcome["answers"]),
        turned_away=turned_away,
        refused=outcome["refused"],
        seconds=seconds,
        code=code,
        errors=dict(found),
    )
