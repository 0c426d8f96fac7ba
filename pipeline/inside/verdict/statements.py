"""Walks statements and functions: both sides of what can go either way, and one side of what a constant decides."""

import ast
import builtins
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.inside.verdict.calls import Calls
from pipeline.inside.verdict.findings import finding
from pipeline.inside.verdict.recording import Frame
from pipeline.inside.verdict.rules import FIXES
from pipeline.inside.verdict.sources import is_open
from pipeline.inside.verdict.things import Local, is_tensor, sequence_of
from pipeline.inside.verdict.values import (
    CONSTANT,
    LIVE,
    MEMORY,
    NOTHING,
    STATE,
    VALUE,
    Value,
    container,
    content,
    joined,
    known,
    merged,
    tainted,
)

# Nothing that a person writes is larger; what is generated is not looked through to its end.
MOST_FUNCTIONS = 20_000


class Walker(Calls):
    """Follows forward() through all that it calls."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._results: dict[tuple[object, ...], Value] = {}
        self._running: set[tuple[object, ...]] = set()
        # The names that a frame declares global or nonlocal.
        self._globals: dict[int, set[str]] = {}
        self._outer: dict[int, set[str]] = {}
        # Objects are told apart by their ids, so none may go while the walk lasts.
        self._kept: list[object] = []

    def report(self, rule: str, level: str, says: str, function: types.FunctionType) -> None:
        """Writes down a finding about a function."""
        code = function.__code__
        where = self.sources.where(code.co_filename, code.co_firstlineno)
        message = f"`{function.__name__}` {says}" if not says.startswith(function.__qualname__) else says
        self.findings.setdefault((rule, where, says), finding(rule, level, where, message, FIXES[rule]))

    def run(self, function: types.FunctionType, args: Sequence[Value], named: Mapping[str, Value], owner: Any) -> Value:
        """What a Python function returns for these arguments."""
        code = function.__code__
        key = (
            code,
            id(owner),
            *(each.signature for each in args),
            *((name, each.signature) for name, each in named.items()),
        )
        if key in self._results:
            return self._results[key]
        everything = merged(*args, *named.values())
        if key in self._running or len(self._running) > 100 or len(self._results) > MOST_FUNCTIONS:
            return everything
        node = self.sources.function(code)
        self.codes.add(code)
        if node is None:
            self.report("unread-code", "warning", "has no source to look into", function)
            return everything
        space = function.__globals__
        outside = ChainMap(_closure(function), space, vars(builtins))
        frame = Frame(file=code.co_filename, names={}, outside=outside, owner=owner, returns=[], space=id(space))
        defaults = [self.object(each) for each in function.__defaults__ or ()]
        keyword = {name: self.object(each) for name, each in (function.__kwdefaults__ or {}).items()}
        self._bind(node.args, args, named, frame, (defaults, keyword))
        self._running.add(key)
        try:
            result = self._body(node, frame)
        finally:
            self._running.discard(key)
        self._results[key] = result
        return result

    def run_local(self, local: Local, args: Sequence[Value], named: Mapping[str, Value]) -> Value:
        """What a function that was defined in forward() returns."""
        node, around = local.node, local.frame
        key = (node, *(each.signature for each in args))
        if key in self._running or len(self._running) > 100:
            return merged(*args, *named.values())
        self._kept.append(local)
        frame = around.inner(depth=0)
        defaults = [self.evaluate(each, around) for each in node.args.defaults]
        words = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        keyword = {argument.arg: self.evaluate(each, around) for argument, each in words if each}
        self._bind(node.args, args, named, frame, (defaults, keyword))
        self._running.add(key)
        try:
            return self._body(node, frame)
        finally:
            self._running.discard(key)

    def _bind(
        self,
        declared: ast.arguments,
        args: Sequence[Value],
        named: Mapping[str, Value],
        frame: Frame,
        defaults: tuple[list[Value], dict[str, Value]],
    ) -> None:
        names = [each.arg for each in (*declared.posonlyargs, *declared.args)]
        frame.names.update(zip(reversed(names), reversed(defaults[0]), strict=False))
        frame.names.update(defaults[1])
        frame.names.update(zip(names, args, strict=False))
        spread = named.get("**")
        for name in (*names, *(each.arg for each in declared.kwonlyargs)):
            frame.names[name] = named.get(name, frame.names.get(name, content(spread) if spread else CONSTANT))
        if declared.vararg:
            frame.names[declared.vararg.arg] = container(args[len(names) :])
        if declared.kwarg:
            rest = tuple(value for name, value in named.items() if name not in names)
            frame.names[declared.kwarg.arg] = Value(element=content(Value(items=rest)) if rest else CONSTANT)

    def _body(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, frame: Frame) -> Value:
        if isinstance(node, ast.Lambda):
            return self.evaluate(node.body, frame)
        self.block(node.body, frame)
        if not frame.returns:
            return known(None)
        result, *others = frame.returns
        for each in others:
            result = joined(result, each)
        return result

    def block(self, statements: Sequence[ast.stmt], frame: Frame) -> bool:
        """Walks statements. Returns whether what follows them is never reached."""
        for each in statements:
            handler: Callable[[Any, Frame], bool | None] | None = getattr(
                self, f"do_{type(each).__name__.lower()}", None
            )
            if handler is not None and handler(each, frame):
                return True
        return False

    def do_expr(self, node: ast.Expr, frame: Frame) -> None:
        self.evaluate(node.value, frame)

    def do_return(self, node: ast.Return, frame: Frame) -> bool:
        frame.returns.append(self.evaluate(node.value, frame) if node.value else known(None))
        return True

    def do_raise(self, node: ast.Raise, frame: Frame) -> bool:
        frame.quiet += 1
        self.evaluate(node.exc, frame)
        frame.quiet -= 1
        return True

    def do_break(self, node: ast.Break, frame: Frame) -> bool:
        return True

    do_continue = do_break

    def do_assert(self, node: ast.Assert, frame: Frame) -> None:
        self.ask(node.test, frame, "assert")
        frame.quiet += 1
        self.evaluate(node.msg, frame)
        frame.quiet -= 1

    def do_assign(self, node: ast.Assign, frame: Frame) -> None:
        value = self.evaluate(node.value, frame)
        for target in node.targets:
            self.assign(target, value, frame)

    def do_annassign(self, node: ast.AnnAssign, frame: Frame) -> None:
        if node.value:
            self.assign(node.target, self.evaluate(node.value, frame), frame)

    def do_augassign(self, node: ast.AugAssign, frame: Frame) -> None:
        read = ast.copy_location(ast.BinOp(left=node.target, op=node.op, right=node.value), node)
        before = self.evaluate(node.target, frame)
        value = self.on_binop(read, frame)
        if is_tensor(before.known) or isinstance(before.known, list | dict | set):
            self.changes_thing(before.known, MEMORY, node, frame)
        self.assign(
            node.target,
            Value(taint=value.taint, known=value.known, items=value.items, element=value.element),
            frame,
            again=True,
        )

    def do_functiondef(self, node: ast.FunctionDef, frame: Frame) -> None:
        frame.names[node.name] = known(Local(node, frame))

    def do_import(self, node: ast.Import, frame: Frame) -> None:
        for each in node.names:
            name = each.name if each.asname else each.name.split(".")[0]
            frame.names[each.asname or name] = known(sys.modules[name]) if name in sys.modules else CONSTANT

    def do_importfrom(self, node: ast.ImportFrom, frame: Frame) -> None:
        module = sys.modules.get(node.module or "")
        for each in node.names:
            frame.names[each.asname or each.name] = (
                known(getattr(module, each.name)) if hasattr(module, each.name) else CONSTANT
            )

    def do_global(self, node: ast.Global, frame: Frame) -> None:
        self._globals.setdefault(id(frame), set()).update(node.names)
        self._kept.append(frame)

    def do_nonlocal(self, node: ast.Nonlocal, frame: Frame) -> None:
        self._outer.setdefault(id(frame), set()).update(node.names)
        self._kept.append(frame)

    def do_delete(self, node: ast.Delete, frame: Frame) -> None:
        for target in node.targets:
            if isinstance(target, ast.Subscript | ast.Attribute):
                base = self.evaluate(target.value, frame)
                if base.is_known:
                    self.changes_thing(base.known, MEMORY, node, frame)

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
            how = MEMORY if again or value.deep & {STATE, MEMORY} else STATE
            self.changes_thing(base.known, how, target, frame)
            return
        self.rebind(target.value, Value(taint=value.deep | index.deep) if not python else value, frame)


def truth_of(value: Value) -> bool | None:
    return bool(value.known) if isinstance(value.known, bool) else None


def _closure(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


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
