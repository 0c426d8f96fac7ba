"""What the static analysis knows of a Python value: whether the inputs decide it, and what it is otherwise."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# What a value can depend on. RANK marks tensors whose number of dimensions follows from their sizes (squeeze()).
# NUMBER marks Python numbers that were taken out of tensors.
VALUE, SHAPE, STATE, MEMORY, RANK, NUMBER = "value", "shape", "state", "memory", "rank", "number"
# Whatever depends on one of these is another one for the next request.
LIVE = frozenset({VALUE, SHAPE, STATE, MEMORY})
NOTHING: frozenset[str] = frozenset()
# More elements than this are looked at as one.
MOST_ITEMS = 64


class _Unknown:
    """Stands for an object that only a run would show."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Value:
    """`taint` is what the value itself depends on; that of a container is its length's, its content has its own.

    `known` is the object itself where forward() does not decide it, `items` are the elements of a container of known
    length, `element` stands for all of one whose length is not known but fixed, `dims` are the sizes of an input
    tensor (None: differs between requests).
    """

    taint: frozenset[str] = NOTHING
    known: Any = UNKNOWN
    items: tuple["Value", ...] | None = None
    element: "Value | None" = None
    dims: tuple[int | None, ...] | None = None

    @property
    def deep(self) -> frozenset[str]:
        """What the value or anything in it depends on."""
        inner = (*(self.items or ()), *((self.element,) if self.element else ()))
        return self.taint.union(*(each.deep for each in inner))

    @property
    def is_known(self) -> bool:
        return self.known is not UNKNOWN

    @property
    def is_container(self) -> bool:
        return self.items is not None or self.element is not None

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for values that a function cannot tell apart."""
        known = id(self.known) if self.is_known else None
        items = None if self.items is None else tuple(each.signature for each in self.items)
        return (self.taint, known, items, self.element and self.element.signature, self.dims)


CONSTANT = Value()


def known(thing: object) -> Value:
    """A value that the inputs do not decide and that is at hand."""
    return Value(known=thing)


def tainted(taint: Iterable[str]) -> Value:
    """A value of which no more is known than what it depends on."""
    return Value(taint=frozenset(taint))


def merged(*values: Value) -> Value:
    """What is computed from all of the values: depends on whatever one of them or its content depends on."""
    return Value(taint=NOTHING.union(*(each.deep for each in values)))


def joined(one: Value, other: Value) -> Value:
    """What is one value or the other."""
    if one.signature == other.signature:
        return one
    taint = one.taint | other.taint
    if one.items is not None and other.items is not None and len(one.items) == len(other.items):
        return Value(taint=taint, items=tuple(joined(a, b) for a, b in zip(one.items, other.items, strict=True)))
    if one.is_container or other.is_container:
        return Value(taint=taint, element=joined(content(one), content(other)))
    return Value(taint=taint, dims=one.dims if one.dims == other.dims else None)


def content(value: Value) -> Value:
    """One value that stands for every element of a container."""
    elements = [*(value.items or ()), *((value.element,) if value.element else ())]
    if not value.is_container:
        return tainted(value.taint)
    result = elements[0] if elements else CONSTANT
    for each in elements[1:]:
        result = joined(result, each)
    return result


def container(items: Iterable[Value], taint: frozenset[str] = NOTHING) -> Value:
    """A list, tuple, set or dict with these elements."""
    kept = tuple(items)
    if len(kept) > MOST_ITEMS:
        return Value(taint=taint, element=content(Value(items=kept)))
    return Value(taint=taint, items=kept)
