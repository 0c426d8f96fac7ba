"""Walks what goes through elements: loops see them, comprehensions are them."""

import ast
from collections.abc import Callable

from pipeline.inside.verdict.recording import Frame, Recorder
from pipeline.inside.verdict.things import is_tensor, sequence_of
from pipeline.inside.verdict.values import (
    CONSTANT,
    LIVE,
    NOTHING,
    Value,
    container,
    content,
    tainted,
)


class Looping(Recorder):
    """The elements of a value, as far as they are known."""

    def evaluate(self, node: ast.expr | None, frame: Frame) -> Value:
        raise NotImplementedError

    def ask(self, node: ast.expr, frame: Frame, construct: str) -> bool | None:
        raise NotImplementedError

    def assign(self, target: ast.expr, value: Value, frame: Frame) -> None:
        raise NotImplementedError

    def object(self, thing: object) -> Value:
        raise NotImplementedError

    def iterated(self, node: ast.expr, value: Value, frame: Frame) -> list[Value]:
        """The elements that a loop over the value sees, one standing for many where they are too many."""
        self.loop(node, value.taint, frame) if value.dims is None or value.dims[:1] == (None,) else None
        things = None if is_tensor(value.known) else sequence_of(value.known)
        if value.items is not None:
            return list(value.items)
        if value.element is not None:
            return [value.element]
        if things is not None:
            return list(container((self.object(each) for each in things), value.taint).items or [CONSTANT])
        return [tainted(value.taint)]

    def comprehension(self, generators: list[ast.comprehension], frame: Frame, work: Callable[[], Value]) -> Value:
        """Goes through the generators and puts together what `work` says of each element."""
        first, *rest = generators
        source = self.evaluate(first.iter, frame)
        results, taint = [], (source.taint if source.dims is None or source.dims[:1] == (None,) else NOTHING)
        exact = not first.ifs and (source.items is not None or sequence_of(source.known) is not None)
        for item in self.iterated(first.iter, source, frame):
            self.assign(first.target, item, frame)
            answers = [self.ask(each, frame, "comprehension") for each in first.ifs]
            taint |= NOTHING.union(
                *(
                    self.taints[self.position(each, frame)]
                    for each in first.ifs
                    if None in answers and self.position(each, frame) in self.taints
                )
            )
            if False in answers:
                continue
            result = self.comprehension(rest, frame, work) if rest else work()
            results.append(content(result) if rest else result)
            taint |= result.taint if rest else NOTHING
        if exact and not rest:
            return container(results, taint)
        return Value(taint=taint, element=content(Value(items=tuple(results))) if results else CONSTANT)

    def on_listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, frame: Frame) -> Value:
        inner = frame.inner(depth=frame.depth)
        return self.comprehension(node.generators, inner, lambda: self.evaluate(node.elt, inner))

    on_setcomp = on_listcomp
    on_generatorexp = on_listcomp

    def on_dictcomp(self, node: ast.DictComp, frame: Frame) -> Value:
        inner = frame.inner(depth=frame.depth)

        def pair() -> Value:
            key = self.evaluate(node.key, inner)
            if key.deep & LIVE:
                self.alive("lookup", node, inner, key.deep, "has keys that the inputs choose")
            return self.evaluate(node.value, inner)

        return self.comprehension(node.generators, inner, pair)
