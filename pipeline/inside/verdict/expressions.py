"""Walks expressions: what each depends on, and where the inputs decide what Python does."""

import ast
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from pipeline.inside.verdict.folding import SIMPLE, folded, truth
from pipeline.inside.verdict.looping import Looping
from pipeline.inside.verdict.recording import Frame
from pipeline.inside.verdict.rules import FIXED, RANKS, SIZES
from pipeline.inside.verdict.things import Local, is_data, is_tensor, sequence_of
from pipeline.inside.verdict.values import (
    CONSTANT,
    LIVE,
    MEMORY,
    NOTHING,
    NUMBER,
    RANK,
    SHAPE,
    STATE,
    Value,
    container,
    content,
    joined,
    known,
    merged,
    tainted,
)

# A whole number taken out of a tensor, times one of more bits than this, can pass 64 bits.
_WIDE = 31
_SAYS = frozenset({"warn", "warning", "info", "debug", "error", "exception", "log", "critical"})


def _only_says(called: ast.expr) -> bool:
    """Whether it is print(), or a message to warnings or a logger."""
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        return called.attr in _SAYS and called.value.id.strip("_").lower() in {"warnings", "logging", "logger", "log"}
    return isinstance(called, ast.Name) and called.id == "print"


class Expressions(Looping):
    """One method for each kind of expression, named after it."""

    def call(
        self, callee: Value, args: Sequence[Value], named: Mapping[str, Value], node: ast.expr, frame: Frame
    ) -> Value:
        raise NotImplementedError

    def method(
        self, base: Value, args: Sequence[Value], named: Mapping[str, Value], node: ast.Call, frame: Frame
    ) -> Value:
        raise NotImplementedError

    def evaluate(self, node: ast.expr | None, frame: Frame) -> Value:
        """What is known of an expression's value."""
        if node is None:
            return CONSTANT
        handler = getattr(self, f"on_{type(node).__name__.lower()}", self.on_other)
        return self.seen(node, handler(node, frame), frame)

    def ask(self, node: ast.expr, frame: Frame, construct: str) -> bool | None:
        """Walks a condition. Returns how it turns out every time, or None when it can be either."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.ask(node.operand, frame, construct)
            return None if inner is None else not inner
        if isinstance(node, ast.BoolOp):
            decisive = isinstance(node.op, ast.Or)
            answers = []
            for operand in node.values:
                answers.append(self.ask(operand, frame, construct))
                if answers[-1] is decisive:
                    break
            if answers[-1] is decisive and len(answers) <= 1:
                return decisive
            return None if None in answers else answers[-1]
        value = self.evaluate(node, frame)
        self.test(node, value, frame, construct)
        return truth(value)

    def on_other(self, node: ast.expr, frame: Frame) -> Value:
        inner = [self.evaluate(each, frame) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]
        return merged(*inner)

    def on_constant(self, node: ast.Constant, frame: Frame) -> Value:
        return known(node.value)

    def on_name(self, node: ast.Name, frame: Frame) -> Value:
        here: Frame | None = frame
        while here is not None:
            if node.id in here.names:
                return here.names[node.id]
            if here.around is None and node.id in here.outside:
                if node.id in self.sources.changed_globals(here.file) and is_data(here.outside[node.id]):
                    self.note(
                        "state", "warning", node, frame, f"reads the global `{node.id}`, which other code changes"
                    )
                    return Value(known=here.outside[node.id], taint=frozenset({MEMORY}))
                key = (here.space, node.id)
                return tainted({self.changed[key]}) if key in self.changed else self.object(here.outside[node.id])
            here = here.around
        return CONSTANT

    def object(self, thing: object) -> Value:
        """A thing at hand, which forward() may have changed."""
        how = MEMORY if thing is os.environ else self.changed.get((id(thing), ""))
        return Value(known=thing, taint=frozenset({how}) if how else NOTHING)

    def on_attribute(self, node: ast.Attribute, frame: Frame) -> Value:
        return self.attribute(self.evaluate(node.value, frame), node.attr, node, frame)

    def attribute(self, base: Value, name: str, node: ast.expr, frame: Frame) -> Value:
        """What `base.name` is. For an input's tensor, sizes are known where they are declared."""
        if base.is_known:
            return self.attribute_of(base, name, node, frame)
        if name in FIXED:
            return CONSTANT
        if name in RANKS:
            rank = known(len(base.dims)) if base.dims is not None else CONSTANT
            return tainted({SHAPE}) if RANK in base.taint else rank
        if name in SIZES:
            return self.sizes(base)
        return merged(base)

    def sizes(self, base: Value) -> Value:
        """The shape of a tensor."""
        if base.dims is not None:
            return Value(items=tuple(tainted({SHAPE}) if size is None else known(size) for size in base.dims))
        if not base.deep & LIVE:
            return CONSTANT
        element = tainted({SHAPE} | (base.deep & {STATE, MEMORY}))
        return Value(element=element, taint=element.taint if RANK in base.taint else NOTHING)

    def attribute_of(self, base: Value, name: str, node: ast.expr, frame: Frame) -> Value:
        thing, key = base.known, (id(base.known), name)
        if key in self.stores:
            return self.stores[key]
        if key in self.changed:
            return tainted({self.changed[key]})
        static = inspect.getattr_static(type(thing), name, None)
        if isinstance(static, property) and static.fget and not is_tensor(thing):
            return self.call(known(static.fget), [base], {}, node, frame)
        try:
            found = self.object(getattr(thing, name))
        except (AttributeError, RuntimeError, TypeError):
            return CONSTANT
        return Value(known=found.known, taint=found.taint | base.taint)

    def on_subscript(self, node: ast.Subscript, frame: Frame) -> Value:
        base, index = self.evaluate(node.value, frame), self.evaluate(node.slice, frame)
        things = None if is_tensor(base.known) else sequence_of(base.known)
        python = base.is_container or things is not None
        if python and index.deep & LIVE:
            self.alive("lookup", node, frame, index.deep, "looks up what the inputs choose")
        if base.is_container:
            return self._element(base, index)
        if things is not None:
            try:
                found = self.object(base.known[index.known])
                return replace(found, taint=found.taint | base.taint)
            except (KeyError, IndexError, TypeError, NotImplementedError):
                inside = base.known.values() if hasattr(base.known, "values") else things
                chosen = container(self.object(each) for each in inside)
                return Value(taint=base.taint | index.deep, element=content(chosen), items=chosen.items)
        return merged(base, index)

    def _element(self, base: Value, index: Value) -> Value:
        at = index.known
        if base.items is not None and isinstance(at, int | slice):
            try:
                picked = base.items[at]
            except IndexError:
                return CONSTANT
            return picked if isinstance(picked, Value) else Value(items=picked, taint=base.taint)
        whole = content(base)
        return Value(
            taint=whole.taint | index.deep | base.taint, known=whole.known, items=whole.items, element=whole.element
        )

    def on_slice(self, node: ast.Slice, frame: Frame) -> Value:
        parts = [self.evaluate(each, frame) if each else known(None) for each in (node.lower, node.upper, node.step)]
        if all(each.known is None or isinstance(each.known, int) for each in parts):
            return known(slice(*(each.known for each in parts)))
        return merged(*parts)

    def on_binop(self, node: ast.BinOp, frame: Frame) -> Value:
        left, right = self.evaluate(node.left, frame), self.evaluate(node.right, frame)
        if isinstance(node.op, ast.Mod) and isinstance(left.known, str) and right.deep & LIVE:
            self.alive("python-text", node, frame, right.deep, "writes a text that the inputs decide")
        done = folded(type(node.op), left, right)
        if done is not None:
            return done
        if isinstance(node.op, ast.Mult | ast.Pow | ast.LShift) and NUMBER in left.taint | right.taint:
            bits = [each.known.bit_length() for each in (left, right) if isinstance(each.known, int)]
            if not isinstance(node.op, ast.Mult) or any(each > _WIDE for each in bits):
                self.note("wide-number", "warning", node, frame, "can go beyond 64 bits")
        if isinstance(node.op, ast.Add) and left.is_container and right.is_container:
            if left.items is not None and right.items is not None:
                return container((*left.items, *right.items), left.taint | right.taint)
            return Value(taint=left.taint | right.taint, element=joined(content(left), content(right)))
        if isinstance(node.op, ast.Mult) and left.is_container != right.is_container:
            many, times = (left, right) if left.is_container else (right, left)
            if not tainted(times.taint).taint or many.items is not None:
                return Value(taint=many.taint | times.taint, element=content(many))
        return merged(left, right)

    def on_unaryop(self, node: ast.UnaryOp, frame: Frame) -> Value:
        if isinstance(node.op, ast.Not):
            answer = self.ask(node.operand, frame, "not")
            return CONSTANT if answer is None else known(answer)
        value = self.evaluate(node.operand, frame)
        if isinstance(node.op, ast.USub) and isinstance(value.known, int | float) and not value.taint:
            return known(-value.known)
        return merged(value)

    def on_boolop(self, node: ast.BoolOp, frame: Frame) -> Value:
        decisive = isinstance(node.op, ast.Or)
        result: Value | None = None
        for operand in node.values:
            value = self.evaluate(operand, frame)
            result = value if result is None else joined(result, value)
            if operand is not node.values[-1]:
                self.test(operand, value, frame, "or" if decisive else "and")
            answer = truth(value)
            if answer is decisive:
                return value if operand is node.values[0] else result
            if answer is (not decisive) and operand is not node.values[-1]:
                result = None
        return result or CONSTANT

    def _never_drawn(self, node: ast.Compare, frame: Frame) -> bool:
        """Whether it is `random.random() < share` for a share of zero: chance is asked, and has no say."""
        drawn = node.left
        if not isinstance(drawn, ast.Call) or len(node.ops) != 1 or not isinstance(node.ops[0], ast.Lt):
            return False
        share = self.evaluate(node.comparators[0], frame)
        asked = self.evaluate(drawn.func, frame).known
        nothing = isinstance(share.known, int | float) and not share.taint and share.known <= 0
        return (
            nothing
            and getattr(asked, "__name__", "") == "random"
            and isinstance(getattr(asked, "__self__", None), Random)
        )

    def on_compare(self, node: ast.Compare, frame: Frame) -> Value:
        if self._never_drawn(node, frame):
            return known(False)
        values = [self.evaluate(each, frame) for each in (node.left, *node.comparators)]
        if len(node.ops) == 1:
            done = folded(type(node.ops[0]), *values)
            if done is not None:
                return done
        result = merged(*values)
        if len(node.ops) > 1:
            self.test(node, result, frame, "chained comparison")
        return result

    def on_ifexp(self, node: ast.IfExp, frame: Frame) -> Value:
        answer = self.ask(node.test, frame, "conditional expression")
        if answer is not None:
            return self.evaluate(node.body if answer else node.orelse, frame)
        return joined(self.evaluate(node.body, frame), self.evaluate(node.orelse, frame))

    def on_tuple(self, node: ast.Tuple | ast.List | ast.Set, frame: Frame) -> Value:
        items: list[Value] = []
        taint: frozenset[str] = NOTHING
        for each in node.elts:
            value = self.evaluate(each.value if isinstance(each, ast.Starred) else each, frame)
            if not isinstance(each, ast.Starred):
                items.append(value)
            elif value.items is not None:
                items += value.items
            else:
                items.append(content(value))
                taint |= value.taint
        plain = items and all(isinstance(each.known, SIMPLE) and not each.taint for each in items)
        if plain and isinstance(node, ast.Tuple):
            return known(tuple(each.known for each in items))
        return container(items, taint)

    on_list = on_tuple
    on_set = on_tuple

    def on_dict(self, node: ast.Dict, frame: Frame) -> Value:
        keys = [self.evaluate(each, frame) for each in node.keys if each]
        values = [self.evaluate(each, frame) for each in node.values]
        taint = merged(*keys).taint if keys else NOTHING
        if taint & LIVE:
            self.alive("lookup", node, frame, taint, "has keys that the inputs choose")
        element = content(Value(items=tuple(values)))
        return Value(taint=taint, element=element if values else CONSTANT)

    def on_joinedstr(self, node: ast.JoinedStr, frame: Frame) -> Value:
        return merged(*(self.evaluate(each, frame) for each in node.values))

    def on_formattedvalue(self, node: ast.FormattedValue, frame: Frame) -> Value:
        value = self.evaluate(node.value, frame)
        self.alive("python-text", node.value, frame, value.deep, "writes a text that the inputs decide")
        return merged(value)

    def on_lambda(self, node: ast.Lambda, frame: Frame) -> Value:
        return known(Local(node, frame))

    def on_namedexpr(self, node: ast.NamedExpr, frame: Frame) -> Value:
        value = self.evaluate(node.value, frame)
        self.assign(node.target, value, frame)
        return value

    def on_call(self, node: ast.Call, frame: Frame) -> Value:
        if (
            isinstance(node.func, ast.Name)
            and node.func.id == "super"
            and not node.args
            and "__class__" in frame.outside
        ):
            try:
                return known(super(frame.outside["__class__"], frame.owner))
            except TypeError:
                return CONSTANT
        # A message's words are not part of the answer.
        silent = _only_says(node.func)
        frame.quiet += silent
        try:
            base = self.evaluate(node.func.value, frame) if isinstance(node.func, ast.Attribute) else None
            args, named = self._arguments(node, frame)
            if base is not None:
                return self.method(base, args, named, node, frame)
            return self.call(self.evaluate(node.func, frame), args, named, node, frame)
        finally:
            frame.quiet -= silent

    def _arguments(self, node: ast.Call, frame: Frame) -> tuple[list[Value], dict[str, Value]]:
        args: list[Value] = []
        asserts = isinstance(node.func, ast.Attribute) and node.func.attr == "_assert"
        for at, each in enumerate(node.args):
            frame.quiet += asserts and at > 0
            value = self.evaluate(each.value if isinstance(each, ast.Starred) else each, frame)
            frame.quiet -= asserts and at > 0
            if not isinstance(each, ast.Starred):
                args.append(value)
            else:
                things = sequence_of(value.known)
                args += value.items or (
                    [self.object(item) for item in things] if things is not None else [content(value)]
                )
        return args, {each.arg or "**": self.evaluate(each.value, frame) for each in node.keywords}
