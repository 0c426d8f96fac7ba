"""Compares the operators that an archive asks for with those of a runtime, overload by overload, each with its cure."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.artifacts import Finding
from pipeline.check.code import Use
from pipeline.check.runtime import RuntimeFacts, name_of
from pipeline.check.schema import Schema, parse
from pipeline.check.standing_in import breaks, missing_defaults, takes
from pipeline.check.upgraders import reading

# torch's own namespaces that a saved model may call; those that begin with _ are its own, too.
_OWN = frozenset(
    {"aten", "prim", "prims", "quantized", "mkldnn", "onednn", "prepacked", "profiler", "sparse", "c10d", "cuda"}
    | {"inductor", "symm_mem"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What an archive says of its age: its format number, and the torch that exported it or "" where nothing says."""

    version: int
    torch: str = ""


def compare(
    needed: Iterable[str], facts: RuntimeFacts, archived: Archived, *, where: Callable[[str], str]
) -> Iterator[Finding]:
    """One finding for each schema in `needed` that the runtime's operator cannot stand in for.

    `where` gives the place in the archive's code of an operator (namespace::name).

    Raises:
        ValueError: one of `needed` is no schema.
    """
    for text in needed:
        wanted = parse(text)
        name, overload = name_of(text)
        present = facts.operators.get(name, {})
        if not present:
            yield missing(name, facts, archived, where=where(name))
        elif overload not in present:
            yield _missing_overload(wanted.name[:500], facts, archived, has=present, where=where(name))
        elif reason := _broken(wanted, reading(name, overload, archive=archived.version, facts=facts).schema):
            yield _changed_schema(text, present[overload], reason, facts, archived, where=where(name))


def fits(use: Use, facts: RuntimeFacts, archived: Archived) -> bool:
    """Whether the runtime has an overload that takes as many arguments, by these names, as the call gives.

    True where that cannot be told: for an unknown operator, and for a call that spreads its arguments.
    """
    match use.call:
        case ast.Call(args=arguments, keywords=keywords) if not (
            any(isinstance(argument, ast.Starred) for argument in arguments)
            or any(keyword.arg is None for keyword in keywords)
        ):
            names = [str(keyword.arg) for keyword in keywords]
        case _:
            return True
    overloads = facts.operators.get(use.operator, {})
    schemas = (reading(use.operator, name, archive=archived.version, facts=facts).schema for name in overloads)
    return not overloads or any(_takes(schema, len(arguments), names) for schema in schemas)


def missing(operator: str, facts: RuntimeFacts, archived: Archived, *, where: str) -> Finding:
    """That a runtime lacks an operator altogether: one of PyTorch's own, of another age, or a library's."""
    told = f"the runtime (torch {facts.torch}, {facts.device}) has no operator {operator}: loading would fail"
    space = operator.partition("::")[0]
    if _is_torchs(space):
        told += f"; it is one of PyTorch's own, {_age(facts, archived)}"
        return _finding("missing-operator", where, told, _other_torch(facts, archived))
    told += f"; `{space}` is a library of custom operators, which the runtime was not given"
    fix = (
        f"Put its .cpp under model_src/<name>/ops/, serve with a runtime that has the library registering `{space}`, "
        "or write this line with PyTorch's own operators."
    )
    return _finding("missing-operator", where, told, fix)


def misfit(operator: str, facts: RuntimeFacts, archived: Archived, *, where: str) -> Finding:
    """That no overload of the runtime's takes the arguments of a call in the code."""
    has = "; ".join(f"`{text[:200]}`" for _, text in sorted(facts.operators[operator].items())[:3])
    more = len(facts.operators[operator]) - 3
    told = (
        f"{operator} is called with arguments that none of its overloads in the runtime (torch {facts.torch}) takes, "
        f"so that loading would fail; it has {has}{f' and {more} more' if more > 0 else ''}"
    )
    return _finding("changed-schema", where, f"{told}: {_age(facts, archived)}", _other_torch(facts, archived))


def _broken(wanted: Schema, present: str) -> str | None:
    """Why calls of the operator that was wanted are not safe with the one that is there.

    Arguments with defaults that the older one lacks are no reason: a call that gives one is found in the code.
    """
    try:
        schema = parse(present)
    except ValueError:
        return None if present.startswith(f"{wanted.name}(") else "the runtime's cannot be read"
    return None if missing_defaults(wanted, schema) else breaks(wanted, schema)


def _takes(schema: str, positional: int, keywords: list[str]) -> bool:
    try:
        return takes(parse(schema), positional, keywords)
    except ValueError:
        return True


def _missing_overload(full: str, facts: RuntimeFacts, archived: Archived, *, has: Iterable[str], where: str) -> Finding:
    name = full.partition(".")[0]
    overloads = ", ".join(sorted(other or "the unnamed one" for other in has))
    told = f"the runtime has {name}, but not its overload {full} (it has: {overloads[:500]}); {_age(facts, archived)}"
    return _finding("missing-overload", where, told, _cure(name, facts, archived))


def _changed_schema(
    wanted: str, present: str, reason: str, facts: RuntimeFacts, archived: Archived, *, where: str
) -> Finding:
    full = wanted.partition("(")[0]
    told = f"{full} was exported as `{wanted[:800]}`, and in the runtime it is `{present[:800]}`: {reason[:800]}"
    told += f"; {_age(facts, archived)}"
    return _finding("changed-schema", where, told, _cure(full, facts, archived))


def _cure(operator: str, facts: RuntimeFacts, archived: Archived) -> str:
    space = operator.partition("::")[0]
    if _is_torchs(space):
        return _other_torch(facts, archived)
    return f"Build the archive and the runtime with the same version of the library registering `{space}`."


def _is_torchs(space: str) -> bool:
    return space in _OWN or space.startswith("_")


def _age(facts: RuntimeFacts, archived: Archived) -> str:
    """Which of the two is older, in words."""
    theirs, ours = _number(archived.torch), _number(facts.torch)
    if not theirs:
        return "so the archive comes from another torch, most likely a newer one"
    if theirs == ours:
        return f"and the archive was exported with the same torch {archived.torch}, but another build of it"
    which = "newer" if theirs > ours else "older"
    return f"and the archive was exported with torch {archived.torch}, which is {which} than the runtime's"


def _other_torch(facts: RuntimeFacts, archived: Archived) -> str:
    exporter = f"torch {archived.torch}" if archived.torch else "the torch that exported it"
    return (
        f"Export with torch {facts.torch}, serve with a runtime of {exporter}, "
        "or write this line with operators that both have."
    )


def _number(version: str) -> tuple[int, ...]:
    """`2.8.0+cu128` -> (2, 8, 0)."""
    return tuple(int(part) for part in re.findall(r"\d{1,6}", version.partition("+")[0]))


def _finding(rule: str, where: str, told: str, fix: str) -> Finding:
    return Finding(rule=rule, level="error", where=where, message=told, fix=fix)
