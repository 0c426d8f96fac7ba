"""Walks functions and their plain statements, from forward() through all that it calls."""

import ast
import builtins
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.inside.verdict.findings import finding
from pipeline.inside.verdict.flow import Flow
from pipeline.inside.verdict.recording import Frame
from pipeline.inside.verdict.rules import FIXES
from pipeline.inside.verdict.things import Local, is_tensor
from pipeline.inside.verdict.values import (
    CONSTANT,
    MEMORY,
    Value,
    container,
    content,
    joined,
    known,
    merged,
)

# Nothing that a person writes is larger; what is generated is not looked through to its end.
MOST_FUNCTIONS = 20_000


class Walker(Flow):
    """Follows forward() through all that it calls."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._results: dict[tuple[object, ...], Value] = {}
        self._running: set[tuple[object, ...]] = set()
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


def _closure(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found
