"""Decides between torch.jit.script and torch.jit.trace from evidence, and says why: `decide` and `refusing`.

What reads the model's code knows torch by name only. Both functions are imported when they are asked for, so that it
can be used and tested where there is no torch.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in {"decide", "refusing"}:
        from pipeline.inside.verdict import decision  # noqa: PLC0415 (see above)

        return getattr(decision, name)
    raise AttributeError(name)
