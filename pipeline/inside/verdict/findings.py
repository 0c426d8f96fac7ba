"""What was noticed about a model, as it stands in the evidence: in a stable order, and no more than a person reads."""

from collections.abc import Iterable
from typing import Any, TypeAlias

Finding: TypeAlias = dict[str, str]
MOST = 40
_ORDER = {"error": 0, "warning": 1, "info": 2}


def finding(rule: str, level: str, where: str, message: str, fix: str) -> Finding:
    """A finding in the form of artifacts.Finding."""
    return {"rule": rule, "level": level, "where": where, "message": message, "fix": fix}


def listed(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, the gravest first, then by place; at most MOST, the last of them saying how many more."""
    once = {tuple(each.values()): each for each in findings}
    kept = sorted(once.values(), key=_rank)
    if len(kept) <= MOST:
        return kept
    more = len(kept) - MOST + 1
    last = finding("more", "info", "", f"and {more} more findings", "Mend those above first.")
    return [*kept[: MOST - 1], last]


def shown(findings: Iterable[Finding], most: int = 5) -> str:
    """The findings as lines of a message."""
    kept = list(findings)
    lines = [f"  {each['where']}: {each['message']}. {each['fix']}" for each in kept[:most]]
    return "\n".join([*lines, *([f"  and {len(kept) - most} more"] if len(kept) > most else [])])


def _rank(each: Finding) -> tuple[Any, ...]:
    file, _, line = each["where"].rpartition(":")
    return (_ORDER[each["level"]], file, int(line) if line.isdigit() else 0, each["rule"], each["message"])
