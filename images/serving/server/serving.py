"""Runs the application on uvicorn, from the first connection to the last answer."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import uvicorn

from server import log
from server.app import App
from server.contract import Contract
from server.health import PORT
from server.loading import Ready
from server.worker import Worker

# Requests that were on their way when SIGTERM came still arrive, and load balancers see that this server is not ready.
_GRACE_SECONDS = 0.5
# `docker stop` kills after ten seconds; a client that never finishes its request must not use them up.
_LONGEST_DRAIN_SECONDS = 8


def run(contract: Contract, worker: Worker, *, max_body: int) -> None:
    """Serves what `worker` prepares until SIGTERM or SIGINT, and finishes what was accepted.

    Raises:
        StartError: the model could not be prepared.
    """
    log.capture_libraries()
    app = App(contract, worker, max_body=max_body)
    config = uvicorn.Config(
        app,
        host="0.0.0.0",  # noqa: S104 (the container's own network)
        port=PORT,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_LONGEST_DRAIN_SECONDS,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(app, worker, Server(config)))


class Server(uvicorn.Server):
    """Uvicorn without its handling of signals, which raises SIGTERM once more at the end: that is no exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Called by uvicorn around serving."""
        yield


async def _serve(app: App, worker: Worker, server: Server) -> None:
    loop = asyncio.get_running_loop()

    def on_prepared(done: "Future[Ready]") -> None:
        if done.exception() is not None:
            server.should_exit = True
        elif app.state == "loading":
            app.state = "ready"

    def on_signal() -> None:
        if app.state == "ready":
            loop.call_later(_GRACE_SECONDS, stop)
        elif app.state == "loading":
            stop()
        app.state = "draining"
        log.event("draining")

    def stop() -> None:
        server.should_exit = True

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, on_signal)
    worker.prepared.add_done_callback(lambda done: loop.call_soon_threadsafe(on_prepared, done))
    await server.serve()
    if worker.prepared.done():
        worker.prepared.result()
        worker.stop()
