"""Walks branches and loops: both sides of what can go either way, one side of what a constant decides."""

import ast
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.inside.verdict.assigning import Assigning
from pipeline.inside.verdict.recording import Frame
from pipeline.inside.verdict.sources import is_open
from pipeline.inside.verdict.things import is_tensor, sequence_of
from pipeline.inside.verdict.values import (
    LIVE,
    NOTHING,
    STATE,
    Value,
    joined,
    merged,
    tainted,
)


class Flow(Assigning):
    """Statements that decide what runs."""

    def block(self, statements: Sequence[ast.stmt], frame: Frame) -> bool:
        raise NotImplementedError

    def do_if(self, node: ast.If, frame: Frame) -> bool:
        answer = self.ask(node.test, frame, "if")
        if answer is not None:
            self._skipped(node.test, node.orelse if answer else node.body, frame)
            return self.block(node.body if answer else node.orelse, frame)
        before = dict(frame.names)
        frame.depth += 1
        first_ends = self.block(node.body, frame)
        first, frame.names = frame.names, dict(before)
        second_ends = self.block(node.orelse, frame)
        frame.depth -= 1
        if first_ends or second_ends:
            _replace(frame, first if second_ends else frame.names)
        else:
            _replace(frame, _both(first, frame.names))
        return first_ends and second_ends

    def _skipped(self, test: ast.expr, body: Sequence[ast.stmt], frame: Frame) -> None:
        """Code that does not run today but settles its own condition, such as `if self.x is None: self.x = ...`."""
        asked = {each.attr for each in ast.walk(test) if isinstance(each, ast.Attribute)} - {"training"}
        if not asked or frame.owner is None:
            return
        for name in asked & self._stored(body, frame.owner, set()):
            self.change((id(frame.owner), name), STATE)

    def _stored(self, body: Sequence[ast.AST], owner: Any, seen: set[str]) -> set[str]:
        """The attributes that statements store, and those that the owner's methods store that they call."""
        found = set()
        for each in (inner for statement in body for inner in ast.walk(statement)):
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                found.add(each.attr)
            elif isinstance(each, ast.Attribute) and each.attr not in seen:
                method = getattr(type(owner), each.attr, None)
                node = (
                    self.sources.function(method.__code__)
                    if isinstance(method, types.FunctionType) and is_open(method.__code__.co_filename)
                    else None
                )
                if isinstance(node, ast.FunctionDef):
                    found |= self._stored(node.body, owner, seen | {each.attr})
        return found

    def do_while(self, node: ast.While, frame: Frame) -> bool:
        answer = self.ask(node.test, frame, "while")
        if answer is False:
            return self.block(node.orelse, frame)
        self._rounds(node.body, frame, lambda: self.ask(node.test, frame, "while"))
        if answer is None:
            self.block(node.orelse, frame)
        return False

    def _rounds(self, body: Sequence[ast.stmt], frame: Frame, before: Callable[[], object]) -> None:
        """Walks a loop's body until nothing new can depend on the inputs: twice is enough to carry a value over."""
        frame.depth += 1
        for _ in range(3):
            entry = dict(frame.names)
            before()
            self.block(body, frame)
            _replace(frame, _both(entry, frame.names))
        frame.depth -= 1

    def do_for(self, node: ast.For, frame: Frame) -> None:
        source = self.evaluate(node.iter, frame)
        items = self.iterated(node.iter, source, frame)
        things = None if is_tensor(source.known) else sequence_of(source.known)
        if ((source.items is not None or things is not None) and not source.taint & LIVE and len(items) > 1) or (
            len(items) == 1 and source.items is not None
        ):
            for item in items:
                entry = dict(frame.names)
                self.assign(node.target, item, frame)
                if self.block(node.body, frame):
                    _replace(frame, _both(entry, frame.names))
        elif items:

            def begin() -> None:
                for item in items:
                    self.assign(node.target, item, frame)

            self._rounds(node.body, frame, begin)
        self.block(node.orelse, frame)

    def do_with(self, node: ast.With, frame: Frame) -> bool:
        for each in node.items:
            value = self.evaluate(each.context_expr, frame)
            if each.optional_vars:
                self.assign(each.optional_vars, value, frame)
        return self.block(node.body, frame)

    def do_try(self, node: ast.Try, frame: Frame) -> bool:
        frame.depth += 1
        ends = self.block(node.body, frame)
        after = dict(frame.names)
        inside = NOTHING.union(*(taint for at, taint in self.taints.items() if _within(at, node, frame)))
        if node.handlers:
            self.alive("try", node, frame, inside, "goes on in another way when its body fails")
        for handler in node.handlers:
            self.block(handler.body, frame)
            _replace(frame, _both(after, frame.names))
        frame.depth -= 1
        self.block(node.orelse, frame)
        return self.block(node.finalbody, frame) or (ends and not node.handlers)

    def do_match(self, node: ast.Match, frame: Frame) -> None:
        subject = self.evaluate(node.subject, frame)
        self.test(node.subject, tainted(subject.deep), frame, "match")
        before = dict(frame.names)
        frame.depth += 1
        for case in node.cases:
            entry = dict(before)
            entry.update(
                {
                    each.name: merged(subject)
                    for each in ast.walk(case.pattern)
                    if isinstance(each, ast.MatchAs) and each.name
                }
            )
            kept, frame.names = frame.names, entry
            if case.guard:
                self.ask(case.guard, frame, "match")
            self.block(case.body, frame)
            _replace(frame, _both(kept, frame.names))
        frame.depth -= 1


def _both(one: Mapping[str, Value], other: Mapping[str, Value]) -> dict[str, Value]:
    return {
        name: joined(one[name], other[name]) if name in one and name in other else (one.get(name) or other[name])
        for name in {**one, **other}
    }


def _replace(frame: Frame, names: Mapping[str, Value]) -> None:
    frame.names = dict(names)


def _within(at: tuple[str, int, int, int, int], node: ast.Try, frame: Frame) -> bool:
    last = node.body[-1].end_lineno or node.lineno
    return at[0] == frame.file and node.lineno <= at[1] <= last
