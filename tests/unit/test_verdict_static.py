"""What the static analysis reads in forward(): control flow that the inputs decide, and only that."""

# ruff: noqa: ARG001 (the functions become methods)

import math
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.inside.verdict.sources import Sources
from pipeline.inside.verdict.static import Survey, strings_input, survey, tensor_input

CALLS: list[int] = []


class Module:
    """Stands for nn.Module, which the analysis knows by its name: the units have no torch."""

    training = False

    def __init__(self) -> None:
        self.flag = True
        self.cache: Any = None
        self.count = 0
        self.seen: dict[int, Any] = {}
        self.layers: list[Any] = []

    def children(self) -> Iterator[Any]:
        return iter(self.layers)

    def modules(self) -> Iterator[Any]:
        return iter([self, *self.layers])

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        return iter([("", self), *((f"layers.{at}", each) for at, each in enumerate(self.layers))])


Module.__module__ = "torch.nn.modules.module"


def _survey(forward: Callable[..., Any], **attributes: Any) -> Survey:
    """Reads a model with this forward() for an input of shape [-1, 3]."""
    model = type("Model", (Module,), {"forward": forward, "helper": helper})()
    for name, value in attributes.items():
        setattr(model, name, value)
    return survey(model, [tensor_input((None, 3))], Sources(os.path.dirname(__file__)))  # noqa: PTH120


def _live(found: Survey) -> set[str]:
    return {each.finding["rule"] for each in found.live}


def helper(self: Any, x: Any) -> Any:
    return -x if x.sum() > 0 else x


def if_value(self: Any, x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


def if_batch(self: Any, x: Any) -> Any:
    if x.shape[0] > 2:
        return x
    return -x


def through_method(self: Any, x: Any) -> Any:
    return self.helper(x * 2)


def through_closure(self: Any, x: Any) -> Any:
    def inner(y: Any) -> Any:
        return y if y.max() > limit else -y

    limit = 3
    return inner(x)


def through_list(self: Any, x: Any) -> Any:
    parts = []
    for _ in range(3):
        parts.append(x.mean())  # noqa: PERF401
    return x if parts[1] > 0 else -x


def through_attribute(self: Any, x: Any) -> Any:
    self.mean = x.mean()
    return x if self.mean > 0 else -x


def while_value(self: Any, x: Any) -> Any:
    while x.norm() > 1:
        x = x / 2
    return x


def loop_batch(self: Any, x: Any) -> Any:
    y = x
    for at in range(x.size(0)):
        y = y + at
    return y


def loop_rows(self: Any, x: Any) -> Any:
    return sum([row * 2 for row in x])


def kept_if_positive(self: Any, x: Any) -> Any:
    return [each for each in (x, -x) if each.sum() > 0].pop()


def and_value(self: Any, x: Any) -> Any:
    return (x.sum() > 0) and x


def item(self: Any, x: Any) -> Any:
    return x * x.max().item()


def as_float(self: Any, x: Any) -> Any:
    return x * float(x.mean())


def length(self: Any, x: Any) -> Any:
    return x * len(x)


def text(self: Any, x: Any) -> Any:
    return x, f"{x.sum()}"


def lookup(self: Any, x: Any) -> Any:
    return [1, 2, 3][x.argmax()]


def outside(self: Any, x: Any) -> Any:
    return x * math.sqrt(x.shape[0])


def matched(self: Any, x: Any) -> Any:
    match x.sum():
        case 1:
            return x
    return -x


def tried(self: Any, x: Any) -> Any:
    try:
        return x.inverse()
    except RuntimeError:
        return x


def asserted(self: Any, x: Any) -> Any:
    assert (x > 0).all(), f"{x.min()} is negative"
    return x


def first_call(self: Any, x: Any) -> Any:
    if self.cache is None:
        self.cache = x.mean()
    return x - self.cache


@pytest.mark.parametrize(
    ("forward", "rules"),
    [
        (if_value, {"branch-on-value"}),
        (if_batch, {"branch-on-shape"}),
        (through_method, {"branch-on-value"}),
        (through_closure, {"branch-on-value"}),
        (through_list, {"branch-on-value"}),
        (through_attribute, {"branch-on-value"}),
        (while_value, {"branch-on-value"}),
        (loop_batch, {"loop-on-shape"}),
        (loop_rows, {"loop-on-value"}),
        (kept_if_positive, {"branch-on-value"}),
        (and_value, {"branch-on-value"}),
        (item, {"python-number"}),
        (as_float, {"python-number"}),
        (length, {"python-number"}),
        (text, {"python-text"}),
        (lookup, {"lookup"}),
        (outside, {"foreign-call"}),
        (matched, {"branch-on-value"}),
        (tried, {"try"}),
        (asserted, {"branch-on-value"}),
        (first_call, {"branch-on-state"}),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_what_the_inputs_decide_is_found(forward: Callable[..., Any], rules: set[str]) -> None:
    found = _survey(forward, cache=3 if forward is first_call else None)
    assert _live(found) == rules
    assert {each.finding["where"].split(":")[0] for each in found.live} == {"test_verdict_static.py"}


def flagged(self: Any, x: Any) -> Any:
    if self.flag and not self.training and self.cache is None:
        return x
    return x if x.sum() > 0 else -x


def fixed_width(self: Any, x: Any) -> Any:
    assert x.dim() == 2 and x.shape[1] == 3  # noqa: PT018
    for column in range(x.shape[1]):
        x = x + column
    return x


def layered(self: Any, x: Any) -> Any:
    outputs = []
    for layer in self.layers:
        outputs.append(layer(x))  # noqa: PERF401
    return outputs[0] if len(outputs) == 1 else sum(outputs)


def with_default(self: Any, x: Any, mask: Any = None) -> Any:
    if mask is not None and mask.any():
        x = x * mask
    return x


def dtyped(self: Any, x: Any) -> Any:
    return x.float() if x.dtype != x.double().dtype else x


def raising(self: Any, x: Any) -> Any:
    if self.flag is None:
        raise ValueError(f"{x}")
    return x


@pytest.mark.parametrize("forward", [flagged, fixed_width, layered, with_default, dtyped, raising])
def test_what_only_looks_like_a_branch_is_none(forward: Callable[..., Any]) -> None:
    assert _live(_survey(forward)) == set()


def branching_layer(self: Any, x: Any) -> Any:
    return x if x.mean() > 0 else -x


def test_the_module_that_branches_is_named() -> None:
    layer = type("Layer", (Module,), {"forward": branching_layer})()
    found = _survey(layered, layers=[layer])
    assert [each.owner for each in found.live] == ["layers.0"]
    assert "`return x if x.mean() > 0 else -x`" in found.live[0].finding["message"]


def drawing(self: Any, x: Any) -> Any:
    return x * random.random()


def clocked(self: Any, x: Any) -> Any:
    return x * time.time()


def on_cuda(self: Any, x: Any) -> Any:
    return x.to("cuda")


def on_cpu(self: Any, x: Any) -> Any:
    return x.to("cpu")


def retraining(self: Any, x: Any) -> Any:
    self.training = True
    return x


def noisy(self: Any, x: Any) -> Any:
    return x + x.clone().normal_()


@pytest.mark.parametrize(
    ("forward", "rule", "level"),
    [
        (drawing, "random", "error"),
        (noisy, "random", "error"),
        (clocked, "outside-world", "warning"),
        (on_cuda, "device-literal", "error"),
        (on_cpu, "device-literal", "warning"),
        (retraining, "train-mode", "error"),
    ],
)
def test_what_no_archive_can_honour_is_found(forward: Callable[..., Any], rule: str, level: str) -> None:
    assert (rule, level) in {(each["rule"], each["level"]) for each in _survey(forward).findings}


def counting(self: Any, x: Any) -> Any:
    self.count += 1
    return x * self.count


def keyed_cache(self: Any, x: Any) -> Any:
    if x.shape[0] not in self.seen:
        self.seen[x.shape[0]] = x.mean()
    return x - self.seen[x.shape[0]]


def counting_unseen(self: Any, x: Any) -> Any:
    self.count += 1
    return x


def global_list(self: Any, x: Any) -> Any:
    CALLS.append(1)
    return x * len(CALLS)


def overwriting(self: Any, x: Any) -> Any:
    self.last = x
    return self.last * 2


@pytest.mark.parametrize(
    ("forward", "remembers"),
    [(counting, True), (global_list, True), (keyed_cache, True), (counting_unseen, False), (overwriting, False)],
)
def test_answers_that_build_on_earlier_calls_are_told_from_notes(forward: Callable[..., Any], remembers: bool) -> None:
    found = _survey(forward)
    assert found.remembers is remembers
    assert "state" in {each["rule"] for each in found.findings}


def reading(self: Any, texts: list[str]) -> int:
    total = 0
    for text in texts:
        for word in text.split():
            total += len(word)
    return total


def test_strings_are_gone_through_as_often_as_they_come() -> None:
    model = type("Model", (Module,), {"forward": reading})()
    found = survey(model, [strings_input()], Sources())
    lines = [each.finding["message"].split("`")[1] for each in found.live if each.finding["rule"].startswith("loop")]
    assert lines == ["for text in texts:", "for word in text.split():"]


class Judge:
    """An object that forward() uses and that is no module."""

    def verdict(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


def test_code_that_ran_without_being_found_is_read_on_its_own() -> None:
    model = type("Model", (Module,), {"forward": raising})()
    assert not survey(model, [tensor_input((None, 3))], Sources()).live
    found = survey(model, [tensor_input((None, 3))], Sources(), ran=[Judge.verdict.__code__])
    assert _live(found) == {"branch-on-value"}
