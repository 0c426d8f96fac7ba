"""The load generator: jobs beside a serving container, in its network, so that no proxy of the engine's is measured."""

import json
import shutil
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from pipeline.artifacts import Archive, Limits, Tolerance
from pipeline.engine import Engine, Image, Job, Mount
from pipeline.load import h2load
from pipeline.load.bodies import PROTOCOLS, Protocol, answered, body
from pipeline.load.figures import Percentiles, percentiles
from pipeline.load.samples import Sample, differing, samples, wrong
from pipeline.progress import say

PORTS: Mapping[Protocol, int] = {"rest-binary": 8080, "rest-json": 8080, "grpc": 8081}
_PYTHON = "/usr/bin/python3.13"
_OUT = Path("/torchyard/out")
_WITNESSES = 8
# The witness's part of the throughput, and the most that it sends a second.
_SHARE, _MOST = 0.02, 20.0
# What orchestrators and monitoring ask for, and how often in all.
_PROBED = ("/v2/health/live", "/v2/health/ready", "/metrics")
_PROBES = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of one run of load.

    `rate` is that of the arrivals a second, None where `clients` waited for answers. `throughput` is answers a second,
    `checked` is how many answers were compared with what the samples say, and `errors` counts what went wrong, by
    kind. `late` is the 99th percentile of how late the generator itself was, in milliseconds, and `probes` are the
    latencies of health and metrics meanwhile, where they were asked for.
    """

    protocol: Protocol
    clients: int | None = None
    rate: float | None = None
    requests: int
    throughput: float
    latency: Percentiles
    late: float | None = None
    probes: Percentiles | None = None
    checked: int
    errors: Mapping[str, int]


class Generator:
    """Sends an archive's samples to serving containers; what it needs for that lies in `folder` meanwhile."""

    def __init__(self, image: Image, archive: Archive, *, engine: Engine, folder: Path) -> None:
        self._image = image
        self._engine = engine
        self._folder = folder
        self._model = archive.trained.spec.name
        allowed = json.loads(archive.contract.path.read_text(encoding="utf-8"))["tolerance"]
        self._tolerance = Tolerance(absolute=allowed["absolute"], relative=allowed["relative"])
        self._samples = samples(archive)[:_WITNESSES]
        # A request of more rows is more work: clients that wait for answers send sample 0.
        self._alike = [
            number for number, each in enumerate(self._samples) if _shapes(each) == _shapes(self._samples[0])
        ]
        self._lengths: dict[tuple[str, Protocol], int] = {}
        self._limits = Limits(memory=1024, cpus=engine.info().cpus, pids=64)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        for protocol in PROTOCOLS:
            self._file(f"{protocol}.body").write_bytes(body(self._model, self._samples[0], protocol).content)
            for number, sample in enumerate(self._samples):
                self._file(f"{protocol}-{number}.http").write_bytes(body(self._model, sample, protocol).http())
        for number, path in enumerate(_PROBED):
            self._file(f"probe-{number}.http").write_bytes(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def listens(self, serving: str, protocol: Protocol) -> bool:
        """Whether somebody listens at a protocol's port."""
        program = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {PORTS[protocol]})))"
        lines: list[str] = []
        self._engine.run(self._job(serving, (_PYTHON, "-c", program)), on_line=lines.append)
        return lines == ["0"]

    def first(self, serving: str, protocol: Protocol, clients: int, *, count: int) -> tuple[float, ...]:
        """The latencies of the first `count` requests, in seconds, in the order of their starts; nan: not answered."""
        log, _ = self._h2load(serving, protocol, clients, f"--requests={count}", witness=None)
        return tuple(np.where(log.statuses == 200, log.latencies, np.nan))

    def estimate(self, serving: str, protocol: Protocol, clients: int) -> float:
        """About how many answers a second so many clients get; a server is warm afterwards."""
        log, _ = self._h2load(serving, protocol, clients, "--duration=1", witness=None)
        return log.throughput

    def closed(self, serving: str, protocol: Protocol, clients: int, *, rate: float, seconds: float) -> Loaded:
        """So many clients that wait for each answer before they send again: what they send at `rate` in `seconds`.

        Beside a single client the witness would be felt; there it looks at answers afterwards.
        """
        # As many for each client, so that all of them are there to the end.
        count = max(1, round(rate * seconds / clients)) * clients
        witness = min(_MOST, rate * _SHARE) if clients > 1 else 0.0
        log, witnessed = self._h2load(serving, protocol, clients, f"--requests={count}", witness=witness)
        errors = Counter({f"status {status}": int(n) for status, n in _counted(log.statuses) if status != 200})
        errors["not answered"] += max(log.failed, count - len(log.statuses)) - int((log.statuses <= 0).sum())
        # gRPC's errors come with status 200 and without a message. JSON's length depends on a number's last digits.
        if protocol != "rest-json":
            length = self._length(serving, protocol)
            if not length or log.data != count * length:
                errors["answer of another length"] += max(1, round(abs(count - log.data / max(length, 1))))
        checked = self._judge(witnessed, errors)
        return Loaded(
            protocol=protocol,
            clients=clients,
            requests=count,
            throughput=log.throughput,
            latency=percentiles(log.latencies[log.statuses == 200]),
            checked=checked,
            errors=dict(+errors),
        )

    def _length(self, serving: str, protocol: Protocol) -> int:
        """How many bytes a server answers to the request that h2load sends."""
        if (serving, protocol) not in self._lengths:
            log, _ = self._h2load(serving, protocol, 1, "--requests=1", witness=None)
            self._lengths[serving, protocol] = log.data
        return self._lengths[serving, protocol]

    def arrivals(self, serving: str, protocol: Protocol, *, rate: float, seconds: float, mixed: bool = False) -> Loaded:
        """Requests of sample 0's shape, or `mixed`, that arrive at `rate`, whatever the server does; every answer is
        looked at. HTTP only."""
        numbers = range(len(self._samples)) if mixed else self._alike
        count = max(1, round(rate * seconds))
        command = ("-m", "clients.arrivals", f"--rate={rate}", f"--count={count}")
        outcome = self._clients(serving, protocol, command, numbers=numbers)
        errors: Counter[str] = Counter()
        checked = self._judge(outcome, errors, numbers=numbers)
        latencies, late = outcome["latencies"], outcome["late"]
        # Faster than they arrive they cannot be answered, so the last one's end tells of the throughput.
        took = seconds - 1 / rate + (latencies[-1] if latencies else 0.0)
        return Loaded(
            protocol=protocol,
            rate=rate,
            requests=count,
            throughput=len(latencies) / max(took, 1e-9),
            latency=percentiles(latencies),
            late=percentiles(late).p99,
            checked=checked,
            errors=dict(+errors),
        )

    def overload(self, serving: str, protocol: Protocol, *, rate: float, seconds: float) -> Loaded:
        """Arrivals beside which somebody asks for health and metrics, as an orchestrator does."""
        command = ("-m", "clients.arrivals", f"--rate={_PROBES}", f"--count={round(_PROBES * seconds)}")
        with ThreadPoolExecutor(max_workers=1) as pool:
            asking = pool.submit(self._clients, serving, protocol, command, probing=True)
            loaded = self.arrivals(serving, protocol, rate=rate, seconds=seconds)
            probed = asking.result()
        errors = Counter(loaded.errors)
        errors.update({f"health or metrics: {reason}": count for reason, count in probed["lost"].items()})
        for answer in probed["answers"]:
            if answer["status"] != 200:
                errors[f"{_PROBED[answer['request']]}: status {answer['status']}"] += answer["count"]
        return replace(loaded, probes=percentiles(probed["latencies"]), errors=dict(errors))

    def storm(
        self, serving: str, protocol: Protocol, *, clients: int, seconds: float, on_loaded: Callable[[], None]
    ) -> tuple[Mapping[str, Any], Counter[str]]:
        """So many clients keep a server busy and go on until it accepts nothing more; see storm.py in
        images/load/clients, and rpc_storm.py for gRPC.

        `on_loaded` is called after so many seconds. Returns what became of the requests, and what was answered wrongly.
        """

        def on_line(line: str) -> None:
            if line == "loaded":
                on_loaded()
            else:
                say(f"  {line}")

        program = "clients.rpc_storm" if protocol == "grpc" else "clients.storm"
        command = ("-m", program, f"--clients={clients}", f"--seconds={seconds}")
        outcome = self._clients(serving, protocol, command, on_line=on_line)
        errors: Counter[str] = Counter()
        self._judge({"answers": outcome["answers"], "lost": {}}, errors, rpc=protocol == "grpc")
        return outcome, errors

    def mischief(self, serving: str, *, rate: float, seconds: float, ports: Iterable[int]) -> Mapping[str, int]:
        """Wrong requests and clients that leave; how often each came to what, see images/load/clients/mischief.py."""
        out = self._file("mischief.json")
        options = (f"--rate={rate}", f"--seconds={seconds}", f"--out={_OUT / out.name}")
        request = str(_OUT / "rest-json-0.http")
        command = (_PYTHON, "-m", "clients.mischief", *options, "--ports", *map(str, ports), "--", request)
        self._engine.run(self._job(serving, command), on_line=say)
        played: dict[str, int] = json.loads(out.read_bytes())
        return played

    def _h2load(
        self, serving: str, protocol: Protocol, clients: int, amount: str, *, witness: float | None
    ) -> tuple[h2load.Log, Mapping[str, Any]]:
        """Runs h2load with a witness at a rate, afterwards where that is 0, or without one."""
        log = self._file("h2load.log")
        log.unlink(missing_ok=True)
        arguments = h2load.arguments(
            body(self._model, self._samples[0], protocol),
            file=str(_OUT / f"{protocol}.body"),
            log=str(_OUT / log.name),
            port=PORTS[protocol],
            clients=clients,
            amount=amount,
        )
        printed: list[str] = []
        if witness is None:
            self._engine.run(self._job(serving, ("/usr/bin/h2load", *arguments)), on_line=printed.append)
            outcome: Mapping[str, Any] = {}
        else:
            command = ("-m", "clients.closed", f"--rate={witness}", f"--h2load={json.dumps(arguments)}")
            # There is no client for gRPC in Python's standard library; what is mixed up is so for both.
            spoken: Protocol = "rest-binary" if protocol == "grpc" else protocol
            outcome = self._clients(serving, spoken, command, on_line=printed.append)
        return h2load.parse(log.read_text(encoding="utf-8"), "\n".join(printed)), outcome

    def _clients(
        self,
        serving: str,
        protocol: Protocol,
        command: tuple[str, ...],
        *,
        numbers: Sequence[int] | None = None,
        probing: bool = False,
        on_line: Callable[[str], None] = say,
    ) -> Mapping[str, Any]:
        """Runs clients of images/load with these samples as requests, or all, or `probing`; what they write."""
        kind, asked = ("probe", _PROBED) if probing else (protocol, self._samples)
        out = self._file(f"{kind}.json")
        out.unlink(missing_ok=True)
        files = [str(_OUT / f"{kind}-{number}.http") for number in (range(len(asked)) if numbers is None else numbers)]
        arguments = (f"--port={PORTS[protocol]}", f"--out={_OUT / out.name}", *files)
        self._engine.run(self._job(serving, (_PYTHON, *command, *arguments)), on_line=on_line)
        outcome: dict[str, Any] = json.loads(out.read_bytes())
        return outcome

    def _job(self, serving: str, command: tuple[str, ...]) -> Job:
        return Job(
            image=self._image.digest,
            command=command,
            limits=self._limits,
            mounts=(Mount(source=self._folder, target=str(_OUT), writable=True),),
            beside=serving,
        )

    def _judge(
        self,
        outcome: Mapping[str, Any],
        errors: Counter[str],
        *,
        numbers: Sequence[int] | None = None,
        rpc: bool = False,
    ) -> int:
        """Adds what is wrong with the answers to requests of these samples, or all, to `errors`; how many were looked
        at. They are messages of gRPC with `rpc`."""
        asked = self._samples if numbers is None else [self._samples[number] for number in numbers]
        checked = 0
        for answer in outcome["answers"]:
            checked += answer["count"]
            if answer["status"] != 200:
                errors[f"status {answer['status']}"] += answer["count"]
                continue
            sample = asked[answer["request"]]
            content = b64decode(answer["body"])
            if rpc:
                told = differing(sample, partial(answered, content), self._tolerance)
            else:
                told = wrong(sample, answer["json"], content, self._tolerance)
            if told:
                errors[f"wrong answer: {told}"] += answer["count"]
        errors.update(outcome["lost"])
        return checked

    def _file(self, name: str) -> Path:
        return self._folder / name


def _shapes(sample: Sample) -> list[tuple[int, ...]]:
    return [tensor.shape for tensor in sample.inputs]


def _counted(statuses: Iterable[int]) -> list[tuple[int, int]]:
    return sorted(Counter(int(status) for status in statuses).items())
