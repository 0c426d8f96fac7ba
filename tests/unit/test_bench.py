"""A bench end to end, with an engine whose jobs write what the real ones do: what is measured, compared and said."""

import json
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline import bench as benching
from pipeline.artifacts import ServingImage
from pipeline.bench import Plan, bench, bench_plan
from pipeline.bench.report import Report
from pipeline.engine import Job
from pipeline.errors import BenchError, EngineError, SpecError
from tests.unit import served
from tests.unit.fake_engine import FakeEngine

PLAN = Plan(seconds=1, rounds=2, protocols=("rest-binary", "rest-json"), clients=(1, 4))
IN_PROCESS = {
    "threads": 2,
    "in_process": {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0},
    "over_the_wire": {"p50_ms": 1.5, "p95_ms": 2.0, "p99_ms": 3.0},
    "callers": [
        {"callers": 1, "threads": 2, "fused": False, "throughput": 320.0, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0},
        {"callers": 1, "threads": 2, "fused": True, "throughput": 400.0, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0},
        {"callers": 2, "threads": 1, "fused": False, "throughput": 400.0, "p50_ms": 2.0, "p95_ms": 2.0, "p99_ms": 2.0},
        {"callers": 2, "threads": 1, "fused": True, "throughput": 500.0, "p50_ms": 2.0, "p95_ms": 2.0, "p99_ms": 2.0},
    ],
}


class World:
    """What jobs do: h2load gets `rates` answers a second of a container, each of which is `y`."""

    def __init__(self) -> None:
        self.rates = {"torchyard-bench-tiny-0": 250, "torchyard-bench-tiny-1": 100}
        self.y = [[1.0, 2.0]]
        self.status = 200
        self.ports = {8080}
        self.lengths: Callable[[int], int] = lambda count: count * 20
        self.lost: dict[str, int] = {}

    def run(self, job: Job, on_line: Callable[[str], None]) -> None:
        """Stands in for the container of a job."""
        words = dict(word.lstrip("-").partition("=")[::2] for word in job.command)
        (out,) = (mount.source for mount in job.mounts if mount.writable) if job.mounts else (Path(),)
        if job.command[0] == "python":
            (out / "result.json").write_text(json.dumps({"eager": [0.003] * 3, "archive": [0.002] * 3}))
        elif "server.measure" in job.command:
            on_line(json.dumps(IN_PROCESS))
        elif "-c" in job.command:
            on_line("0" if any(str(port) in job.command[-1] for port in self.ports) else "111")
        elif "clients.arrivals" in job.command:
            self._outcome(out / Path(words["out"]).name, int(words["count"]))
        else:
            arguments = json.loads(words["h2load"]) if "h2load" in words else job.command
            amount = dict(word.lstrip("-").partition("=")[::2] for word in arguments)
            rate = self.rates[job.beside]
            self._h2load(out, int(amount.get("requests", rate)), rate, on_line)
            if "h2load" in words:
                self._outcome(out / Path(words["out"]).name, 2)

    def _h2load(self, out: Path, count: int, rate: float, on_line: Callable[[str], None]) -> None:
        rows = [f"{int(1e6 * number / rate)}\t{self.status}\t{int(1e6 / rate)}" for number in range(count)]
        (out / "h2load.log").write_text("\n".join(rows))
        on_line(f"requests: {count} total, {count} started, 0 done, 0 succeeded, 0 failed, 0 errored, 0 timeout")
        on_line(f"traffic: 1B (1) total, 1B (1) headers (space savings 0.00%), 1B ({self.lengths(count)}) data")

    def _outcome(self, file: Path, count: int) -> None:
        probed = file.name == "probe.json"
        outputs = [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": self.y}]
        body = b64encode(json.dumps({"outputs": outputs}).encode()).decode()
        answers = [{"request": 0, "status": self.status, "json": None, "body": body, "count": count}]
        outcome = {
            "latencies": [0.001 if probed else 0.004] * count,
            "late": [0.0001] * count,
            "answers": answers,
            "lost": self.lost if probed else {},
        }
        file.write_text(json.dumps(outcome))


@pytest.fixture
def world(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    engine.on_run = made.run
    monkeypatch.setattr(benching, "wait_until_ready", lambda _: 1.0)
    monkeypatch.setattr("time.time", lambda: 1.25)
    return made


def _bench(image: ServingImage, engine: FakeEngine, folder: Path, *, against: str = "") -> Report:
    return bench(image, load=served.load(engine), plan=PLAN, engine=engine, build=folder / "build", against=against)


@pytest.mark.usefixtures("world")
def test_a_bench_says_what_it_measured(engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _bench(served.image(tmp_path, engine), engine, tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 120
    table = printed[printed.index("tiny:1.0.0-cpu with 1 cores and 512 MiB, medians of 2 rounds") :]
    assert [" ".join(line.split()) for line in table[2:5]] == [
        "tiny:1.0.0-cpu 1.25 200 MiB 150 MiB 220 MiB",
        "first 100 of rest-binary 1.00 times the steady p99",
        "first 100 of rest-json 1.00 times the steady p99",
    ]
    rows = {line[:30].strip(): line[30:].split() for line in table}
    assert rows["archive, 1 x 2 threads"][:3] == ["320.0", "0.64", "0.80"]
    assert rows["archive fused, 1 x 2 threads"][:3] == ["400.0", "0.80", "1.00"]
    assert rows["archive, 2 x 1 threads"][:3] == ["400.0", "0.80", "1.00"]
    assert rows["archive fused, 2 x 1 threads"][:3] == ["500.0", "1.00", "1.25"]
    assert rows["eager torch, 1 x 2"] == ["333.3", "0.67", "0.83", "3.000"]
    (wire,) = (line.rsplit(maxsplit=3) for line in table if line.startswith("over the wire"))
    assert wire == ["over the wire, one client, p50 1.500 times that", "1.500", "2.000", "3.000"]
    # A second of a core for 248 requests and the two of the witness; h2load's 250 answers a second of 4 ms.
    assert rows["rest-binary, 4 clients"] == ["250.0", "0.50", "0.62", "4.000", "4.000", "4.000", "4.000", "4", "0"]
    assert rows["rest-json, arriving at 50%"][3:6] == ["4.000", "4.000", "4.000"]
    assert rows["rest-json, arriving at 400%"][3:6] == ["4.000", "4.000", "4.000"]
    assert [line.split() for line in table if "meanwhile" in line] == [
        ["health", "and", "metrics", "meanwhile", "1.000", "1.000", "1.000"]
    ] * 2
    assert "grpc" not in "".join(table)


@pytest.mark.usefixtures("world")
def test_the_record_holds_every_cell_and_the_picture_is_drawn(engine: FakeEngine, tmp_path: Path) -> None:
    report = _bench(served.image(tmp_path, engine), engine, tmp_path)
    record = json.loads((tmp_path / "build/bench.json").read_text())
    assert len(record["cells"]) == len(report.cells) == 2 * 2 * (2 + 4)
    assert record["cells"][0]["loaded"]["latency"]["p50"] == 4
    drawn = ElementTree.parse(tmp_path / "build/bench.svg").getroot()
    legend = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"rest-binary", "rest-json", "in process, unbatched"} <= set(legend)
    assert not (tmp_path / "build/.bench").exists()


@pytest.mark.usefixtures("world")
def test_two_images_are_compared_in_pairs_and_take_turns(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = served.image(tmp_path, engine)
    engine.add("tiny:old", config={"Cmd": ["old"]})
    report = _bench(image, engine, tmp_path, against="tiny:old")
    assert report.ratio(("rest-binary", 4, None), of="tiny:1.0.0-cpu", to="tiny:old") == pytest.approx((2.5, 0.4))
    assert "rest-binary, 4 clients" in capsys.readouterr().out
    order = [(cell.round, cell.image) for cell in report.cells if cell.key == ("rest-binary", 1, None)]
    assert order == [(0, "tiny:1.0.0-cpu"), (0, "tiny:old"), (1, "tiny:old"), (1, "tiny:1.0.0-cpu")]


def test_another_image_has_to_be_there_and_another(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    assert world
    image = served.image(tmp_path, engine)
    with pytest.raises(BenchError, match=r"There is no image tiny:gone to compare with"):
        _bench(image, engine, tmp_path, against="tiny:gone")
    with pytest.raises(BenchError, match=r"tiny:1\.0\.0-cpu is the image itself"):
        _bench(image, engine, tmp_path, against=image.tag)


def test_a_wrong_answer_is_counted_told_and_fails(
    engine: FakeEngine, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.y = [[1.0, 2.5]]
    with pytest.raises(BenchError, match=r"rest-binary: wrong answer: output y differs by up to 0\.5 in 1 of 2"):
        _bench(served.image(tmp_path, engine), engine, tmp_path)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("rest-binary, 4")]
    assert [row[-1] for row in rows] == ["4"]
    assert json.loads((tmp_path / "build/bench.json").read_text())["cells"][0]["loaded"]["errors"]


def test_a_server_that_errs_fails(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.status = 500
    with pytest.raises(BenchError, match=r"times tiny:1\.0\.0-cpu, rest-json: status 500"):
        _bench(served.image(tmp_path, engine), engine, tmp_path)


def test_a_full_queue_is_a_fault_only_where_clients_wait(
    engine: FakeEngine, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.status = 503
    with pytest.raises(BenchError, match="rest-json: status 503") as raised:
        _bench(served.image(tmp_path, engine), engine, tmp_path)
    assert "rest-json: /v2/health/live: status 503" in str(raised.value)
    # At 400 % health is asked for, too, which may not be refused.
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match("rest-json, (?!.*400%)", line)]
    assert [bool(re.search(r" 0 refused [1-9]", row)) for row in rows] == ["arriving" in row for row in rows]
    assert [bool(re.search(r" [1-9]\d*$", row)) for row in rows if "arriving" not in row] == [True, True]


def test_health_that_is_not_answered_under_load_is_a_fault(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.lost = {"no answer in time": 3}
    # In two rounds.
    with pytest.raises(BenchError, match=r"6 times .*, rest-json: health or metrics: no answer in time"):
        _bench(served.image(tmp_path, engine), engine, tmp_path)


def test_grpc_is_measured_where_somebody_listens(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.ports.add(8081)
    plan = Plan(seconds=1, rounds=1, clients=(1,))
    report = bench(
        served.image(tmp_path, engine), load=served.load(engine), plan=plan, engine=engine, build=tmp_path / "build"
    )
    assert [key[0] for key in report.measured() if key[1]] == ["rest-binary", "rest-json", "grpc"]


@pytest.mark.usefixtures("world")
def test_the_first_requests_of_each_protocol_find_a_server_that_answered_none(
    engine: FakeEngine, tmp_path: Path
) -> None:
    report = _bench(served.image(tmp_path, engine), engine, tmp_path)
    starts = report.starts["tiny:1.0.0-cpu"]
    assert [start.protocol for start in starts] == ["rest-binary", "rest-json"] * 3
    hundreds = [job.command for job in engine.jobs if "--requests=100" in job.command]
    files = [next(Path(word).stem for word in command if ".body" in word) for command in hundreds]
    # The first hundred and five later ones of each start.
    assert files == (["rest-binary"] * 6 + ["rest-json"] * 6) * 3


@pytest.mark.parametrize("lengths", [lambda _: 0, lambda count: count * 10 + 10], ids=["all", "half of them"])
def test_errors_over_grpc_have_status_200_and_are_told_by_their_length(
    engine: FakeEngine, tmp_path: Path, world: World, lengths: Callable[[int], int]
) -> None:
    world.ports.add(8081)
    world.lengths = lengths
    plan = Plan(seconds=1, rounds=1, protocols=("grpc",), clients=(4,))
    image = served.image(tmp_path, engine)
    with pytest.raises(BenchError, match=r"times tiny:1\.0\.0-cpu, grpc: answer of another length"):
        bench(image, load=served.load(engine), plan=plan, engine=engine, build=tmp_path / "build")


def test_what_is_not_served_cannot_be_measured(engine: FakeEngine, tmp_path: Path, world: World) -> None:
    world.ports.clear()
    with pytest.raises(BenchError, match=r"tiny:1\.0\.0-cpu: nothing listens for rest-binary or rest-json"):
        _bench(served.image(tmp_path, engine), engine, tmp_path)


@pytest.mark.usefixtures("world")
def test_eager_has_the_threads_of_the_server_and_the_models_operators(engine: FakeEngine, tmp_path: Path) -> None:
    image = served.image(tmp_path, engine, operators=True)
    _bench(image, engine, tmp_path)
    eager = next(job for job in engine.jobs if job.command[0] == "python")
    assert eager.limits.cpus == image.archive.trained.spec.serving.cpus
    assert json.loads(eager.env["TORCHYARD_ORDER"])["threads"] == 1
    assert eager.env["GOMP_SPINCOUNT"] == "1000"
    assert "/torchyard/ops.so" in {mount.target for mount in eager.mounts}


@pytest.mark.usefixtures("world")
def test_without_the_image_that_trained_there_is_nothing_to_compare_with(engine: FakeEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the image that trained tiny is gone"):
        _bench(served.image(tmp_path, engine, trainer="sha256:gone"), engine, tmp_path)
    assert not engine.served


def test_a_plan_that_measures_nothing_is_refused() -> None:
    assert bench_plan(seconds=1, rounds=2, protocol="grpc").protocols == ("grpc",)
    with pytest.raises(SpecError, match="--protocol http: there is rest-binary, rest-json, grpc"):
        bench_plan(seconds=1, rounds=1, protocol="http")
    for seconds, rounds in ((0, 1), (61, 1), (1, 0)):
        with pytest.raises(SpecError, match="at least one round"):
            bench_plan(seconds=seconds, rounds=rounds, protocol="")


@pytest.mark.usefixtures("world")
def test_nothing_else_works_on_the_model_meanwhile(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is served is not built again, and two do not measure each other."""
    held: list[bool] = []

    def ready(_: object) -> float:
        held.append(served.is_held(tmp_path / "build"))
        return 1.0

    monkeypatch.setattr(benching, "wait_until_ready", ready)
    _bench(served.image(tmp_path, engine), engine, tmp_path)
    assert set(held) == {True}
    assert not served.is_held(tmp_path / "build")
