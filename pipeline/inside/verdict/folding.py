"""What Python makes of plain constants: the conditions that every request decides alike."""

import ast
import operator
from collections.abc import Callable
from typing import Any

from pipeline.inside.verdict.values import (
    CONSTANT,
    LIVE,
    MEMORY,
    STATE,
    Value,
    known,
    tainted,
)

SIMPLE = (bool, int, float, str, bytes, type(None), tuple)
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}


def truth(value: Value) -> bool | None:
    """What `if value:` does every time, or None when that is not known."""
    if value.taint & LIVE:
        return None
    if value.items is not None:
        return bool(value.items)
    if isinstance(value.known, (*SIMPLE, list, dict, set)):
        return bool(value.known)
    return True if callable(value.known) and not hasattr(type(value.known), "__len__") else None


def _identical(one: Value, other: Value) -> Value:
    """What `is` answers: known where None is asked for, and open where forward() changes what it asks about."""
    left_behind = (one.taint | other.taint) & {STATE, MEMORY}
    if left_behind:
        return tainted(left_behind)
    rest = [each for each in (one, other) if each.known is not None]
    if len(rest) == 1 and (rest[0].is_known or rest[0].dims is not None):
        return known(False)
    return known(True) if not rest else CONSTANT


def _other_than(answer: Value) -> Value:
    return known(not answer.known) if answer.is_known else answer


def folded(kind: type, one: Value, other: Value) -> Value | None:
    """The result of an operator on plain constants, or None."""
    both = (one, other)
    if kind in {ast.Is, ast.IsNot}:
        return _identical(one, other) if kind is ast.Is else _other_than(_identical(one, other))
    if kind not in _OPERATORS or any(each.taint & LIVE or not isinstance(each.known, SIMPLE) for each in both):
        return None
    try:
        result = _OPERATORS[kind](one.known, other.known)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return known(result) if not isinstance(result, str | tuple) or len(result) < 1000 else CONSTANT
