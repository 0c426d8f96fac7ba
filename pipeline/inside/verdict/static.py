"""Reads the model's Python without running it: what in forward(), and in all that it calls, the inputs decide."""

import ast
import inspect
import sys
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.inside.verdict.findings import Finding
from pipeline.inside.verdict.recording import Frame, Key, Live, Position
from pipeline.inside.verdict.sources import Sources, package
from pipeline.inside.verdict.statements import Walker
from pipeline.inside.verdict.values import LIVE, MEMORY, SHAPE, VALUE, Value, known, tainted

# What forward() changes is found by one walk and followed by the next; longer chains of changes are not written.
MOST_WALKS = 4
RECURSION = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was read. `remembers`: an answer builds on what earlier calls left behind."""

    findings: tuple[Finding, ...]
    live: tuple[Live, ...]
    taints: dict[Position, frozenset[str]]
    codes: frozenset[types.CodeType]
    remembers: bool

    def settles(self, place: tuple[str, int], sources: Sources) -> bool:
        """Whether the inputs decide nothing of what Python is asked on a line; False if that was not read."""
        asked = list(sources.asked(*place))
        return bool(asked) and not any(self.taints.get((place[0], *at), LIVE) & LIVE for at in asked)


def survey(
    model: Any,
    inputs: Sequence[Value],
    sources: Sources,
    *,
    ran: Iterable[types.CodeType] = (),
    visited: Iterable[tuple[str, int]] | None = None,
) -> Survey:
    """Walks the model's forward() for such inputs.

    `ran` are code objects that a run of the model went through. One that the walk did not reach is walked on its own,
    as if all its arguments were inputs, so that no branch stays unread.
    """
    owners = {id(module): name for name, module in model.named_modules()}
    changed: dict[Key, str] = {}
    lines = None if visited is None else frozenset(visited)
    # A call that the model makes takes a dozen here.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION))
    for _ in range(MOST_WALKS):
        walker = Walker(sources, owners=owners, changed=changed, visited=lines)
        result = walker.enter(model, list(inputs), {}, None, None)
        for code in sorted(set(ran) - walker.codes, key=lambda code: (code.co_filename, code.co_firstlineno)):
            _alone(walker, code, sources, model)
        if walker.changes == changed:
            break
        changed = walker.changes
    live = tuple(walker.live.values())
    remembers = MEMORY in result.deep or any(MEMORY in each.taint for each in live)
    return Survey(
        findings=tuple(walker.findings.values()),
        live=live,
        taints=walker.taints,
        codes=frozenset(walker.codes),
        remembers=remembers,
    )


def tensor_input(dims: Sequence[int | None]) -> Value:
    """An input tensor with these sizes; None is one that differs between requests."""
    return Value(taint=frozenset({VALUE}), dims=tuple(dims))


def strings_input() -> Value:
    """An input that is a list of strings."""
    return Value(taint=frozenset({SHAPE}), element=tainted({VALUE}))


def root_of(model: Any) -> str:
    """The folder of the model's own file, or empty without one."""
    for kind in type(model).__mro__:
        try:
            file = inspect.getfile(kind)
        except (TypeError, OSError):
            continue
        if not package(file):
            return str(Path(file).parent)
    return ""


def _alone(walker: Walker, code: types.CodeType, sources: Sources, model: Any) -> None:
    """Walks a code object whose function is not at hand. What it calls is not known, and comes on its own too."""
    node = sources.function(code)
    walker.codes.add(code)
    if node is None:
        return
    owner = next((module for module in model.modules() if _method_of(type(module), code)), None)
    frame = Frame(file=code.co_filename, names={}, outside={}, owner=owner, returns=[])
    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        frame.names[argument.arg] = tainted({VALUE})
    if owner is not None and node.args.args:
        frame.names[node.args.args[0].arg] = known(owner)
    if isinstance(node, ast.Lambda):
        walker.evaluate(node.body, frame)
    else:
        walker.block(node.body, frame)


def _method_of(kind: type, code: types.CodeType) -> bool:
    functions = (getattr(each, "__code__", None) for base in kind.__mro__ for each in vars(base).values())
    return any(each is code for each in functions)
