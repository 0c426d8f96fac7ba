"""Traces a model and keeps what torch warned of meanwhile."""

import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from types import FrameType

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from pipeline.inside.freezing import freeze
from pipeline.inside.verdict.findings import Finding, finding
from pipeline.inside.verdict.sources import Sources, is_open
from pipeline.inside.verdict.trial import FAILURES, Case

_FIX = "Keep it a tensor, or let torch.jit.script keep the branch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A TracerWarning: torch's words, where it warns, and the `place` in the model's code that led there."""

    words: str
    file: str
    line: int
    place: tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """`program` is None when tracing failed, for the reason `failed`. `frozen` are the lines that torch warned of."""

    program: ScriptModule | None
    failed: str
    warned: tuple[Finding, ...]
    frozen: frozenset[tuple[str, int]]


def traced(model: nn.Module, cases: Sequence[Case], sources: Sources) -> Traced:
    """Traces the largest batch: a batch size that Python reads is then not 1, which most code broadcasts."""
    example = max((case.sample.inputs for case in cases), key=lambda inputs: len(inputs[0]))
    if not all(isinstance(each, Tensor) for each in example):
        return Traced(
            program=None,
            failed="a trace takes tensors, and an input is a list of strings",
            warned=(),
            frozen=frozenset(),
        )
    try:
        program, caught = trace(model, example)
    except FAILURES as failure:
        return Traced(program=None, failed=str(failure), warned=(), frozen=frozenset())
    warned = tuple(_explained(each, sources) for each in caught)
    frozen = frozenset(
        each.place for each in caught if is_open(each.file) or not sources.is_guard(each.file, each.line)
    )
    failed = unsaved(program)
    return Traced(program=None if failed else program, failed=failed, warned=warned, frozen=frozen)


def unsaved(program: ScriptModule) -> str:
    """Why a program cannot be frozen and saved, in torch's words; empty when it can."""
    try:
        torch.jit.save(freeze(program), BytesIO())
    except FAILURES as failure:
        return str(failure)
    return ""


def trace(model: nn.Module, example: Sequence[Tensor]) -> tuple[ScriptModule, list[Warned]]:
    """A trace and the TracerWarnings; no gradients, as some modules trace right only without."""
    given = tuple(each.clone() for each in example)
    caught: list[Warned] = []

    def keep(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        if issubclass(category, torch.jit.TracerWarning):
            caught.append(Warned(words=str(message), file=filename, line=lineno, place=_caller(filename, lineno)))

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("always")
        warnings.showwarning = keep  # type: ignore[assignment]
        program = torch.jit.trace(model, given, check_trace=False)
    return program, caught


def _caller(file: str, line: int) -> tuple[str, int]:
    """The line of the model's own code that led to where torch warns."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not is_open(frame.f_code.co_filename):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else (file, line)


def shape_of(program: ScriptModule) -> str:
    """The graph without sizes and places: equal for two traces unless the examples decided something."""
    graph = program.inlined_graph.copy()
    torch._C._jit_pass_erase_shape_information(graph)
    # torch numbers the classes of modules that were traced before.
    return re.sub(r"___torch_mangle_\d+\.|\s*# .*", "", str(graph))


def _explained(warning: Warned, sources: Sources) -> Finding:
    words = warning.words.split(". ")[0]
    inside = (
        f" (at {sources.where(warning.file, warning.line)})" if (warning.file, warning.line) != warning.place else ""
    )
    return finding(
        "tracer-warning",
        "warning",
        sources.where(*warning.place),
        f"`{sources.line(*warning.place)}`{inside}: {words}",
        _FIX,
    )
