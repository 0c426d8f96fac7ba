"""Compares the operator schemas that an archive was exported with, with those of a runtime, overload by overload."""

from collections.abc import Iterable, Iterator

from pipeline.artifacts import Finding
from pipeline.check.runtime import RuntimeFacts, name_of


def compare(needed: Iterable[str], facts: RuntimeFacts, *, where: str) -> Iterator[Finding]:
    """One finding for each schema in `needed` that the runtime does not have exactly so."""
    for schema in needed:
        name, overload = name_of(schema)
        full = f"{name}.{overload}" if overload else name
        present = facts.operators.get(name, {})
        if not present:
            rule, told = "missing-operator", missing(name, facts)
        elif overload not in present:
            has = ", ".join(sorted(other or "the unnamed one" for other in present))
            rule, told = "missing-overload", f"the runtime has {name}, but not its overload {full} (it has: {has})"
        elif present[overload] != schema:
            rule = "changed-schema"
            told = f"{full} was exported as `{schema}`, and in the runtime it is `{present[overload]}`"
        else:
            continue
        yield Finding(rule=rule, level="error", where=where, message=told, fix=cure(name))


def missing(operator: str, facts: RuntimeFacts) -> str:
    """What it means that a runtime lacks an operator altogether."""
    return f"the runtime (torch {facts.torch}, {facts.device}) has no operator {operator}: loading would fail"


def cure(operator: str) -> str:
    """What to do about an operator (`namespace::name`) that a runtime does not have as needed."""
    library = operator.partition("::")[0]
    if library in {"aten", "prim"}:
        return "Export with the torch version of the runtime, or serve with a runtime of the torch that exported it."
    return (
        "Put its .cpp under model_src/<name>/ops/, so that it is compiled and shipped with the model; or serve with a "
        f"runtime that has the library registering `{library}`, or write this part with PyTorch's own operators."
    )
