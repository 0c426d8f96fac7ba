"""Reads operator schemas as torch prints them; the grammar is torch/csrc/jit/frontend/function_schema_parser.cpp's."""

import re
from collections.abc import Iterator
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
