"""Reads operator schemas as torch prints them, and says whether one operator can stand in for another.

The grammar is that of torch/csrc/jit/frontend/function_schema_parser.cpp, the rules those of
`FunctionSchema::isBackwardCompatibleWith` and `tryMatchSchema` (aten/src/ATen/core/function_schema.cpp,
torch/csrc/jit/frontend/schema_matching.cpp).
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

# Longer than any that torch has; one in a contract from elsewhere must not cost more than it is worth.
_LONGEST = 4096
_NAME = re.compile(r"\w++(?:::\w++)*+(?:\.\w++)?+")
# `(a!)`, `(a -> *)` or `(b|a)` behind a type; `Future(t)` is a type.
_ALIAS = re.compile(r"(?<!Future)(?<!RRef)(?<!Await)\([a-z*!|]++(?: -> [a-z*!|]++)?\)")
_NAMED = re.compile(r"(.+) (\w+)")
# What TorchScript does not tell apart: symbolic numbers are numbers, and enumerations of torch's are ints.
_SAME = {
    "SymInt": "int",
    "SymFloat": "float",
    "SymBool": "bool",
    **dict.fromkeys(("ScalarType", "Layout", "MemoryFormat", "QScheme"), "int"),
}
_NUMBERS = frozenset({"int", "float", "complex"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An argument or a result. `alias` is its annotation, like `(a!)`; `default` as written, None without one."""

    type: str
    name: str
    default: str | None
    alias: str
    keyword_only: bool

    @property
    def is_out(self) -> bool:
        """Whether it is written to and by keyword only: `out`."""
        return self.keyword_only and "!" in self.alias


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """An operator's overload. `name` is `namespace::name` with `.overload` unless that is empty.

    `open_arguments` and `open_returns` tell of `...`: any number more.
    """

    name: str
    arguments: tuple[Argument, ...]
    returns: tuple[Argument, ...]
    open_arguments: bool
    open_returns: bool


@lru_cache(maxsize=2048)
def parse(text: str) -> Schema:
    """`aten::relu(Tensor self) -> Tensor` as a value.

    Raises:
        ValueError: it is no schema; the message quotes it.
    """
    name = _NAME.match(text) if len(text) <= _LONGEST else None
    if name is None:
        raise ValueError(f"no operator schema: {text[:200]!r}")
    try:
        inside, rest = _enclosed(text[name.end() :])
        arrow, _, result = rest.partition("-> ")
        if arrow.strip() or not result:
            raise ValueError("it has no result")
        if result.startswith("("):
            result, rest = _enclosed(result)
            if rest:
                raise ValueError(f"something follows the result: {rest[:50]}")
        arguments, open_arguments = _arguments(inside)
        returns, open_returns = _arguments(result)
    except ValueError as error:
        raise ValueError(f"no operator schema ({error}): {text[:200]!r}") from error
    return Schema(
        name=name.group(),
        arguments=arguments,
        returns=returns,
        open_arguments=open_arguments,
        open_returns=open_returns,
    )


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


def _enclosed(text: str) -> tuple[str, str]:
    """What the parenthesis at the start holds, and what follows it."""
    depth = 0
    for place, character in _outside_strings(text):
        if place == 0 and character != "(":
            break
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return text[1:place], text[place + 1 :].lstrip(" ")
    raise ValueError("its parentheses do not match")


def _outside_strings(text: str) -> Iterator[tuple[int, str]]:
    """The characters of `text` that are not in a string, each with its place."""
    quoted = escaped = False
    for place, character in enumerate(text):
        if quoted:
            quoted, escaped = escaped or character != '"', character == "\\" and not escaped
        elif character == '"':
            quoted = True
        else:
            yield place, character


def _arguments(text: str) -> tuple[tuple[Argument, ...], bool]:
    """The arguments in a list, and whether it ends in `...`."""
    found: list[Argument] = []
    keyword_only = False
    for part in _parts(text):
        if part == "*":
            keyword_only = True
        elif part != "...":
            found.append(_argument(part, keyword_only))
    return tuple(found), text.endswith("...")


def _parts(text: str) -> Iterator[str]:
    """The text cut at the commas that are in no bracket and no string."""
    depth = start = 0
    for place, character in _outside_strings(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if depth < 0:
            break
        if character == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    if depth:
        raise ValueError("its brackets do not match")
    if text[start:].strip():
        yield text[start:].strip()


def _argument(text: str, keyword_only: bool) -> Argument:
    head, has_default, default = text.partition("=")
    plain = _ALIAS.sub("", head).strip()
    named = _NAMED.fullmatch(plain)
    kind, name = (named[1], named[2]) if named else (plain, "")
    if not kind:
        raise ValueError(f"{text[:50]!r} is no argument")
    return Argument(
        type=re.sub(r"\w+", lambda word: _SAME.get(word.group(), word.group()), kind),
        name=name,
        default=default if has_default else None,
        alias="".join(_ALIAS.findall(head)),
        keyword_only=keyword_only,
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
