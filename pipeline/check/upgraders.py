"""Operators whose meaning changed once, and how an archive from before is read.

An archive's format number is that of the youngest change among the operators that it uses. A runtime reads a call
in an older archive by an upgrader: a function of its own that computes what the operator meant then.
Source: torch/csrc/jit/operator_upgraders/version_map.h; the runtime's own list is in its facts.
"""

import ast
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.artifacts import Finding
from pipeline.check.code import Use
from pipeline.check.runtime import RuntimeFacts

# The format from which on each overload means what it means now.
_CHANGES: Mapping[str, int] = {
    **{
        f"aten::{name}.{overload}": 4
        for name, overloads in {
            "div": ("Tensor", "Tensor_mode", "Scalar", "Scalar_mode", "out", "out_mode"),
            "div_": ("Tensor", "Tensor_mode", "Scalar", "Scalar_mode"),
        }.items()
        for overload in overloads
    },
    **dict.fromkeys(("aten::full", "aten::full.names", "aten::full.out"), 5),
    **dict.fromkeys(("aten::linspace", "aten::linspace.out"), 8),
    **dict.fromkeys(("aten::logspace", "aten::logspace.out"), 9),
    **dict.fromkeys(("aten::gelu", "aten::gelu.out"), 10),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a runtime reads an overload in an archive of some format.

    `schema` is what a call has to fit: the old one where an upgrader stands in. `until` is the format with which the
    meaning changed, 0 where it did not since the archive was written. `lost`: it changed, and there is no upgrader.
    """

    schema: str
    until: int = 0
    lost: bool = False


def reading(operator: str, overload: str, *, archive: int, facts: RuntimeFacts) -> Reading:
    """How the runtime reads one of its overloads in an archive of format `archive`."""
    full = f"{operator}.{overload}" if overload else operator
    now = facts.operators[operator][overload]
    for until, schema in facts.upgraders.get(full, ()):
        if archive < until:
            return Reading(schema=schema, until=until)
    until = _CHANGES.get(full, 0)
    if archive < until:
        return Reading(schema=now, until=until, lost=True)
    return Reading(schema=now)


def is_of_numbers(use: Use) -> bool:
    """Whether a division is one of numbers, as the code shows: those overloads never changed."""
    match use.operator, use.call:
        case "aten::div", ast.Call(args=[ast.Constant() | ast.Call(func=ast.Name(id="float" | "int")), *_]):
            return True
    return False


def aged(
    operator: str, where: str, *, archive: int, facts: RuntimeFacts, overloads: Collection[str] = ()
) -> Finding | None:
    """What to say of an operator that an archive of format `archive` uses and whose meaning changed since.

    `overloads` are those that are known to be used; without them any may be.
    """
    present = facts.operators.get(operator, {})
    readings = [
        reading(operator, name, archive=archive, facts=facts) for name in present if not overloads or name in overloads
    ]
    changed = [read for read in readings if read.until]
    if not changed:
        return None
    lost = next((read for read in changed if read.lost), None)
    read = lost or changed[0]
    told = f"the meaning of {operator} changed with archive format {read.until}, and the archive has format {archive}"
    if lost:
        return Finding(
            rule="needs-upgrader",
            level="error",
            where=where,
            message=f"{told}; the runtime (torch {facts.torch}) has no upgrader for it: "
            "the line would fail or compute something else",
            fix="Load the archive with the torch that wrote it and export the model again with a current one, "
            "or serve with a runtime that has the upgrader.",
        )
    return Finding(
        rule="upgraded-operator",
        level="info",
        where=where,
        message=f"{told}; the runtime has the upgrader, and computes what format {archive} meant",
        fix="Nothing; an export with a current torch needs no upgrader.",
    )
