"""`python3.13 -m server`: serves the model in /model on port 8080 until SIGTERM.

Exit code 0 after SIGTERM; otherwise one of `server.errors`, with the reason in the log's last line.
"""

import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from server import cgroup, log, settings
from server.errors import StartError
from server.inference import planning
from server.inference.planning import Prepared
from server.inference.scheduler import QueueLimits, Scheduler
from server.model import contract as contracts
from server.model.contract import Contract
from server.model.engine import imported
from server.model.loading import prepare
from server.settings import Settings

FOLDER = Path("/model")


def main() -> int:
    """Loads the model, serves it, and returns the exit code."""
    started = time.monotonic()
    # Process 1 ignores SIGTERM unless it says otherwise, and nothing was accepted yet that could be lost.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        chosen = settings.read(os.environ)
        contract = contracts.read(FOLDER)
        log.set_level(chosen.log_level)
        log.event("loading", model=contract.name, version=contract.version, threads=chosen.threads)
        _serve(contract, chosen, started)
    except StartError as error:
        log.event("failed", level="error", error=str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 (the log is JSON also when the reason is a bug)
        log.crash("failed", error)
        return 1
    log.event("stopped")
    return 0


def _serve(contract: Contract, chosen: Settings, started: float) -> None:
    settings.prepare_openmp(chosen.threads)

    def prepare_model() -> Prepared:
        ready = prepare(contract, FOLDER, imported, threads=chosen.threads)
        threads = None if chosen.plans else chosen.threads
        plan = planning.choose(
            ready,
            cores=cgroup.threads(),
            instances=chosen.instances,
            threads=threads,
            fusion=chosen.fusion,
        )
        return Prepared(ready=ready.lean(), plan=plan)

    def on_ready(prepared: Prepared) -> None:
        log.event(
            "ready",
            seconds=round(time.monotonic() - started, 3),
            differences=prepared.ready.differences,
            **asdict(prepared.plan),
            **asdict(contract.batching),
        )

    scheduler = Scheduler(prepare_model, QueueLimits(requests=chosen.queue, size=chosen.queue_size))
    scheduler.start()
    # The thread loads libtorch while this one imports the HTTP server; each takes a good part of the start.
    from server import serving  # noqa: PLC0415

    serving.run(contract, scheduler, chosen, on_ready=on_ready)


if __name__ == "__main__":
    code = main()
    # Everything is answered and logged. Python's way out would wait for torch to take down what the kernel frees.
    sys.stderr.flush()
    os._exit(code)
