"""Scripts a model, and turns torch's words about what it cannot compile into a place and an advice."""

import re
from dataclasses import dataclass
from io import BytesIO

import torch
from torch import nn
from torch.jit import ScriptModule

from pipeline.inside.freezing import freeze
from pipeline.inside.verdict.constructs import Construct, construct
from pipeline.inside.verdict.sources import Sources
from pipeline.inside.verdict.trial import FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """`program` is None when scripting failed; then `failed` says at what, and `words` are torch's own."""

    program: ScriptModule | None
    failed: Construct | None
    words: str


def scripted(model: nn.Module, sources: Sources) -> Scripted:
    """Scripts and freezes. torch raises errors of many kinds when it meets Python that it does not know."""
    try:
        program = torch.jit.script(model)
        torch.jit.save(freeze(program), BytesIO())
    except FAILURES as failure:
        words = without_addresses(str(failure) or type(failure).__name__)
        return Scripted(program=None, failed=construct(words, sources, failure), words=words)
    return Scripted(program=program, failed=None, words="")


def without_addresses(words: str) -> str:
    """The same words every time: objects are printed with their address in memory."""
    return re.sub(r" at:? 0x[0-9a-f]+", "", words).strip()
