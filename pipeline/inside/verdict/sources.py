"""Finds and names the source of code: which file a function stands in, its syntax tree, and how to show a line."""

import ast
import linecache
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import TypeAlias

from pipeline.inside.verdict.rules import NUMBERS, STRUCTURE

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_STANDARD = sysconfig.get_path("stdlib")
_PACKAGES = ("/site-packages/", "/dist-packages/")
_OURS = str(Path(__file__).resolve().parents[1])
# Their functions are known to the analysis by name, or compute outside of torch.
_CLOSED = ("torch", "numpy", "functorch")


def package(file: str) -> str:
    """The installed package that a file belongs to; `python` for Python's own, and empty for the model's."""
    for packages in _PACKAGES:
        if packages in file:
            return file.split(packages, 1)[1].split("/", 1)[0].removesuffix(".py")
    return "python" if file.startswith(("<", _STANDARD)) else ""


def is_open(file: str) -> bool:
    """Whether the analysis looks into a file: into the model's own, and those of packages built on torch."""
    return package(file) not in {*_CLOSED, "python"} and not file.startswith(_OURS)


class Sources:
    """The files that were read. Names are relative to `root`, the model's folder, and never absolute."""

    def __init__(self, root: str = "") -> None:
        self._root = Path(root) if root else None
        self._trees: dict[str, ast.Module | None] = {}
        self._changed: dict[str, frozenset[str]] = {}

    def name(self, file: str) -> str:
        """How a file is called in findings: the same on every machine."""
        for packages in _PACKAGES:
            if packages in file:
                return file.split(packages, 1)[1]
        path = Path(file)
        if self._root and path.is_relative_to(self._root):
            return path.relative_to(self._root).as_posix()
        return path.name

    def where(self, file: str, line: int) -> str:
        return f"{self.name(file)}:{line}"

    def line(self, file: str, line: int) -> str:
        """A line of code as it is quoted, without its indentation."""
        return linecache.getline(file, line).strip()

    def raw(self, file: str, line: int) -> str:
        """A line of code as it stands."""
        return linecache.getline(file, line).rstrip("\n")

    def tree(self, file: str) -> ast.Module | None:
        """The syntax tree of a file, or None without a readable source."""
        if file not in self._trees:
            try:
                self._trees[file] = ast.parse("".join(linecache.getlines(file))) if linecache.getlines(file) else None
            except SyntaxError:
                self._trees[file] = None
        return self._trees[file]

    def asked(self, file: str, line: int) -> Iterator[tuple[int, int, int, int]]:
        """Where Python asks for a truth value, a number or an element on a line: the places of what it asks."""
        tree = self.tree(file)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.expr | ast.stmt | ast.excepthandler) and node.lineno <= line <= (
                node.end_lineno or 0
            ):
                for each in _asked(node):
                    if each.lineno <= line <= (each.end_lineno or 0):
                        yield each.lineno, each.col_offset, each.end_lineno or 0, each.end_col_offset or 0

    def is_guard(self, file: str, line: int) -> bool:
        """Whether a line only refuses what is not legal: an assertion, or an `if` that raises."""
        tree = self.tree(file)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Assert | ast.Raise) and node.lineno <= line <= (node.end_lineno or 0):
                return True
            if isinstance(node, ast.If) and node.lineno <= line <= (node.test.end_lineno or 0):
                return not node.orelse and all(isinstance(each, ast.Raise | ast.Assert) for each in node.body)
        return False

    def changed_globals(self, file: str) -> frozenset[str]:
        """The global names that some function of a file rebinds, or whose content it changes."""
        if file not in self._changed:
            tree = self.tree(file)
            self._changed[file] = frozenset() if tree is None else frozenset(_changed(tree))
        return self._changed[file]

    def function(self, code: CodeType) -> Function | None:
        """The definition that a code object was compiled from, or None without its source."""
        tree = self.tree(code.co_filename)
        if tree is None:
            return None
        found = [node for node in _functions(tree) if _is(node, code)]
        if len(found) > 1:
            columns = {position[2] for position in code.co_positions() if position[0] is not None}
            found = [node for node in found if _columns(node) & {each for each in columns if each is not None}]
        return found[0] if found else None


def _asked(node: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.If() | ast.While() | ast.Assert() | ast.IfExp():
            if not isinstance(node.test, ast.BoolOp) and not _is_not(node.test):
                yield node.test
        case ast.For():
            yield node.iter
        case ast.BoolOp():
            yield from (each for each in node.values if not isinstance(each, ast.BoolOp) and not _is_not(each))
        case ast.UnaryOp(op=ast.Not()) if not isinstance(node.operand, ast.BoolOp) and not _is_not(node.operand):
            yield node.operand
        case ast.Compare() if len(node.ops) > 1:
            yield node
        case ast.FormattedValue():
            yield node.value
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            yield from (part for each in node.generators for part in (each.iter, *each.ifs))
        case ast.Call():
            yield from (each.value if isinstance(each, ast.Starred) else each for each in node.args)
            if isinstance(node.func, ast.Attribute) and node.func.attr in NUMBERS:
                yield node.func.value
        case ast.Subscript():
            yield node.slice


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _changed(tree: ast.Module) -> Iterator[str]:
    for function in _functions(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield from node.names
            elif isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
                yield from (each.id for each in [node.value] if isinstance(each, ast.Name))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STRUCTURE:
                yield from (each.id for each in [node.func.value] if isinstance(each, ast.Name))


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node


def _is(node: Function, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        names = tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args))
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno and _arguments(code) == names
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return node.name == code.co_name and first == code.co_firstlineno


def _arguments(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount]


def _columns(node: Function) -> set[int]:
    body = node.body if isinstance(node, ast.Lambda) else node
    return {each.col_offset for each in ast.walk(body) if isinstance(each, ast.expr)}
