"""Runs the application on uvicorn, from the first connection to the last answer."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import uvicorn

from server import cgroup, descriptors, log, memory
from server.errors import RunStuck
from server.grpc import messages, rpc
from server.grpc.held import Held
from server.grpc.rpc_connection import Limits, Served
from server.grpc.service import Services
from server.health import PORT
from server.http.app import App
from server.http.body import Bodies
from server.http.connection import Connection, sweep
from server.http.elsewhere import Elsewhere, processes
from server.inference.planning import Prepared
from server.inference.scheduler import Scheduler
from server.listening import accept_the_last
from server.model.contract import Contract
from server.rehearsal import rehearse
from server.settings import Settings

# For a run that ends when there is no time left to wait for it.
_LAST_RUN_SECONDS = 0.5
_WATCH_SECONDS = 1.0


def run(contract: Contract, scheduler: Scheduler, settings: Settings, *, on_ready: Callable[[Prepared], None]) -> None:
    """Serves what `scheduler` prepares until SIGTERM or SIGINT, and finishes what was accepted.

    `on_ready` is called when the model answers.

    A second signal ends the process at once, with the exit code of one that the signal killed: work was given up.

    Raises:
        StartError: the model could not be prepared, or its last run does not end.
    """
    log.capture_libraries()
    bodies = Bodies(largest=settings.max_body, most=settings.queue_size)
    limit = cgroup.memory()
    elsewhere = Elsewhere(contract, processes(limit and limit // 2))
    told = log.Requests(settings.slow)
    app = App(contract, scheduler, bodies=bodies, elsewhere=elsewhere, deadline=settings.deadline, requests=told)
    Connection.limits.connections = settings.connections
    descriptors.allow(settings.connections)
    config = uvicorn.Config(
        app,
        host="0.0.0.0",  # noqa: S104 (the container's own network)
        port=PORT,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        # A client that never finishes its request must not use up the time until the process is killed.
        timeout_graceful_shutdown=int(settings.drain),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        grpc = _grpc(contract, scheduler, app, settings, told)
        runner.run(_serve(app, scheduler, Server(config), grpc, settings, on_ready))


class Server(uvicorn.Server):
    """Uvicorn without its handling of signals, which raises SIGTERM once more at the end: that is no exit code 0.

    `ends` is when it has to have ended, an instant of time.monotonic(), or 0 until it is stopped.
    """

    ends = 0.0

    def stop(self, seconds: float) -> None:
        """Has it finish what it accepted, for so many seconds at most."""
        self.ends = time.monotonic() + seconds
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Called by uvicorn around serving."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn to end."""
        for listener in self.servers:
            await accept_the_last(listener)
        await super().shutdown(sockets)


def _grpc(contract: Contract, scheduler: Scheduler, app: App, settings: Settings, requests: log.Requests) -> rpc.Server:
    import _http2  # noqa: PLC0415 (it is in the image only)

    held = Held(settings.queue_size)
    services = Services(contract, scheduler, messages.load(), held=held, server=app, deadline=settings.deadline)
    served = Served(
        http2=_http2,
        limits=Limits(message=settings.max_body, connections=settings.connections),
        held=held,
        unary=services.unary,
        streaming=services.streaming,
        requests=requests,
    )
    return rpc.Server(served)


async def _serve(
    app: App,
    scheduler: Scheduler,
    server: Server,
    grpc: rpc.Server,
    settings: Settings,
    on_ready: Callable[[Prepared], None],
) -> None:
    loop = asyncio.get_running_loop()
    opening: list[asyncio.Task[None]] = []

    async def open_up(prepared: Prepared) -> None:
        scheduler.begin()
        app.state = "rehearsing"
        ready = prepared.ready
        while not server.started:
            await asyncio.sleep(0.01)
        await rehearse(ready.served.contract, ready.samples[0].inputs, PORT)
        scheduler.statistics.forget()
        await scheduler.trim()
        if limit := cgroup.memory():
            memory.bound(limit)
        if app.state == "rehearsing":
            app.state = "ready"
            on_ready(prepared)

    def on_opened(opened: "asyncio.Task[None]") -> None:
        if not opened.cancelled() and opened.exception() is not None:
            server.should_exit = True

    def on_prepared(done: "Future[Prepared]") -> None:
        if done.exception() is not None:
            server.should_exit = True
        elif app.state == "loading":
            opening.append(loop.create_task(open_up(done.result())))
            opening[0].add_done_callback(on_opened)

    def on_signal(signum: int) -> None:
        if app.state == "draining":
            log.event("ended", level="warning", signal=signum, unfinished=len(server.server_state.tasks))
            os._exit(128 + signum)
        if app.state == "ready":
            loop.call_later(settings.grace, stop)
        else:
            stop()
        app.state = "draining"
        for task in opening:
            task.cancel()
        grpc.drain()
        log.event("draining")

    def stop() -> None:
        server.stop(settings.drain)
        grpc.stop(settings.drain)

    _handle_signals(loop, on_signal)
    scheduler.prepared.add_done_callback(lambda done: loop.call_soon_threadsafe(on_prepared, done))
    watching = asyncio.create_task(_watch(app, scheduler, server, settings.stuck))
    await _answer(server, grpc)
    watching.cancel()
    if scheduler.prepared.done():
        scheduler.prepared.result()
        if app.state != "draining":
            await asyncio.gather(*opening)
        await _end(scheduler, max(_LAST_RUN_SECONDS, server.ends - time.monotonic()))


async def _answer(server: Server, grpc: rpc.Server) -> None:
    """Answers over both protocols until both have finished what they accepted."""
    await grpc.start("0.0.0.0", rpc.PORT)  # noqa: S104 (as above)
    await server.serve()
    await grpc.stopped()


async def _end(scheduler: Scheduler, seconds: float) -> None:
    """Waits for runs that nobody waits for any more."""
    # In a thread, so that a second signal still ends the process.
    if not await asyncio.to_thread(scheduler.stop, seconds):
        raise RunStuck(
            f"A run of the model did not end after {scheduler.busy_seconds():.0f} s; its requests were given up. "
            "Find out with `inv bench` how long it should take."
        )


def _handle_signals(loop: asyncio.AbstractEventLoop, on_end: Callable[[int], None]) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, on_end, each)
    for each in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(each, log.step, each)


async def _watch(app: App, scheduler: Scheduler, server: Server, stuck: float) -> None:
    """Ends late connections, and tells a run of the model that does not end."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        sweep(server.server_state.connections)
        seconds = scheduler.busy_seconds()
        if app.stuck != (seconds > stuck):
            app.stuck = not app.stuck
            log.event("stuck" if app.stuck else "unstuck", level="error", seconds=round(seconds))
