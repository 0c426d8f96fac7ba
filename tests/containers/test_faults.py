"""An engine that is stopped and disks that fill up in the middle of work: a clear message, and the next run works."""

import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import pins
from pipeline.artifacts import Limits, ModelSpec
from pipeline.engine import Build, Image, Job
from pipeline.engine.docker import DockerEngine, connect
from pipeline.errors import EngineError, SpaceError
from pipeline.line import Line

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk and starting an engine need root")
TAG = "torchyard-test-faults:1"
BASE = "torchyard-base:build"


@contextmanager
def _small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def _bridge(name: str) -> Iterator[str]:
    """A network bridge, by the ioctls of linux/sockios.h, so that no tool has to be installed for it."""
    with socket.socket() as control:
        fcntl.ioctl(control, 0x89A0, name.encode() + b"\0")  # SIOCBRADDBR
        try:
            yield name
        finally:
            fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name.encode(), 0))  # SIOCSIFFLAGS: down
            fcntl.ioctl(control, 0x89A1, name.encode() + b"\0")  # SIOCBRDELBR


class _PrivateEngine:
    """An engine of our own that may be stopped, its images on a small disk."""

    def __init__(self, home: Path, disk: Path, bridge: str) -> None:
        self._address = f"unix://{home}/docker.sock"
        self._command = ["dockerd", f"--host={self._address}", f"--data-root={disk}", f"--exec-root={home}/exec"]
        self._command += [f"--pidfile={home}/pid", f"--bridge={bridge}", "--iptables=false"]
        self._log = home / "log"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(120):
            try:
                self.connect()
            except EngineError:
                assert self._process.poll() is None, self._log.read_text()[-2000:]
                time.sleep(0.25)
            else:
                return
        raise AssertionError(self._log.read_text()[-2000:])

    def connect(self) -> DockerEngine:
        """It, as the pipeline sees it."""
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DOCKER_HOST", self._address)
            return connect()

    def stop(self) -> None:
        """Stops it and waits until it is gone."""
        self._process.terminate()
        self._process.wait(timeout=60)


@pytest.fixture
def private(tmp_path: Path, engine: DockerEngine, trainer: Image) -> Iterator[_PrivateEngine]:
    """A private engine that runs and has the build root."""
    assert trainer
    with _small_disk(tmp_path / "disk", "800m") as disk, _bridge("torchyard-test") as bridge:
        private = _PrivateEngine(tmp_path, disk, bridge)
        private.start()
        with engine.save(BASE) as saved:
            private.connect().load(saved)
        yield private
        private.stop()


def _build(folder: Path, step: str) -> Build:
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(f"ARG BASE\nFROM ${{BASE}} AS made\nRUN {step}\n")
    return Build(folder=folder, dockerfile=dockerfile, stage="made", tag=TAG, args={"BASE": BASE})


def test_an_engine_stopped_in_the_middle_of_a_build(
    private: _PrivateEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    running = private.connect()

    def stop_at_the_step(line: str) -> None:
        if "half way" in line and "RUN" not in line:
            private.stop()

    monkeypatch.setattr("pipeline.progress.say", stop_at_the_step)
    with pytest.raises(
        EngineError, match=r"went away while torchyard-test-faults:1 was built(.|\n)*run the same command"
    ):
        running.build(_build(context, "echo half way && sleep 120"))
    monkeypatch.undo()
    private.start()
    running = private.connect()
    assert running.find(TAG) is None
    made = running.build(_build(context, "echo whole way"))
    assert running.find(TAG) == made


def test_an_engine_stopped_in_the_middle_of_a_job(private: _PrivateEngine) -> None:
    running = private.connect()
    program = "import signal, sys; signal.signal(signal.SIGTERM, sys.exit); print('half way'); signal.pause()"
    command = ("python3.13", "-uc", program)
    job = Job(image=BASE, command=command, limits=Limits(memory=128, cpus=1, pids=16))
    with pytest.raises(EngineError, match="engine stopped answering"):
        running.run(job, on_line=lambda _: private.stop())
    private.start()


def test_a_disk_that_fills_up_in_the_middle_of_a_build(private: _PrivateEngine, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    running = private.connect()
    with pytest.raises(SpaceError, match=r"disk filled up while torchyard-test-faults:1 was built"):
        running.build(_build(context, "dd if=/dev/zero of=/large bs=1M count=2000"))
    assert running.find(TAG) is None
    assert running.build(_build(context, "echo whole way"))


def test_a_disk_that_fills_up_in_the_middle_of_a_step(
    engine: DockerEngine, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    with _small_disk(tmp_path / "build", "2m") as build:
        ballast = build / "ballast"
        ballast.write_bytes(bytes(2**21 - 2**12))
        with pytest.raises(
            SpaceError, match=r"The disk filled up in `python -m pipeline\.inside\.train`\. Free some space"
        ):
            _ = Line(tiny_spec, pins=pins.load(), engine=engine, build=build).export
        ballast.unlink()
        assert Line(tiny_spec, pins=pins.load(), engine=engine, build=build).export.file.is_intact()
