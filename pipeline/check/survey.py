"""Gathers everything in an archive's code that a runtime may object to, all of it before saying anything."""

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.artifacts import Finding
from pipeline.check.code import Line, Use, classes_in, lines_of, uses_in
from pipeline.check.runtime import RuntimeFacts
from pipeline.check.schemas import Archived, fits, misfit, missing
from pipeline.check.trainmode import baked_in
from pipeline.check.upgraders import aged, is_of_numbers

K = TypeVar("K")

# Enough for a person to see the pattern; a hostile archive can invent names by the million.
MOST = 200


_UNSAVED = "prim::ConstantMKLDNNTensor"


@dataclass(slots=True)
class _Places:
    """The places of one fault: the first one, and how many there are."""

    first: Line | str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.first}" + (f" (and {self.count - 1} more)" if self.count > 1 else "")


@dataclass(slots=True)
class Survey:
    """What a runtime with `facts` lacks or should not do, and where the code asks for it; filled file by file.

    `exact` are the overloads of each operator that the archive is known to use, where a contract says so.
    """

    facts: RuntimeFacts
    archived: Archived
    exact: Mapping[str, Collection[str]] = field(default_factory=dict)
    operators: dict[str, _Places] = field(default_factory=dict)
    ageing: dict[str, _Places] = field(default_factory=dict)
    missing: dict[str, _Places] = field(default_factory=dict)
    misfits: dict[str, _Places] = field(default_factory=dict)
    classes: dict[str, _Places] = field(default_factory=dict)
    baked_in: dict[tuple[str, str], _Places] = field(default_factory=dict)
    devices: dict[str, _Places] = field(default_factory=dict)
    optimized: dict[str, _Places] = field(default_factory=dict)

    def read(self, path: str, source: bytes) -> None:
        """Takes in one code file."""
        for line in lines_of(path, source):
            for name in classes_in(line):
                self.mention(name, line)
            for use in uses_in(line):
                self._take(use)

    def mention(self, name: str, place: Line | str) -> None:
        """Takes in that the archive uses the custom class `name` (namespace.Name)."""
        if name not in self.facts.classes:
            _note(self.classes, name, place)

    def where(self, operator: str, otherwise: str) -> str:
        """The first line that calls an operator, or `otherwise`."""
        found = self.operators.get(operator) or self.missing.get(operator)
        return str(found) if found else otherwise

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        facts, archived = self.facts, self.archived
        yield from (missing(name, facts, archived, where=str(places)) for name, places in self.missing.items())
        yield from (misfit(name, facts, archived, where=str(places)) for name, places in self.misfits.items())
        for name, places in self.ageing.items():
            overloads = self.exact.get(name, ())
            old = aged(name, str(places), archive=archived.version, facts=facts, overloads=overloads)
            yield from (old,) if old else ()
        yield from (_missing_class(name, str(places)) for name, places in self.classes.items())
        yield from (_baked_in(name, told, str(places)) for (name, told), places in self.baked_in.items())
        yield from (_optimized(name, str(places)) for name, places in self.optimized.items())
        yield from (_device(name, str(places), facts.device) for name, places in self.devices.items())

    def _take(self, use: Use) -> None:
        if told := baked_in(use):
            _note(self.baked_in, (use.operator, told), use.line)
        if "::" not in use.operator:  # a function, not an operator
            return
        if use.operator not in self.facts.operators:
            _note(self.missing, use.operator, use.line)
            return
        _note(self.operators, use.operator, use.line, most=len(self.facts.operators))
        if not is_of_numbers(use):
            _note(self.ageing, use.operator, use.line, most=len(self.facts.operators))
        if not fits(use, self.facts, self.archived):
            _note(self.misfits, use.operator, use.line)
        if use.operator == _UNSAVED:
            _note(self.optimized, use.operator, use.line)
        if device := _device_of(use):
            _note(self.devices, device, use.line)


def _note(places: dict[K, _Places], key: K, place: Line | str, *, most: int = MOST) -> None:
    if key in places:
        places[key].count += 1
    elif len(places) < most:
        places[key] = _Places(place)


def _device_of(use: Use) -> str | None:
    """The device that a `torch.device("…")`, `x.cuda()` or `x.cpu()` names; None where it is computed."""
    if use.operator in {"aten::cuda", "aten::cpu"}:
        return use.operator.removeprefix("aten::")
    match use.operator, use.call:
        case "aten::device", ast.Call(args=[ast.Constant(value=str(device)), *_]):
            return device[:100]
    return None


def _optimized(name: str, where: str) -> Finding:
    return Finding(
        rule="optimized-archive",
        level="error",
        where=where,
        message=f"the weights are {name}, which torch.jit.optimize_for_inference makes and torch.jit.save leaves out: "
        "loading would fail",
        fix="Save the frozen module, torch.jit.freeze(…), without optimize_for_inference; "
        "the runtime optimises after loading.",
    )


def _missing_class(name: str, where: str) -> Finding:
    return Finding(
        rule="missing-class",
        level="error",
        where=where,
        message=f"the runtime has no custom class {name}: loading would fail",
        fix=f"Keep the object out of the archive, put the .cpp that registers `{name.partition('.')[0]}` under "
        "model_src/<name>/ops/, or serve with a runtime that has its library.",
    )


def _baked_in(name: str, told: str, where: str) -> Finding:
    return Finding(
        rule="train-mode",
        level="error",
        where=where,
        message=f"{name} was saved in training mode, which is written into the code: {told}",
        fix="Call model.eval() before scripting or tracing, pass training=self.training to functions such as "
        "F.dropout, and export again.",
    )


def _device(literal: str, where: str, device: str) -> Finding:
    kind = literal.partition(":")[0]
    written = f'the device "{literal}" is written into the code'
    if kind == device:
        told, fix = f"{written}; this runtime has it", "Nothing, as long as the runtime is for this device."
        return Finding(rule="device-literal", level="info", where=where, message=told, fix=fix)
    fix = "Make tensors on the device of an input (device=x.device) in a scripted function, and export again."
    if kind == "cpu":
        told = f"{written}; what is made there does not mix with tensors on {device}"
        return Finding(rule="device-literal", level="warning", where=where, message=told, fix=fix)
    told = f"{written}, and this runtime has {device} only: the line would fail at the first request"
    return Finding(rule="device-literal", level="error", where=where, message=told, fix=fix)
