"""What the static analysis writes down on its walk: findings, live control flow, what each expression depends on."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeAlias

from pipeline.inside.verdict.findings import Finding, finding
from pipeline.inside.verdict.rules import FIXES
from pipeline.inside.verdict.sources import Sources
from pipeline.inside.verdict.values import LIVE, MEMORY, NOTHING, SHAPE, STATE, VALUE, Value

# file, first line and column, last line and column
Position: TypeAlias = tuple[str, int, int, int, int]
# What forward() changes: an attribute of an object, or (with an empty name) the object itself.
Key: TypeAlias = tuple[int, str]
# The rules that name how an answer can build on earlier calls.
MEMORY_RULES = frozenset({"state", "branch-on-state", "loop-on-state", "outside-world"})
_DECIDERS = {
    VALUE: "the input's values",
    SHAPE: "the input's shape",
    STATE: "what earlier calls or the surroundings left behind",
}


@dataclass(slots=True)
class Frame:
    """One function being walked. `owner` is the module whose method it is; `depth` counts undecided branches and
    loops around; messages are `quiet`; `space` tells the module's globals apart."""

    file: str
    names: dict[str, Value]
    outside: Mapping[str, Any]
    owner: Any
    returns: list[Value]
    around: "Frame | None" = None
    depth: int = 0
    quiet: int = 0
    space: int = 0

    def inner(self, *, depth: int) -> "Frame":
        """A frame for what is defined inside this one."""
        return Frame(
            file=self.file,
            names={},
            outside=self.outside,
            owner=self.owner,
            returns=[],
            around=self,
            depth=depth,
            quiet=self.quiet,
            space=self.space,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Control flow, or a number taken out of a tensor, that another request decides otherwise."""

    finding: Finding
    position: Position
    taint: frozenset[str]
    owner: str


def decider(taint: frozenset[str]) -> str:
    """What decides: the gravest of the taints, in words."""
    kinds = [VALUE if VALUE in taint else "", STATE if taint & {STATE, MEMORY} else "", SHAPE if SHAPE in taint else ""]
    return " and ".join(_DECIDERS[kind] for kind in kinds if kind)


class Recorder:
    """Findings in the order of the walk, each once."""

    def __init__(
        self,
        sources: Sources,
        *,
        owners: Mapping[int, str],
        changed: Mapping[Key, str],
        visited: frozenset[tuple[str, int]] | None = None,
    ) -> None:
        self.sources = sources
        # The lines that ran, when it is known.
        self.visited = visited
        self.owners = owners
        # What the walk before this one saw forward() change.
        self.changed = changed
        self.changes: dict[Key, str] = {}
        self.stores: dict[Key, Value] = {}
        self.findings: dict[tuple[str, str, str], Finding] = {}
        self.live: dict[tuple[str, Position], Live] = {}
        self.taints: dict[Position, frozenset[str]] = {}
        self.codes: set[CodeType] = set()

    def position(self, node: ast.AST, frame: Frame) -> Position:
        where = (getattr(node, name) or 0 for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"))
        line, column, end, last = where
        return (frame.file, line, column, end, last)

    def note(self, rule: str, level: str, node: ast.AST, frame: Frame, says: str) -> Finding:
        """Writes down a finding about a line, which is quoted. `says` completes the sentence."""
        line = getattr(node, "lineno", 0)
        message = f"`{self.sources.line(frame.file, line)}` {says}"
        found = finding(rule, level, self.sources.where(frame.file, line), message, FIXES[rule])
        return self.findings.setdefault((rule, found["where"], says), found)

    def alive(self, rule: str, node: ast.AST, frame: Frame, taint: frozenset[str], says: str = "") -> None:
        """Writes down live control flow, unless nothing that changes decides it or it only makes up a message."""
        if not taint & LIVE or frame.quiet:
            return
        found = self.note(rule, "info", node, frame, says or f"is decided by {decider(taint)}")
        position = self.position(node, frame)
        owner = self.owners.get(id(frame.owner), "")
        self.live.setdefault((rule, position), Live(finding=found, position=position, taint=taint & LIVE, owner=owner))

    def seen(self, node: ast.expr, value: Value, frame: Frame) -> Value:
        """Remembers what an expression depends on, over every visit."""
        position = self.position(node, frame)
        self.taints[position] = self.taints.get(position, NOTHING) | value.taint
        return value

    def test(self, node: ast.expr, value: Value, frame: Frame, construct: str) -> None:
        """A truth value is asked of the expression."""
        taint = value.taint & LIVE
        kind = "value" if VALUE in taint else "state" if taint & {STATE, MEMORY} else "shape"
        self.alive(f"branch-on-{kind}", node, frame, taint, f"asks ({construct}) for {decider(taint)}" if taint else "")

    def loop(self, node: ast.AST, taint: frozenset[str], frame: Frame) -> None:
        """Something is gone through whose length has this taint."""
        taint &= LIVE
        kind = "value" if VALUE in taint else "state" if taint & {STATE, MEMORY} else "shape"
        self.alive(f"loop-on-{kind}", node, frame, taint, f"gets its number of rounds from {decider(taint)}")

    def change(self, key: Key, how: str) -> None:
        """forward() changes what outlives it. Building on what was there is the graver way."""
        if self.changes.get(key) != MEMORY:
            self.changes[key] = how
