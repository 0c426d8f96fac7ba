"""What calls into torch, Python and numpy do with values that depend on the inputs, known by name."""

import ast
import types
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.inside.verdict import rules
from pipeline.inside.verdict.expressions import Expressions
from pipeline.inside.verdict.folding import truth
from pipeline.inside.verdict.recording import Frame
from pipeline.inside.verdict.sources import is_open
from pipeline.inside.verdict.things import Local, is_tensor, sequence_of
from pipeline.inside.verdict.values import (
    CONSTANT,
    LIVE,
    MEMORY,
    NOTHING,
    NUMBER,
    RANK,
    SHAPE,
    STATE,
    VALUE,
    Value,
    container,
    content,
    known,
    merged,
    tainted,
)

Args = Sequence[Value]
Named = Mapping[str, Value]
# Return as many tensors as the input is long.
_PIECES = frozenset({"split", "unbind", "tensor_split", "hsplit", "vsplit", "dsplit", "split_with_sizes"})
_ASKS_TORCH = frozenset({"is_tensor", "is_grad_enabled", "is_storage", "is_available", "get_default_dtype", "typename"})
_MAKES_CONSTANT = frozenset({"tensor", "as_tensor", "from_numpy", "asarray", "scalar_tensor"})


class Library(Expressions):
    """One method for each library."""

    def changes_thing(self, thing: object, how: str, node: ast.AST, frame: Frame) -> None:
        raise NotImplementedError

    def library(self, thing: Any, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        """What a function without readable source returns."""
        name = getattr(thing, "__name__", type(thing).__name__)
        module = str(getattr(thing, "__module__", None) or type(getattr(thing, "__self__", None)).__module__)
        top = module.split(".", maxsplit=1)[0]
        everything = merged(*args, *named.values())
        if top in {"torch", "torchvision", "builtins"} and (
            isinstance(getattr(thing, "__self__", None), types.ModuleType) or top != "builtins"
        ):
            handler = self.builtin if top == "builtins" else self.torch
            return handler(name, args, named, node, frame)
        if top == "builtins" and isinstance(thing, type):
            return self.builtin(name, args, named, node, frame)
        if top in rules.RANDOM_MODULES or "random" in module.split("."):
            self.note("random", "error", node, frame, "draws a random number")
            return tainted(everything.taint | {STATE})
        if top in rules.OUTSIDE_MODULES or (top == "torch" and name == "load"):
            self.note("outside-world", "warning", node, frame, "asks the clock, the machine or a file")
            return tainted(everything.taint | {MEMORY})
        if name in rules.ANNOTATES and len(args) == 2:
            return args[1]
        if top in rules.TRANSPARENT or top in {"logging", "warnings", "contextlib", "enum", "abc", "dataclasses"}:
            return self._higher(args, named, node, frame)
        self.alive("foreign-call", node, frame, everything.taint, f"computes with `{name}` outside of torch")
        return everything

    def _higher(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        """A function that may call the functions among its arguments, with the other ones."""
        functions = [each for each in args if isinstance(each.known, types.FunctionType | types.MethodType | Local)]
        rest = [each for each in args if each not in functions]
        inner = [content(each) if each.is_container else each for each in rest]
        results = [
            self.call(each, (inner * 2 if len(inner) == 1 else inner)[:2] or [], {}, node, frame) for each in functions
        ]
        return merged(*rest, *named.values(), *results)

    def torch(self, name: str, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        """A function of torch."""
        everything = merged(*args, *named.values())
        if self._is_random(name, args, named):
            self.note("random", "error", node, frame, "is random")
            return tainted(everything.taint | {STATE})
        if name == "is_available":
            self.note(
                "device-literal", "warning", node, frame, "asks which devices there are; the archive keeps the answer"
            )
        if name in _ASKS_TORCH or (name in rules.FIXED):
            return CONSTANT
        if name == "is_scripting":
            line = getattr(node, "lineno", 0)
            if self.visited is not None and (frame.file, line) not in self.visited:
                self.note(
                    "scripted-only", "warning", node, frame, "computes otherwise when scripted, where no probe came"
                )
            return known(False)
        if name in rules.EXPORT_MODE:
            self.alive("export-mode", node, frame, frozenset({STATE}), "asks how the model is being exported")
            return CONSTANT
        if name in rules.ANNOTATES and len(args) == 2:
            return args[1]
        if name == "_assert" and args and isinstance(node, ast.Call):
            self.test(node.args[0], args[0], frame, "assert")
            return known(None)
        if name in _MAKES_CONSTANT and everything.taint & LIVE and (name == "tensor" or VALUE not in everything.taint):
            self.alive("python-number", node, frame, everything.taint, "makes a constant from what the inputs decide")
        if name == "checkpoint":
            self.note("checkpoint", "warning", node, frame, "computes again for gradients, which serving has not")
        self._remarks(named, node, frame)
        if any(isinstance(each.known, Local) or _walks(each.known) for each in args):
            return self._applied(args, named, node, frame)
        return self._shaped(name, everything, args, named)

    def _applied(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        functions = [each for each in args if isinstance(each.known, Local) or _walks(each.known)]
        rest = [each for each in args if each not in functions]
        spread = list(rest[-1].items or []) if rest and rest[-1].items is not None else rest
        results = [self.call(each, spread, named, node, frame) for each in functions]
        if len(functions) > 1 and rest and isinstance(node, ast.Call):
            self.test(node.args[0], rest[0], frame, "cond")
        return results[0] if len(results) == 1 else merged(*rest, *results)

    def _remarks(self, named: Named, node: ast.expr, frame: Frame) -> None:
        if "out" in named and is_tensor(named["out"].known):
            self.changes_thing(named["out"].known, STATE, node, frame)
        for keyword in node.keywords if isinstance(node, ast.Call) else []:
            if keyword.arg == "device" and isinstance(keyword.value, ast.Attribute) and keyword.value.attr == "device":
                self.note(
                    "device-baked", "info", node, frame, "makes a tensor on the input's device, which a trace fixes"
                )

    def _is_random(self, name: str, args: Args, named: Named) -> bool:
        def given(at: int, word: str, default: object) -> Value:
            return named.get(word, args[at] if at < len(args) else known(default))

        if name.rstrip("_") in rules.DROPOUTS:
            training = given(2, "training", True) if "train" not in named else named["train"]
            return truth(training) is not False and bool(given(1, "p", 0.5).known != 0)
        if name.rstrip("_") == "rrelu":
            return truth(given(3, "training", False)) is not False
        if name == "scaled_dot_product_attention":
            return bool(given(4, "dropout_p", 0.0).known != 0)
        return name in rules.RANDOM_FUNCTIONS or name in rules.SEEDING

    def _shaped(self, name: str, everything: Value, args: Args, named: Named) -> Value:
        """The result of an operator, as far as its number of tensors or dimensions matters."""
        taint = everything.taint
        if name in _PIECES:
            fixed = len(args) > 1 and (args[1].is_container or isinstance(args[1].known, list | tuple))
            length = NOTHING if fixed or not taint & LIVE else frozenset({SHAPE})
            return Value(taint=length, element=everything)
        if name in {"chunk", "meshgrid", "broadcast_tensors", "atleast_1d"}:
            return Value(element=everything)
        if name == "squeeze" and len(args) < 2 and "dim" not in named and taint & LIVE:
            return tainted(taint | {RANK})
        if name == "numel":
            return tainted({SHAPE}) if taint & LIVE else CONSTANT
        return everything

    def tensor_method(self, base: Value, name: str, args: Args, named: Named, node: ast.Call, frame: Frame) -> Value:
        """A method of a tensor, or of what may be one."""
        everything = merged(base, *args, *named.values())
        if name in rules.NUMBERS:
            self.alive("python-number", node, frame, base.deep, "takes a number out of a tensor")
            return tainted(everything.taint | {NUMBER})
        if name in rules.RANDOM_METHODS:
            self.note("random", "error", node, frame, "is random")
            return tainted(everything.taint | {STATE})
        if name in rules.FIXED:
            return CONSTANT
        if name in rules.RANKS:
            return self.attribute(base, name, node, frame)
        if name in rules.SIZES:
            return self._size(base, name, args, named)
        if name in {"cuda", "cpu", "xpu"}:
            level = "warning" if name == "cpu" else "error"
            self.note("device-literal", level, node, frame, f"moves to {name} by name")
        if name == "register_hook":
            self.note("hook", "warning", node, frame, "adds a hook while forward() runs")
        if name in {"apply_", "map_"}:
            self.alive("foreign-call", node, frame, everything.taint, "computes every element in Python")
        return self._shaped(name, everything, [base, *args], named)

    def _size(self, base: Value, name: str, args: Args, named: Named) -> Value:
        sizes = self.sizes(base)
        if name in {"numel", "nelement"} or name in rules.SIZE_PYTHON:
            return merged(sizes) if name not in rules.SIZE_PYTHON else tainted({SHAPE} if base.deep & LIVE else ())
        index = args[0] if args else named.get("dim")
        if index is None:
            return sizes
        if (
            sizes.items is not None
            and isinstance(index.known, int)
            and -len(sizes.items) <= index.known < len(sizes.items)
        ):
            return sizes.items[index.known]
        return content(sizes)

    def builtin(self, name: str, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        """A function of Python itself."""
        everything = merged(*args, *named.values())
        handler = getattr(self, f"builtin_{name}", None)
        if handler is not None:
            result: Value = handler(args, named, node, frame)
            return result
        if name in rules.CONVERTS | {"round"}:
            if (
                len(args) == 1
                and isinstance(args[0].known, int | float | str | bool)
                and not args[0].taint
                and name in {"int", "float", "bool"}
            ):
                try:
                    return known({"int": int, "float": float, "bool": bool}[name](args[0].known))
                except ValueError:
                    return CONSTANT
            self.alive("python-number", node, frame, everything.taint, f"makes a Python number with {name}()")
            return tainted(everything.taint | ({NUMBER} if name == "int" else frozenset()))
        if name in rules.TEXTS:
            self.alive("python-text", node, frame, everything.taint, "writes a text that the inputs decide")
        elif name in {"min", "max", "sorted", "any", "all"}:
            self.test(node, everything, frame, f"{name}()")
        elif name in {"exec", "eval", "compile", "__import__"}:
            self.alive("unread-code", node, frame, frozenset({STATE}), f"runs code that cannot be read ({name})")
        elif name in {"open", "input"}:
            self.note("outside-world", "warning", node, frame, "asks the clock, the machine or a file")
            return tainted({MEMORY})
        elif name in rules.PLAIN:
            return CONSTANT
        return everything

    def builtin_len(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        value = args[0]
        if value.items is not None:
            return known(len(value.items)) if not value.taint else tainted(value.taint)
        if value.element is not None:
            self.alive("python-number", node, frame, value.taint, "asks for a length that the inputs decide")
            return tainted(value.taint)
        if value.dims:
            first = value.dims[0]
            if first is None:
                self.alive("python-number", node, frame, value.taint, "makes a Python number of the input's shape")
            return tainted({SHAPE}) if first is None else known(first)
        if value.is_known and not value.taint and hasattr(type(value.known), "__len__"):
            return known(len(value.known))
        self.alive("python-number", node, frame, value.taint, "asks for a length that the inputs decide")
        return tainted({SHAPE} | (value.taint - {VALUE})) if value.taint & LIVE else CONSTANT

    def builtin_range(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        if all(isinstance(each.known, int) and not each.taint for each in args) and args:
            return known(range(*(each.known for each in args)))
        taint = merged(*args).taint
        return Value(taint=taint, element=tainted(taint))

    def builtin_enumerate(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        return self._paired([CONSTANT], args[:1], node, frame)

    def builtin_zip(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        return self._paired([], args, node, frame)

    def _paired(self, before: list[Value], sources: Args, node: ast.expr, frame: Frame) -> Value:
        """What goes through several things side by side gives."""
        taint = NOTHING.union(*(each.taint for each in sources if each.dims is None or each.dims[:1] == (None,)))
        lists: list[list[Value]] = []
        for each in sources:
            things = None if is_tensor(each.known) else sequence_of(each.known)
            inner = [self.object(thing) for thing in things] if things is not None else list(each.items or ())
            lists.append(inner if things is not None or each.items is not None else [])
        if sources and all(each.items is not None or sequence_of(each.known) is not None for each in sources):
            rows = zip(*lists, strict=False)
            if before:
                return container((container([known(at), *row]) for at, row in enumerate(rows)), taint)
            return container((container(row) for row in rows), taint)
        return Value(taint=taint, element=container([*before, *(content(each) for each in sources)]))

    def builtin_sorted(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        """Python compares what is sorted: of pairs, their first parts, as those of a dict's items all differ."""
        value = args[0] if args[0].is_container else self.builtin_list(args[:1], {}, node, frame)
        each = content(value)
        asked = self.call(named["key"], [each], {}, node, frame) if named.get("key", known(None)).known else each
        self.test(node, asked.items[0] if asked.items else merged(asked), frame, "sorted()")
        plain = [item.known for item in value.items or ()]
        if value.items and not named and all(isinstance(item, int | float | str) for item in plain):
            return container(known(item) for item in sorted(plain))
        return Value(taint=value.taint, element=each)

    def builtin_list(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        if not args:
            return container(())
        value = args[0]
        if value.is_container:
            return value
        things = None if is_tensor(value.known) else sequence_of(value.known)
        if things is not None:
            return container((self.object(each) for each in things), value.taint)
        self.loop(node, value.taint, frame)
        return Value(taint=value.taint, element=tainted(value.taint))

    builtin_tuple = builtin_list
    builtin_set = builtin_list
    builtin_iter = builtin_list
    builtin_reversed = builtin_list

    def builtin_dict(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        values = [*(content(each) for each in args), *named.values()]
        return Value(taint=NOTHING, element=content(Value(items=tuple(values))) if values else CONSTANT)

    def builtin_sum(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        if not args[0].is_container:
            self.loop(node, args[0].taint if args[0].dims is None or args[0].dims[:1] == (None,) else NOTHING, frame)
        return merged(*args)

    def builtin_map(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        taint = NOTHING.union(*(each.taint for each in args[1:]))
        return Value(taint=taint, element=self.call(args[0], [content(each) for each in args[1:]], {}, node, frame))

    def builtin_filter(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        answer = (
            self.call(args[0], [content(args[1])], {}, node, frame) if args[0].known is not None else content(args[1])
        )
        self.test(node, answer, frame, "filter()")
        return Value(taint=args[1].taint | answer.taint, element=content(args[1]))

    def builtin_next(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        return content(args[0])

    def builtin_getattr(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        if args[1].deep & LIVE:
            self.alive("lookup", node, frame, args[1].deep, "looks up what the inputs choose")
        if isinstance(args[1].known, str):
            return self.attribute(args[0], args[1].known, node, frame)
        return merged(*args)

    def builtin_setattr(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        if args[0].is_known:
            self.note("state", "warning", node, frame, "changes what outlives forward()")
            self.change((id(args[0].known), str(args[1].known)), MEMORY if args[2].deep & {STATE, MEMORY} else STATE)
        return known(None)

    def builtin_isinstance(self, args: Args, named: Named, node: ast.expr, frame: Frame) -> Value:
        value, kind = args[0], args[1].known
        if value.is_known and isinstance(kind, type):
            return known(isinstance(value.known, kind))
        if value.dims is not None and isinstance(kind, type):
            return known(kind.__name__ == "Tensor" and kind.__module__.startswith("torch"))
        return CONSTANT


def _walks(thing: object) -> bool:
    code = getattr(getattr(thing, "__func__", thing), "__code__", None)
    return code is not None and is_open(code.co_filename)
