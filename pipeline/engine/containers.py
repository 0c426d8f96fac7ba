"""Docker's containers: run to their end, or serving until they are no longer needed."""

import io
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, cast

import docker
import requests
from docker.errors import DockerException, NotFound
from docker.models.containers import Container

from pipeline.engine import Job, Process, Usage
from pipeline.engine.failures import engine_errors
from pipeline.engine.usage import LOOK, process, seconds_since_epoch, usage
from pipeline.errors import ContainerFailed, EngineError, SpaceError

_LAST_LINES = 20
# What interrupts a command, where nothing else is done at it.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DockerServing:
    """A serving container of Docker's."""

    def __init__(self, container: Container) -> None:
        self._container = container

    @property
    def id(self) -> str:
        return str(self._container.id)

    @property
    def address(self) -> str:
        return self._published("8080/tcp")

    @property
    def grpc_address(self) -> str:
        return self._published("8081/tcp")

    def _published(self, port: str) -> str:
        with engine_errors():
            self._container.reload()
            bindings = self._container.ports.get(port)
        if not bindings:
            raise EngineError(f"The container does not listen: {self.ended() or 'its port is not published'}")
        return f"127.0.0.1:{bindings[0]['HostPort']}"

    @property
    def started(self) -> float:
        with engine_errors():
            self._container.reload()
        return seconds_since_epoch(self._container.attrs["State"]["StartedAt"])

    def ended(self) -> str | None:
        with engine_errors():
            self._container.reload()
            if self._container.status in {"created", "running"}:
                return None
            code = self._container.attrs["State"]["ExitCode"]
        return f"it ended with exit code {code}:\n{self.last_lines()}"

    def last_lines(self) -> str:
        with engine_errors():
            return _indented(self._container.logs(tail=_LAST_LINES).decode(errors="replace").splitlines())

    def usage(self) -> Usage:
        with engine_errors():
            return usage(cast(dict[str, Any], self._container.stats(stream=False, one_shot=True)))

    def process(self) -> Process:
        with engine_errors():
            code, printed = self._container.exec_run(["/usr/bin/python3.13", "-c", LOOK])
        output = cast(bytes, printed).decode(errors="replace")
        if code:
            raise EngineError(f"The container cannot be looked into: {output}")
        return process(output)

    def terminate(self) -> None:
        with engine_errors():
            self._container.kill(signal="SIGTERM")

    def wait(self, seconds: float) -> int:
        try:
            with engine_errors():
                return int(self._container.wait(timeout=seconds)["StatusCode"])
        except EngineError as error:
            if self.ended() is None:
                raise ContainerFailed(f"It still runs {seconds:g} s after SIGTERM.", hung=True) from error
            raise


class Stream(io.RawIOBase):
    """A readable stream over the chunks of an HTTP answer."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with engine_errors():
            while not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return 0
                self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


@contextmanager
def created(client: docker.DockerClient, image: str, **settings: Any) -> Iterator[Container]:
    """A container that is there until the end, and not a moment longer, whenever an interruption comes."""
    with ExitStack() as stack:
        # Of one that is being made, nobody knows yet.
        with uninterrupted(), engine_errors():
            container = client.containers.create(image, **settings)
            stack.callback(remove, container)
        yield container


def remove(container: Container) -> None:
    """Removes a container, running or not; one that is gone already is fine."""
    with uninterrupted(), engine_errors(), suppress(NotFound):
        container.remove(force=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Has an interruption wait for the end; threads are never interrupted."""
    came: list[int] = []
    if threading.current_thread() is threading.main_thread():
        interrupting = [each for each in _SIGNALS if signal.getsignal(each) is signal.default_int_handler]
    else:
        interrupting = []
    for each in interrupting:
        signal.signal(each, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for each in interrupting:
            signal.signal(each, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


class _Patience:
    """Kills a container that is still running after so many seconds; None waits for ever."""

    def __init__(self, container: Container, seconds: float | None) -> None:
        self._container = container
        self._timer = threading.Timer(seconds, self._end) if seconds else None
        self.ran_out = False

    def __enter__(self) -> None:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()

    def _end(self) -> None:
        self.ran_out = True
        # It may have ended by itself just now, or the engine has gone: whoever waits for it will tell.
        with suppress(DockerException, requests.RequestException):
            self._container.kill()


def run_to_end(container: Container, job: Job, on_line: Callable[[str], None]) -> None:
    """Starts the container, passes its lines on as they come and raises ContainerFailed unless it exits with 0."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    container.start()
    patience = _Patience(container, job.seconds)
    chunks = container.logs(stream=True, follow=True)
    try:
        with patience:
            for line in _lines(chunks):
                last.append(line)
                on_line(line)
            code = container.wait()["StatusCode"]
    except BaseException:
        remove(container)
        deque(chunks, maxlen=0)  # the SDK lets go of its connection only at the end of the stream
        raise
    if patience.ran_out:
        raise ContainerFailed(
            f"`{' '.join(job.command)}` did not end within {job.seconds:g} s and was stopped:\n{_indented(last)}",
            hung=True,
        )
    if not code:
        return
    container.reload()
    if container.attrs["State"]["OOMKilled"]:
        raise ContainerFailed(
            f"`{' '.join(job.command)}` ran out of memory: it may use {job.limits.memory} MiB. "
            f"Raise the memory limit in model.yaml.\n{_indented(last)}"
        )
    if any("No space left on device" in line for line in last):
        raise SpaceError(f"The disk filled up in `{' '.join(job.command)}`. Free some space.\n{_indented(last)}")
    raise ContainerFailed(f"`{' '.join(job.command)}` ended with exit code {code}:\n{_indented(last)}", code=code)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    if rest:
        yield rest.decode(errors="replace")


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
