"""What the server counts, in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/

Everything is taken from `Statistics` when somebody asks, so that a request pays nothing for it. The client library
brings an HTTP server of its own along, which this image does not have to hold.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from server.inference.statistics import Statistics
from server.model.contract import Contract

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SELF = Path("/proc/self")


def text(contract: Contract, found: Statistics) -> bytes:
    """The metrics of one model's server and of its process, as of now."""
    model = {"model": contract.name, "version": contract.version}
    return "".join((*_counted(model, found), *_process())).encode()


def _counted(model: dict[str, str], found: Statistics) -> Iterator[str]:
    outcomes = {"success": found.success, "fail": found.fail}
    phases = {
        "queue": found.queue,
        "compute_input": found.compute_input,
        "compute_infer": found.compute_infer,
        "compute_output": found.compute_output,
    }
    counts = {outcome: tally.count for outcome, tally in outcomes.items()}
    yield from _family("requests_total", "Inference requests that were answered.", model, "outcome", counts)
    seconds = {outcome: tally.ns / 1e9 for outcome, tally in outcomes.items()}
    yield from _family("request_seconds_total", "From arrival to answer.", model, "outcome", seconds)
    spent = {phase: tally.ns / 1e9 for phase, tally in phases.items()}
    yield from _family("phase_seconds_total", "Where requests that ran spent their time.", model, "phase", spent)
    refused = {"queue_full": found.rejected, "deadline": found.expired}
    yield from _family("refused_total", "Failed requests that the model did not run for.", model, "reason", refused)
    told = "Requests whose clients went away before they ran."
    yield from _family("cancelled_total", told, model, "", {"": found.cancelled})
    yield from _family("rows_total", "Rows that the model answered.", model, "", {"": found.inferences})
    yield from _family("executions_total", "Runs of the model.", model, "", {"": found.executions})
    yield from _family("queued", "Requests that are waiting.", model, "", {"": found.queued})


def _process() -> Iterator[str]:
    """What Prometheus' own clients say of a process, under the same names."""
    pages = int((_SELF / "statm").read_text().split()[1])
    for name, kind, value in (
        ("process_cpu_seconds_total", "counter", time.process_time()),
        ("process_resident_memory_bytes", "gauge", pages * os.sysconf("SC_PAGE_SIZE")),
        ("process_open_fds", "gauge", sum(1 for _ in (_SELF / "fd").iterdir())),
    ):
        yield f"# TYPE {name} {kind}\n{name} {value}\n"


def _family(name: str, told: str, labels: Mapping[str, str], label: str, values: Mapping[str, float]) -> Iterator[str]:
    """A metric; with `label` one series for each of `values`."""
    name = f"torchyard_{name}"
    yield f"# HELP {name} {told}\n# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n"
    for key, value in values.items():
        pairs = {**labels, label: key} if label else labels
        said = ",".join(f'{each}="{_escaped(content)}"' for each, content in pairs.items())
        yield f"{name}{{{said}}} {value}\n"


def _escaped(content: str) -> str:
    return content.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
