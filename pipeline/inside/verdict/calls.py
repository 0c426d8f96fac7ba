"""Walks calls: into the model's own functions and modules, and by name where torch, Python or numpy computes."""

import ast
import functools
import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.inside.verdict.expressions import Expressions
from pipeline.inside.verdict.folding import truth
from pipeline.inside.verdict.library import Library
from pipeline.inside.verdict.recording import Frame
from pipeline.inside.verdict.rules import DEVICE, RANDOM_LAYERS, RANDOM_METHODS, STRUCTURE
from pipeline.inside.verdict.sources import is_open
from pipeline.inside.verdict.things import Local, is_device, is_module, is_scripted, is_tensor, of_torch, sequence_of
from pipeline.inside.verdict.values import (
    CONSTANT,
    LIVE,
    MEMORY,
    STATE,
    UNKNOWN,
    Value,
    container,
    content,
    joined,
    known,
    merged,
    tainted,
)

_LISTINGS = frozenset(
    [
        "items",
        "values",
        "keys",
        "children",
        "named_children",
        "modules",
        "named_modules",
        "parameters",
        "named_parameters",
        "buffers",
        "named_buffers",
        "copy",
    ]
)


class Calls(Library, Expressions):
    """What is called, with what."""

    def run(self, function: types.FunctionType, args: Sequence[Value], named: Mapping[str, Value], owner: Any) -> Value:
        raise NotImplementedError

    def report(self, rule: str, level: str, says: str, function: types.FunctionType) -> None:
        raise NotImplementedError

    def run_local(self, local: Local, args: Sequence[Value], named: Mapping[str, Value]) -> Value:
        raise NotImplementedError

    def call(
        self, callee: Value, args: Sequence[Value], named: Mapping[str, Value], node: ast.expr, frame: Frame
    ) -> Value:
        """What a call returns."""
        thing = callee.known
        everything = merged(callee, *args, *named.values())
        if thing is UNKNOWN:
            results = [self.call(each, args, named, node, frame) for each in callee.items or () if each.is_known]
            return functools.reduce(joined, results, everything) if results else everything
        self._devices(args, named, node, frame)
        if isinstance(thing, Local):
            return self.run_local(thing, args, named)
        if isinstance(thing, functools.partial):
            more = {name: known(each) for name, each in thing.keywords.items()} | dict(named)
            return self.call(known(thing.func), [*map(self.object, thing.args), *args], more, node, frame)
        if is_scripted(thing):
            return everything
        if is_module(thing):
            return self.enter(thing, args, named, node, frame)
        if isinstance(thing, type):
            return self._make(thing, args, named, node, frame)
        result = self._function(thing, args, named, node, frame)
        return replace(result, taint=result.taint | callee.taint) if callee.taint else result

    def _function(
        self, thing: Any, args: Sequence[Value], named: Mapping[str, Value], node: ast.expr, frame: Frame
    ) -> Value:
        function = getattr(thing, "__func__", thing)
        bound = getattr(thing, "__self__", None) if isinstance(thing, types.MethodType) else None
        if isinstance(function, types.FunctionType):
            if "unused" in str(getattr(function, "_torchscript_modifier", "")):
                self.note(
                    "unscripted", "warning", node, frame, "calls what torch.jit.unused leaves out of a scripted program"
                )
            if is_open(function.__code__.co_filename):
                first = [] if bound is None else [self.object(bound)]
                owner = bound if is_module(bound) else self._own(args, frame)
                return self.run(function, [*first, *args], named, owner)
            if hasattr(function, "__wrapped__") and is_open(
                getattr(function.__wrapped__, "__code__", function.__code__).co_filename
            ):
                return self.call(
                    known(function.__wrapped__),
                    args if bound is None else [self.object(bound), *args],
                    named,
                    node,
                    frame,
                )
        own = inspect.getattr_static(type(thing), "__call__", None)
        if isinstance(own, types.FunctionType) and is_open(own.__code__.co_filename):
            return self.run(own, [self.object(thing), *args], named, None)
        if is_module(bound):
            return self._module_method(bound, function.__name__, args, node, frame)
        return self.library(thing, args, named, node, frame)

    def _own(self, args: Sequence[Value], frame: Frame) -> Any:
        return args[0].known if args and is_module(args[0].known) else frame.owner

    def _module_method(self, module: Any, name: str, args: Sequence[Value], node: ast.expr, frame: Frame) -> Value:
        if name == "train" and not (args and truth(args[0]) is False):
            self.note("train-mode", "error", node, frame, "turns train mode on")
        if name in _LISTINGS:
            return self._listing(getattr(module, name))
        if name.startswith("register_forward"):
            self.note("hook", "warning", node, frame, "adds a hook while forward() runs")
        if name in {"cuda", "xpu"}:
            self.note("device-literal", "error", node, frame, "moves to a device by name")
        return merged(*args)

    def _listing(self, method: Any) -> Value:
        try:
            return known(list(method()))
        except (TypeError, RuntimeError):
            return CONSTANT

    def enter(
        self, module: Any, args: Sequence[Value], named: Mapping[str, Value], node: ast.expr | None, frame: Frame | None
    ) -> Value:
        """What calling a module returns: its hooks, its own __call__ and its forward() are walked."""
        at = (node, frame)
        call = type(module).__call__
        if isinstance(call, types.FunctionType) and is_open(call.__code__.co_filename):
            self.report("own-call", "warning", f"{type(module).__name__}.__call__ does more than forward()", call)
            return self.run(call, [self.object(module), *args], named, module)
        for hook in getattr(module, "_forward_pre_hooks", {}).values():
            given = self._hook(module, hook, [container(args)], at)
            if given is not None:
                args = given.items or [given]
        result = self._forward(module, args, named, node, frame)
        for hook in getattr(module, "_forward_hooks", {}).values():
            given = self._hook(module, hook, [container(args), result], at)
            result = result if given is None else joined(given, result)
        return result

    def _hook(
        self, module: Any, hook: Any, args: list[Value], at: tuple[ast.expr | None, Frame | None]
    ) -> Value | None:
        function = getattr(hook, "__func__", hook)
        if not isinstance(function, types.FunctionType) or not is_open(function.__code__.co_filename):
            return None
        name = self.owners.get(id(module), type(module).__name__)
        self.report("hook", "warning", f"runs as a hook of `{name or 'the model'}`", function)
        node = at[0] or ast.Constant(value=None)
        frame = at[1] or Frame(file=function.__code__.co_filename, names={}, outside={}, owner=module, returns=[])
        result = self.call(known(hook), [self.object(module), *args], {}, node, frame)
        return None if result.known is None else result

    def _forward(
        self, module: Any, args: Sequence[Value], named: Mapping[str, Value], node: ast.expr | None, frame: Frame | None
    ) -> Value:
        forward = module.forward
        function = getattr(forward, "__func__", forward)
        if isinstance(function, types.FunctionType) and not is_open(function.__code__.co_filename):
            function = getattr(function, "__wrapped__", function)
        if isinstance(function, types.FunctionType) and is_open(function.__code__.co_filename):
            bound = isinstance(forward, types.MethodType)
            return self.run(function, [*([self.object(forward.__self__)] if bound else []), *args], named, module)
        if type(module).__name__ == "Sequential" and args:
            result = args[0]
            for child in module.children():
                result = self.enter(child, [result], {}, node, frame) if not is_scripted(child) else merged(result)
            return result
        if type(module).__name__ in RANDOM_LAYERS and node is not None and frame is not None:
            self.note("random", "error", node, frame, f"is random ({type(module).__name__})")
        result = merged(*args, *named.values())
        for child in module.children():
            # How torch's own containers feed theirs is not known, so anything can reach them.
            if not is_scripted(child):
                self.enter(child, [result] * max(1, len(args)), {}, node, frame)
        return result

    def _make(
        self, kind: type, args: Sequence[Value], named: Mapping[str, Value], node: ast.expr, frame: Frame
    ) -> Value:
        """An object made while forward() runs."""
        maker = inspect.getattr_static(kind, "__init__")
        if kind.__module__ == "builtins" or not isinstance(maker, types.FunctionType):
            fields = getattr(kind, "_fields", None)
            if issubclass(kind, tuple) and fields:
                return container([*args, *named.values()])
            if issubclass(kind, dict):
                return self.builtin_dict(args, named, node, frame)
            return self.library(kind, args, named, node, frame)
        if any(each.__module__ == "torch.nn.modules.module" for each in kind.__mro__):
            self.note("random", "error", node, frame, "makes a module with new random weights in forward()")
        elif is_open(maker.__code__.co_filename):
            self.run(maker, [CONSTANT, *args], named, frame.owner)
        return container([*args, *named.values()])

    def method(
        self, base: Value, args: Sequence[Value], named: Mapping[str, Value], node: ast.Call, frame: Frame
    ) -> Value:
        """What base.name(...) returns."""
        assert isinstance(node.func, ast.Attribute)
        name, thing = node.func.attr, base.known
        self._devices(args, named, node, frame)
        if base.is_known and is_tensor(thing):
            if name.endswith("_") and not name.endswith("__") and name not in {"requires_grad_", "detach_"}:
                overwrites = name in {"copy_", "fill_", "zero_", "set_"} and not merged(*args).taint & {STATE, MEMORY}
                self.changes_thing(thing, STATE if overwrites else MEMORY, node, frame)
            return self.tensor_method(Value(taint=base.taint), name, args, named, node, frame)
        if isinstance(thing, list | dict | set) or type(thing).__name__ in {
            "deque",
            "OrderedDict",
            "defaultdict",
            "Counter",
        }:
            return self._container_method(base, name, args, node, frame)
        if isinstance(thing, str):
            if merged(*args, *named.values()).taint & LIVE:
                self.alive(
                    "python-text",
                    node,
                    frame,
                    merged(*args, *named.values()).taint,
                    "writes a text that the inputs decide",
                )
            return merged(base, *args)
        if (
            isinstance(thing, type)
            and name == "apply"
            and any(of_torch(each) and each.__name__ == "Function" for each in thing.__mro__)
        ):
            self.note("autograd-function", "warning", node, frame, "calls a function with its own backward()")
            return self.call(
                known(inspect.getattr_static(thing, "forward").__func__), [CONSTANT, *args], named, node, frame
            )
        if base.is_known:
            callee = self.seen(node.func, self.attribute_of(base, name, node.func, frame), frame)
            if callee.is_known and name in _LISTINGS and is_module(thing):
                return self._listing(callee.known)
            return self.call(callee, args, named, node, frame) if callee.is_known else merged(callee, *args)
        if base.is_container:
            return self._local_method(base, name, args, node, frame)
        result = self.tensor_method(base, name, args, named, node, frame)
        if name.endswith("_") and not name.endswith("__"):
            self.rebind(node.func.value, merged(base, *args), frame)
        return result

    def _container_method(self, base: Value, name: str, args: Sequence[Value], node: ast.Call, frame: Frame) -> Value:
        """A method of a list or dict that outlives forward()."""
        if name in STRUCTURE:
            self.changes_thing(base.known, MEMORY, node, frame)
        index = args[0] if args else CONSTANT
        if name in {"get", "setdefault", "index", "count", "pop", "__getitem__"} and index.deep & LIVE:
            self.alive("lookup", node, frame, index.deep, "looks up what the inputs choose")
        if name in _LISTINGS and not base.taint:
            return self._listing(getattr(base.known, name))
        if name == "get" and not index.deep and index.is_known and isinstance(base.known, dict):
            found = base.known.get(index.known)
            return Value(known=found, taint=base.taint)
        elements = [self.object(each) for each in (base.known.values() if isinstance(base.known, dict) else base.known)]
        return Value(taint=base.taint | merged(*args).taint, items=tuple(elements) or None)

    def _local_method(self, base: Value, name: str, args: Sequence[Value], node: ast.Call, frame: Frame) -> Value:
        """A method of a list or dict that forward() made."""
        assert isinstance(node.func, ast.Attribute)
        whole = content(base)
        if name in {"append", "add", "appendleft"} and args:
            exact = base.items is not None and not frame.depth
            grown = container((*(base.items or ()), args[0]), base.taint)
            loose = Value(taint=base.taint, element=joined(whole, args[0]) if base.items or base.element else args[0])
            self.rebind(node.func.value, grown if exact else loose, frame, whole=True)
            return known(None)
        if name in {"extend", "update", "insert", "setdefault"} and args:
            more = content(args[-1]) if name in {"extend", "update"} else args[-1]
            length = base.taint | (args[-1].taint if name in {"extend", "update"} else frozenset())
            self.rebind(node.func.value, Value(taint=length, element=joined(whole, more)), frame, whole=True)
            return known(None)
        if name in RANDOM_METHODS:
            self.note("random", "error", node, frame, "is random")
            return tainted({STATE})
        if name == "items":
            return Value(taint=base.taint, element=container([tainted(base.taint), whole]))
        if name in {"values", "copy"}:
            return base
        index = args[0] if args else CONSTANT
        if index.deep & LIVE:
            self.alive("lookup", node, frame, index.deep, "looks up what the inputs choose")
        return Value(
            taint=whole.taint | index.deep | base.taint, known=whole.known, items=whole.items, element=whole.element
        )

    def changes_thing(self, thing: object, how: str, node: ast.AST, frame: Frame) -> None:
        """forward() changes something that is there before and after it."""
        self.note("state", "warning", node, frame, "changes what outlives forward()")
        self.change((id(thing), ""), how)

    def rebind(self, target: ast.expr, value: Value, frame: Frame, *, whole: bool = False) -> None:
        """The variable that an expression is part of now also depends on `value`; `whole`: it is the value."""
        if whole and isinstance(target, ast.Name | ast.Attribute):
            self.assign(target, value, frame)
            return
        while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
            target = target.func if isinstance(target, ast.Call) else target.value
        here: Frame | None = frame
        while isinstance(target, ast.Name) and here is not None:
            if target.id in here.names:
                before = here.names[target.id]
                if is_tensor(before.known) or sequence_of(before.known) is not None:
                    self.changes_thing(before.known, MEMORY, target, frame)
                elif before.is_container:
                    here.names[target.id] = Value(taint=before.taint, element=joined(content(before), value))
                else:
                    here.names[target.id] = Value(taint=before.taint | value.deep, known=before.known, dims=before.dims)
                return
            here = here.around

    def _devices(self, args: Sequence[Value], named: Mapping[str, Value], node: ast.expr, frame: Frame) -> None:
        """Notes a device that is named in the code, wherever it is handed over."""
        method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        placed = method in {"to", "device", "autocast", "type", "empty_cache", "set_device"}
        for value in (*(args[:2] if placed else ()), *([named["device"]] if "device" in named else [])):
            word = str(value.known) if isinstance(value.known, str) or is_device(value.known) else ""
            if DEVICE.match(word):
                level = "warning" if word.startswith("cpu") else "error"
                self.note("device-literal", level, node, frame, f"names the device {word}")
