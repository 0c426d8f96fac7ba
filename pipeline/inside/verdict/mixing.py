"""Whether scripting one submodule, inside a traced parent, would do: proposed to a person, never done silently."""

import ast
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.inside.verdict.recording import Live
from pipeline.inside.verdict.sources import Sources, is_open
from pipeline.inside.verdict.tracing import trace
from pipeline.inside.verdict.trial import FAILURES, Case, differences


def proposal(model: nn.Module, live: Sequence[Live], cases: Sequence[Case], sources: Sources) -> str:
    """The lines to write so that the model can be exported as a mix, or empty when that does not help either."""
    owners = sorted({each.owner for each in live})
    outermost = [name for name in owners if not any(name.startswith(f"{other}.") for other in owners)]
    if not outermost or "" in outermost:
        return ""
    try:
        mixed = copy.deepcopy(model)
        for name in outermost:
            parent, _, last = name.rpartition(".")
            setattr(mixed.get_submodule(parent), last, torch.jit.script(mixed.get_submodule(name)))
        example = max((case.sample.inputs for case in cases), key=lambda inputs: len(inputs[0]))
        program, _ = trace(mixed, example)
    except FAILURES:
        return ""
    if next(differences(program, cases, who="the mix"), None) is not None:
        return ""
    lines = [_line(model, name, sources) for name in outermost]
    return "A mix works: script the part that branches, and the rest can be traced. Write " + "; ".join(lines) + "."


def _line(model: nn.Module, name: str, sources: Sources) -> str:
    """The assignment in __init__ that makes the submodule, with torch.jit.script around its right side."""
    parent, _, last = name.rpartition(".")
    kind: Any = type(model.get_submodule(parent))
    code = kind.__init__.__code__ if hasattr(kind.__init__, "__code__") else None
    node = sources.function(code) if code is not None and is_open(code.co_filename) else None
    for each in ast.walk(node) if node is not None else ():
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == f"self.{last}" and code is not None:
            written = f"self.{last} = torch.jit.script({ast.unparse(each.value)})"
            return f"`{written}` at {sources.where(code.co_filename, each.lineno)}"
    made = type(model.get_submodule(name)).__name__
    return f"`torch.jit.script({made}(...))` where the model makes its `{name}`"
