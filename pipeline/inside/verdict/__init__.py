"""Decides between torch.jit.script and torch.jit.trace from evidence, and says why."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.jit import ScriptModule

from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample


def decide(
    model: nn.Module, *, samples: Sequence[Sample], probes: Sequence[Sample], choice: str, accepted: str
) -> tuple[ScriptModule, dict[str, Any]]:
    """The model as a program that agrees with it on every sample and probe, and the evidence (artifacts.Evidence).

    `choice` is auto, script or trace.

    Raises:
        Refused: there is no such program.
    """
    method = "script" if choice == "auto" else choice
    with refusing(method):
        program = _traced(model, samples) if method == "trace" else torch.jit.script(model)
    return program, {
        "requested": choice,
        "method": method,
        "because": "model.yaml says so",
        "findings": [],
        "unvisited": [],
        "samples": len(samples),
        "probes": len(probes),
        "accepted": accepted,
    }


@contextmanager
def refusing(method: str) -> Iterator[None]:
    """Turns what torch says of a model that it cannot convert into advice, with torch's own words below."""
    try:
        yield
    except torch.jit.TracingCheckError as error:
        raise Refused(
            "Tracing gives another program for another sample, so the archive would answer wrongly: "
            f"forward() branches or loops on its inputs. Set `export: script` in model.yaml.\n{error}"
        ) from error
    except (RuntimeError, TypeError, OSError, torch.jit.frontend.FrontendError) as error:
        advice = "Rewrite what it names" if method == "script" else "Set `export: script` in model.yaml, or rewrite it"
        raise Refused(f"torch cannot {method} and freeze this model. {advice}:\n{error}") from error


def _traced(model: nn.Module, taken: Sequence[Sample]) -> ScriptModule:
    """Traces the largest batch and compares with a trace of every other sample.

    A batch size that Python code reads is then baked in as something other than 1, which most code broadcasts.
    """
    example, *others = sorted((sample.inputs for sample in taken), key=lambda inputs: -len(inputs[0]))
    with torch.no_grad():
        return torch.jit.trace(model, example, check_inputs=others)
