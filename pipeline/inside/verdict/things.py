"""Recognises torch's objects without importing torch, so that the static analysis can be tested without it."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.inside.verdict.recording import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """A function that is defined while forward() runs, and the frame around it."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    frame: Frame


def _is(thing: object, module: str, name: str) -> bool:
    return any(each.__module__.startswith(module) and each.__name__ == name for each in type(thing).__mro__)


def is_tensor(thing: object) -> bool:
    return _is(thing, "torch", "Tensor")


def is_module(thing: object) -> bool:
    """Whether it is an nn.Module."""
    return _is(thing, "torch.nn.modules.module", "Module")


def is_scripted(thing: object) -> bool:
    """Whether it is compiled already: its control flow is kept, however it is called."""
    return any(_is(thing, "torch", name) for name in ("ScriptModule", "ScriptFunction", "RecursiveScriptModule"))


def is_device(thing: object) -> bool:
    return type(thing).__module__ == "torch" and type(thing).__name__ == "device"


def is_data(thing: object) -> bool:
    """Whether it holds values, and not the functions or classes of a registry."""
    if isinstance(thing, list | tuple | set | dict):
        return all(is_data(each) for each in (thing.values() if isinstance(thing, dict) else thing))
    return thing is None or isinstance(thing, bool | int | float | str | bytes) or is_tensor(thing)


def of_torch(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "torch"


def sequence_of(thing: Any) -> Sequence[Any] | None:
    """The elements that a loop over the thing sees, when it is a plain container or one of modules."""
    if isinstance(thing, list | tuple | range | set | frozenset):
        return list(thing) if len(thing) < 10_000 else None
    if isinstance(thing, dict) or type(thing).__name__ in {
        "dict_keys",
        "dict_values",
        "dict_items",
        "odict_values",
        "odict_items",
        "odict_keys",
    }:
        return list(thing)
    if isinstance(thing, str):
        return list(thing) if len(thing) < 1000 else None
    if type(thing).__name__ in {"ModuleList", "Sequential", "ParameterList", "ModuleDict", "ParameterDict"}:
        return list(thing)
    return None
