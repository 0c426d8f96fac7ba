"""Walks assignments: to variables, and to what outlives forward()."""

import ast
from typing import Any

from pipeline.inside.verdict.calls import Calls
from pipeline.inside.verdict.findings import finding
from pipeline.inside.verdict.recording import Frame
from pipeline.inside.verdict.rules import FIXES
from pipeline.inside.verdict.things import is_tensor, sequence_of
from pipeline.inside.verdict.values import (
    LIVE,
    MEMORY,
    STATE,
    VALUE,
    Value,
    content,
    joined,
    tainted,
)


class Assigning(Calls):
    """What each target is bound to from here on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The names that a frame declares global or nonlocal.
        self._globals: dict[int, set[str]] = {}
        self._outer: dict[int, set[str]] = {}

    def assign(self, target: ast.expr, value: Value, frame: Frame, *, again: bool = False) -> None:
        """Binds a target. `again`: it is built on what it was before."""
        if isinstance(target, ast.Name):
            self._assign_name(target.id, value, frame, again=again)
        elif isinstance(target, ast.Tuple | ast.List):
            self._unpack(target.elts, value, frame)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, value if value.is_container else Value(element=value), frame)
        elif isinstance(target, ast.Attribute):
            self._assign_attribute(target, value, frame, again=again)
        elif isinstance(target, ast.Subscript):
            self._assign_element(target, value, frame, again=again)

    def _assign_name(self, name: str, value: Value, frame: Frame, *, again: bool) -> None:
        if name in self._globals.get(id(frame), ()):
            self.change((frame.space, name), MEMORY if again or value.deep & {STATE, MEMORY} else STATE)
            where, says = self.sources.name(frame.file), f"forward() changes the global `{name}`"
            self.findings.setdefault(("state", where, says), finding("state", "warning", where, says, FIXES["state"]))
            return
        if name in self._outer.get(id(frame), ()):
            here = frame.around
            while here is not None and name not in here.names:
                here = here.around
            (here or frame).names[name] = joined(value, (here or frame).names.get(name, value))
            return
        frame.names[name] = value

    def _unpack(self, targets: list[ast.expr], value: Value, frame: Frame) -> None:
        things = None if is_tensor(value.known) else sequence_of(value.known)
        items = value.items or ([self.object(each) for each in things] if things is not None else None)
        if (
            items is not None
            and len(items) == len(targets)
            and not any(isinstance(each, ast.Starred) for each in targets)
        ):
            for target, item in zip(targets, items, strict=True):
                self.assign(target, item, frame)
            return
        for target in targets:
            self.assign(target, content(value), frame)

    def _assign_attribute(self, target: ast.Attribute, value: Value, frame: Frame, *, again: bool) -> None:
        base = self.evaluate(target.value, frame)
        if not base.is_known:
            self.rebind(target.value, value, frame)
            return
        key = (id(base.known), target.attr)
        if target.attr == "training" and truth_of(value) is not False:
            self.note("train-mode", "error", target, frame, "turns train mode on")
        self.note("state", "warning", target, frame, "changes what outlives forward()")
        self.change(key, MEMORY if again or value.deep & {VALUE, STATE, MEMORY} else STATE)
        if isinstance(vars(type(base.known)).get(target.attr), property):
            return
        before = self.stores.get(key, tainted({self.changed.get(key, STATE)}))
        self.stores[key] = joined(value, before) if frame.depth else value

    def _assign_element(self, target: ast.Subscript, value: Value, frame: Frame, *, again: bool) -> None:
        base, index = self.evaluate(target.value, frame), self.evaluate(target.slice, frame)
        python = base.is_container or isinstance(base.known, list | dict)
        if python and index.deep & LIVE:
            self.alive("lookup", target, frame, index.deep, "stores where the inputs choose")
        if base.is_known:
            # What a request puts under a key is there for the next one; a buffer's elements are mostly written anew.
            kept = {VALUE, STATE, MEMORY} if isinstance(base.known, dict | list) else {STATE, MEMORY}
            how = MEMORY if again or value.deep & kept else STATE
            self.changes_thing(base.known, how, target, frame)
            return
        self.rebind(target.value, Value(taint=value.deep | index.deep) if not python else value, frame)


def truth_of(value: Value) -> bool | None:
    return bool(value.known) if isinstance(value.known, bool) else None
