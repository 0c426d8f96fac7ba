"""Which operators an archive needs from the runtime that loads it."""

from collections.abc import Iterator
from typing import Any

from torch.jit import ScriptModule


def needed(module: ScriptModule) -> list[str]:
    """The schemas of every operator that a method of the module runs, sorted.

    The graphs are walked, nested blocks included, because torch's own list (export_opnames) leaves some out.
    """
    methods = (module._c._get_method(name) for name in module._c._method_names())
    return sorted({schema for method in methods for schema in _schemas(method.inlined_graph)})


def _schemas(block: Any) -> Iterator[str]:
    for node in block.nodes():
        schema = node.schema()
        if schema != "(no schema)":
            yield schema
        for inner in node.blocks():
            yield from _schemas(inner)
