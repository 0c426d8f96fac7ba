"""Finds the operators that TorchScript's serialised Python calls, line by line and without running it.

The printer (torch/csrc/jit/serialization/python_print.cpp) writes one statement a line and spells an operator
`torch.NAME` for aten and `ops.NAMESPACE.NAME` for all others. Casts, subscripts, `annotate`, `unchecked_cast`,
`uninitialized`, `isinstance`, `fork` and the like are forms of the language that every runtime has.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# A longer line is a huge literal: parsing it as Python would cost a hundred times its size in memory.
_LONGEST = 64 * 1024
# Possessive, and content with a string that does not end: the time stays in proportion to the line.
_STRING = re.compile("|".join(rf"{q}[^{q}\\]*+(?:\\.[^{q}\\]*+)*+(?:{q}|\\?\Z)" for q in "\"'"))
_SPELLED = re.compile(r"(?<![\w.])(?:torch|ops)(?:\.\w++){1,3}(?=\()")
# A function gets a local name first: `_0 = __torch__.torch.nn.functional.dropout`.
_FUNCTIONAL = "__torch__.torch.nn.functional."
_NAMED = re.compile(rf"\s+(\w++) = ({re.escape(_FUNCTIONAL)}[\w.]++)\Z")
_CALLED = re.compile(r"\w++(?=\()")
_CLASS = re.compile(r"(?<![\w.])__torch__\.torch\.classes\.(\w++\.\w++)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of model code: `path` in the archive, `number` from 1. `functions` are those with a local name in it."""

    path: str
    number: int
    text: str
    functions: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path}:{self.number}: {self.text.strip()[:160]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A call of `operator`: namespace::name, or torch.nn.functional.name for a function of torch's own Python code.

    `call` is None where Python's grammar cannot read the line.
    """

    operator: str
    line: Line
    call: ast.Call | None


def lines_of(path: str, source: bytes) -> Iterator[Line]:
    """The lines of a code file that can hold an operator, a function of torch's or a custom class."""
    functions: dict[str, str] = {}
    for number, text in enumerate(source.decode("utf-8", "replace").split("\n"), start=1):
        if text.lstrip().startswith("def "):
            functions = {}
        if named := _NAMED.match(text):
            functions[named[1]] = named[2]
        line = Line(path=path, number=number, text=text, functions=functions)
        if "torch" in text or "ops." in text or _calls_function(line):
            yield line


def uses_in(line: Line) -> Iterator[Use]:
    """Every operator, and every function of torch.nn.functional, that the line calls."""
    if not (_SPELLED.search(line.text) or _calls_function(line)):
        return
    tree = _parsed(line.text)
    if tree is None:
        for match in _SPELLED.finditer(_STRING.sub('""', line.text)):
            yield from _use(match.group().split("."), line, None)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts = _dotted(node.func)
            if len(parts) == 1 and parts[0] in line.functions:
                parts = line.functions[parts[0]].split(".")
            yield from _use(parts, line, node)


def classes_in(line: Line) -> Iterator[str]:
    """The custom classes (namespace.Name) that the line mentions."""
    yield from (match.group(1) for match in _CLASS.finditer(_STRING.sub('""', line.text)))


def _calls_function(line: Line) -> bool:
    if _FUNCTIONAL in line.text:
        return True
    return bool(line.functions) and not line.functions.keys().isdisjoint(_CALLED.findall(line.text))


def _use(parts: list[str], line: Line, call: ast.Call | None) -> Iterator[Use]:
    match parts:
        case ["torch", name] | ["torch", "autograd", name]:
            yield Use(operator=f"aten::{name}", line=line, call=call)
        case ["ops", space, name] | ["torch", space, name]:
            yield Use(operator=f"{space}::{name}", line=line, call=call)
        # A mangled name has one part more: functional.___torch_mangle_3.dropout.
        case ["__torch__", "torch", "nn", "functional", *_, name]:
            yield Use(operator=f"torch.nn.functional.{name}", line=line, call=call)


def _parsed(text: str) -> ast.Module | None:
    """The line as a statement of its own, or None where it is none: part of a signature, or not Python's grammar."""
    if len(text) > _LONGEST:
        return None
    statement = text.strip()
    if statement.endswith(":"):
        statement += " pass"
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(statement)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _dotted(node: ast.expr) -> list[str]:
    """`a.b.c` as its parts; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []
