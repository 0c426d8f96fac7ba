"""Watches which lines and which sides of each branch of the model's Python a run goes through.

sys.settrace shows every instruction, so that also `a if b else c`, `and`, `or` and comprehensions are seen.
"""

import dis
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

from pipeline.inside.verdict.recording import Position
from pipeline.inside.verdict.sources import is_open

_JUMPS_IF = (
    "POP_JUMP_IF",
    "POP_JUMP_FORWARD_IF",
    "POP_JUMP_BACKWARD_IF",
    "JUMP_IF_FALSE_OR_POP",
    "JUMP_IF_TRUE_OR_POP",
)


@dataclass(frozen=True, slots=True)
class Jump:
    """A conditional jump: what runs next when it is not taken, and what taking it says of its condition."""

    following: int
    position: Position
    taken: bool
    loop: bool


class Coverage:
    """Collects over several runs."""

    def __init__(self) -> None:
        self.codes: dict[CodeType, dict[int, Jump]] = {}
        self.seen: dict[Position, set[bool]] = {}
        self.lines: set[tuple[str, int]] = set()
        self.loops: set[Position] = set()
        self._last: dict[int, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches what runs inside."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def decisions(self) -> Mapping[Position, set[bool]]:
        """For each condition of the code that ran: how it turned out, True for a loop's that it went round."""
        found: dict[Position, set[bool]] = {}
        for jumps in list(self.codes.values()):
            for jump in jumps.values():
                found[jump.position] = self.seen.get(jump.position, set())
                if jump.loop:
                    self.loops.add(jump.position)
        return found

    def _called(self, frame: FrameType, *_: object) -> Any:
        code = frame.f_code
        if code not in self.codes:
            if not is_open(code.co_filename):
                return None
            self.codes[code] = _jumps(code)
        frame.f_trace_opcodes = True
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _: object) -> Any:
        me = id(frame)
        if event == "opcode":
            jump = self.codes[frame.f_code].get(self._last.get(me, -1))
            if jump is not None:
                taken = frame.f_lasti != jump.following
                self.seen.setdefault(jump.position, set()).add(jump.taken if taken else not jump.taken)
            self._last[me] = frame.f_lasti
        elif event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        elif event == "return":
            self._last.pop(me, None)
        return self._stepped


def _jumps(code: CodeType) -> dict[int, Jump]:
    found = {}
    steps = list(dis.get_instructions(code))
    for step, following in pairwise(steps):
        loop = step.opname == "FOR_ITER"
        if (loop or step.opname.startswith(_JUMPS_IF)) and step.positions and step.positions.lineno:
            at = step.positions
            position = (
                code.co_filename,
                at.lineno or 0,
                at.col_offset or 0,
                at.end_lineno or 0,
                at.end_col_offset or 0,
            )
            # A loop's jump is taken when nothing is left to go through.
            taken = not loop and (
                "TRUE" in step.opname or (step.opname.endswith("_NONE") and "NOT_NONE" not in step.opname)
            )
            found[step.offset] = Jump(following=following.offset, position=position, taken=taken, loop=loop)
    return found
