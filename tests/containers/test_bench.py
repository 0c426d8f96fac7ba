"""Bench, soak and storm of a real server, and of planted ones that answer wrongly, err, leak or die."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from pipeline import images, pins
from pipeline.artifacts import ServingImage
from pipeline.bench import Plan, bench
from pipeline.deploy import wait_until_ready
from pipeline.engine import Image
from pipeline.engine.docker import DockerEngine
from pipeline.errors import SoakError, StormError
from pipeline.load.generator import Generator, Loaded
from pipeline.soak import soak
from pipeline.storm import storm

TAG = "torchyard-test-bench:1"
PYTHON = "/usr/bin/python3.13"
# Answers every inference in binary with what `answer(number)` makes: a status and the body's numbers.
SERVER = """
import http.server, json, os, signal, struct, time
numbers = iter(range(10**9))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def reply(self, status, body, *fields):
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *fields): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self): self.reply(200, b"{}")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        status, logits = answer(next(numbers))
        head = json.dumps({"outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
            {"name": "species", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
        ]}).encode()
        body = head + struct.pack("<3fq", *logits, 0)
        self.reply(status, body, ("Inference-Header-Content-Length", str(len(head))))
PLANTED
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
WRONG = "def answer(_): return 200, (7, 7, 7)"
ERRING = "def answer(number): return (500 if number % 5 == 0 else 200), (7, 7, 7)"
LEAKING = """
kept = []
def answer(_):
    kept.append((open("/dev/null"), b"x" * 100_000))
    return 200, (7, 7, 7)
"""
DYING = """
def answer(_):
    time.sleep(0.3)
    return 200, (7, 7, 7)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
import socket, threading
def greet():
    # Settings, and then nothing more, over gRPC.
    listener, kept = socket.create_server(("", 8081), backlog=99), []
    while True:
        kept.append(listener.accept()[0])
        kept[-1].sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
threading.Thread(target=greet, daemon=True).start()
"""


@pytest.fixture(scope="session")
def load(engine: DockerEngine) -> Image:
    return images.load(pins.load(), engine=engine)


@pytest.fixture
def planted(request: pytest.FixtureRequest, tiny_image: ServingImage, engine: DockerEngine) -> Iterator[ServingImage]:
    """The tiny image with another server in it, which is the test's parameter."""
    client = docker.from_env()
    container = client.containers.create(tiny_image.digest)
    try:
        repository, _, name = TAG.partition(":")
        program = SERVER.replace("PLANTED", request.param)
        made = container.commit(repository, name, conf={"Entrypoint": [PYTHON, "-c", program]})
        yield replace(tiny_image, tag=TAG, digest=str(made.id))
    finally:
        container.remove()
        client.close()
        engine.remove((TAG,))


def test_a_real_server_is_measured(
    tiny_image: ServingImage, load: Image, engine: DockerEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(seconds=0.3, rounds=1, protocols=("rest-binary",), clients=(1, 4))
    report = bench(tiny_image, load=load, plan=plan, engine=engine, build=tmp_path)
    assert not report.errors()
    row = report.row(tiny_image.tag, ("rest-binary", 4, None))
    assert 0 < row.latency.p50 <= row.latency.p99
    assert row.throughput > 100
    assert row.checked > 0
    assert 0 < row.cpu_seconds < 0.1
    assert all(0 < start.ready < 30 and start.anonymous < start.working_set for start in report.starts[tiny_image.tag])
    assert report.in_process[0].limit > row.throughput
    assert (tmp_path / "bench.svg").read_text().startswith("<?xml")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_two_images_are_measured_in_pairs_over_grpc_too(
    tiny_image: ServingImage,
    load: Image,
    engine: DockerEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipeline.bench._STARTS", 1)
    monkeypatch.setattr("pipeline.bench._LATER", 1)
    client = docker.from_env()
    client.images.get(tiny_image.digest).tag(*TAG.split(":"))
    try:
        plan = Plan(seconds=0.2, rounds=1, protocols=("rest-binary", "grpc"), clients=(2,))
        report = bench(tiny_image, load=load, plan=plan, engine=engine, build=tmp_path, against=TAG)
    finally:
        engine.remove((TAG,))
        client.close()
    assert not report.errors()
    assert report.images == {tiny_image.tag: tiny_image.digest, TAG: tiny_image.digest}
    closed = [key for key in report.measured() if key[2] is None]
    assert closed == [("rest-binary", 2, None), ("grpc", 2, None)]
    for key in closed:
        own, other = report.row(tiny_image.tag, key), report.row(TAG, key)
        for row in (own, other):
            assert 0 < row.latency.p50 <= row.latency.p95 <= row.latency.p99
            # Half of what two clients ask takes the median or longer.
            assert 0 < row.throughput <= 2 * 2 / (row.latency.p50 / 1e3)
            assert row.checked > 0
            assert row.cpu_seconds > 0
        throughput, p50 = report.ratio(key, of=tiny_image.tag, to=TAG)
        assert throughput == pytest.approx(own.throughput / other.throughput)
        assert p50 == pytest.approx(own.latency.p50 / other.latency.p50)
    for starts in report.starts.values():
        assert [start.protocol for start in starts] == ["rest-binary", "grpc"]
        assert all(start.first_p99 > 0 and start.steady_p99 > 0 for start in starts)
    assert f"{tiny_image.tag} to {TAG}, medians of pairs" in capsys.readouterr().out


def _loaded(image: ServingImage, load: Image, engine: DockerEngine, folder: Path) -> tuple[Loaded, Loaded]:
    """A planted server under both kinds of load."""
    limits = image.archive.trained.spec.serving
    with (
        Generator(load, image.archive, engine=engine, folder=folder / "load") as generator,
        engine.serve(image.digest, name="torchyard-test-bench", port=0, limits=limits) as serving,
    ):
        wait_until_ready(serving)
        return (
            generator.closed(serving.id, "rest-binary", 4, rate=200, seconds=0.5),
            generator.arrivals(serving.id, "rest-binary", rate=50, seconds=0.5),
        )


@pytest.mark.parametrize("planted", [WRONG], indirect=True)
def test_wrong_answers_are_caught(planted: ServingImage, load: Image, engine: DockerEngine, tmp_path: Path) -> None:
    for loaded in _loaded(planted, load, engine, tmp_path):
        assert loaded.checked > 0
        wrong = {kind: count for kind, count in loaded.errors.items() if kind.startswith("wrong answer: output logits")}
        assert sum(wrong.values()) == loaded.checked


@pytest.mark.parametrize("planted", [ERRING], indirect=True)
def test_errors_are_caught(planted: ServingImage, load: Image, engine: DockerEngine, tmp_path: Path) -> None:
    closed, arrivals = _loaded(planted, load, engine, tmp_path)
    assert closed.errors["status 500"] >= closed.requests // 5 - 4
    assert arrivals.errors["status 500"] in {4, 5, 6}


def test_a_server_that_drains_loses_nothing(
    tiny_image: ServingImage, load: Image, engine: DockerEngine, tmp_path: Path
) -> None:
    stops = storm(tiny_image, times=2, clients=16, load=load, engine=engine, build=tmp_path)
    assert all(stop.answered > 100 and not stop.errors and stop.code == 0 for stop in stops)
    rest, rpc = stops
    assert (rest.protocol, rpc.protocol) == ("rest-binary", "grpc")
    # The kernel may make one more connection while those that it made before are accepted.
    assert rest.turned_away <= 1
    # GOAWAY finds at most one call of each client on its way.
    assert rpc.turned_away <= 16


@pytest.mark.parametrize("planted", [DYING], indirect=True)
def test_a_server_that_drops_what_it_accepted_is_caught(
    planted: ServingImage, load: Image, engine: DockerEngine, tmp_path: Path
) -> None:
    with pytest.raises(StormError, match="times accepted and lost"):
        storm(planted, times=2, clients=16, load=load, engine=engine, build=tmp_path)
    rest, rpc = json.loads((tmp_path / "storm.json").read_text())["stops"]
    assert (rest["protocol"], rpc["protocol"]) == ("rest-binary", "grpc")
    assert all(sum(stop["errors"].values()) > 1 for stop in (rest, rpc))
    assert rpc["answered"] == 0


def test_a_real_server_stays_as_it_was(
    tiny_image: ServingImage, load: Image, engine: DockerEngine, tmp_path: Path
) -> None:
    growths = soak(tiny_image, minutes=0.5, load=load, engine=engine, build=tmp_path)
    assert not any(growth.too_much for growth in growths)
    kept = json.loads((tmp_path / "soak.json").read_text())
    assert set(kept["requests"]) == {"rest-binary", "rest-json", "grpc", "wrong or leaving"}
    assert all(count > 30 for count in kept["requests"].values())
    assert kept["errors"] == {}


@pytest.mark.parametrize("planted", [LEAKING], indirect=True)
def test_a_server_that_leaks_is_caught(
    planted: ServingImage, load: Image, engine: DockerEngine, tmp_path: Path
) -> None:
    with pytest.raises(SoakError, match=r"anonymous: .* grew too much(.|\n)*descriptors: .* grew too much"):
        soak(planted, minutes=0.5, load=load, engine=engine, build=tmp_path)
    assert len(json.loads((tmp_path / "soak.json").read_text())["samples"]) == 8
