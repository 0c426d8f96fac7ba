"""Says whether one operator can stand in for another, and whether it takes the arguments of a call.

The rules are those of `FunctionSchema::isBackwardCompatibleWith` and `tryMatchSchema`
(aten/src/ATen/core/function_schema.cpp, torch/csrc/jit/frontend/schema_matching.cpp).
"""

import ast
from collections.abc import Sequence

from pipeline.check.schema import Argument, Schema

_NUMBERS = frozenset({"int", "float", "complex"})


def breaks(old: Schema, new: Schema) -> str | None:
    """Why a call that was written for `old` may fail or mean something else with `new`; None if it cannot.

    What may be added is an argument with a default, behind the others or before the `out` ones.
    """
    if (old.open_arguments, old.open_returns) != (new.open_arguments, new.open_returns):
        return "it takes any number of values in one and not in the other"
    if len(new.returns) != len(old.returns):
        return f"it returns {len(new.returns)} values instead of {len(old.returns)}"
    if len(new.arguments) < len(old.arguments):
        gone = {argument.name for argument in old.arguments} - {argument.name for argument in new.arguments}
        return f"it lacks {', '.join(sorted(gone)) or 'an argument'}"
    pairs = zip(old.returns, new.returns, strict=True)
    reasons = [_changes(place, was, has) for place, (was, has) in enumerate(pairs)]
    before, now = _first_out(old.arguments), _first_out(new.arguments)
    if now < before:
        return "some of its arguments became `out` ones"
    kept = (
        *zip(old.arguments[:before], new.arguments, strict=False),
        *zip(old.arguments[before:], new.arguments[now:], strict=False),
    )
    reasons += [_replaces(was, has) for was, has in kept]
    reasons += [f"it asks for {added.name} as well" for added in new.arguments[before:now] if added.default is None]
    return next((reason for reason in reasons if reason), None)


def missing_defaults(old: Schema, new: Schema) -> tuple[str, ...]:
    """The arguments that `new` lacks and has no need of, if nothing else is different: they have defaults in `old`.

    Calls that leave them out mean the same with both: what a newer torch wrote, an older one then loads. Empty
    where there are other differences, or none.
    """
    if breaks(new, old):
        return ()
    present = {argument.name for argument in new.arguments}
    return tuple(argument.name for argument in old.arguments if argument.name not in present)


def takes(schema: Schema, positional: int, keywords: Sequence[str]) -> bool:
    """Whether a call with so many arguments by place and these by keyword can be a call of this operator."""
    if schema.open_arguments:
        return True
    by_place = [argument for argument in schema.arguments if not argument.keyword_only]
    # The last list may be spread: zeros(2, 3).
    spread = bool(by_place) and by_place[-1].type.endswith("]")
    if positional > len(by_place) and not spread:
        return False
    rest = {argument.name: argument for argument in schema.arguments}
    for argument in by_place[:positional]:
        rest.pop(argument.name, None)
    given = set(keywords)
    return given <= rest.keys() and all(
        argument.default is not None for name, argument in rest.items() if name not in given
    )


def _first_out(arguments: Sequence[Argument]) -> int:
    """The place of the first `out` argument, or behind the last argument."""
    return next((place for place, argument in enumerate(arguments) if argument.is_out), len(arguments))


def _replaces(was: Argument, has: Argument) -> str | None:
    """Why an argument cannot take the place of another."""
    if was.name != has.name:
        return f"{was.name} became {has.name}"
    if not _accepts(has.type, was.type):
        return f"{was.name} was {was.type} and is {has.type}"
    if was.alias != has.alias:
        return f"{was.name} was {_aliased(was)} and is {_aliased(has)}"
    if has.keyword_only and not was.keyword_only:
        return f"{was.name} is taken by keyword only"
    if was.default is not None and (has.default is None or _value(was.default) != _value(has.default)):
        return f"the default of {was.name} was {was.default} and is {has.default or 'gone'}"
    return None


def _changes(place: int, was: Argument, has: Argument) -> str | None:
    """Why a result cannot take the place of another."""
    name = f"result {was.name or place}"
    if was.name != has.name:
        return f"{name} became {has.name or 'nameless'}"
    if not _accepts(was.type, has.type):
        return f"{name} was {was.type} and is {has.type}"
    return None if was.alias == has.alias else f"{name} was {_aliased(was)} and is {_aliased(has)}"


def _accepts(wider: str, narrower: str) -> bool:
    """Whether a value of the type `narrower` can go where one of `wider` is taken."""
    if wider in {narrower, "Any"}:
        return True
    if wider.endswith("?"):
        return narrower == "NoneType" or _accepts(wider[:-1], narrower.removesuffix("?"))
    return wider == "Scalar" and narrower in _NUMBERS


def _aliased(argument: Argument) -> str:
    return f"{argument.type}{argument.alias}"


def _value(default: str) -> object:
    """A default as a value, so that `1e-05` and `0.00001` are one; as written where it is none of Python's."""
    try:
        return ast.literal_eval(default)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return default
