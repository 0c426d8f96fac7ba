"""Which sides of a branch a run went through."""

from typing import Any

from pipeline.inside.verdict.coverage import Coverage
from pipeline.inside.verdict.sources import Sources


def graded(x: int) -> str:
    grade = "small" if x < 10 else "large"
    if x > 3 and x % 2 == 0:
        return grade
    while x > 100:
        x -= 100
    return grade if x > 0 else grade.upper()


def _outcomes(*inputs: int) -> dict[str, set[bool]]:
    coverage = Coverage()
    with coverage.watching():
        for each in inputs:
            graded(each)
    lines = Sources()
    return {lines.raw(at[0], at[1]).encode()[at[2] : at[4]].decode(): seen for at, seen in coverage.decisions().items()}


def test_each_condition_has_its_own_outcomes() -> None:
    assert _outcomes(4) == {
        "x < 10": {True},
        "x > 3": {True},
        "x % 2 == 0": {True},
        "x > 100": set(),
        "x > 0": set(),
    }


def test_runs_add_up() -> None:
    seen = _outcomes(0, 5, 4, 205)
    assert {name: outcomes for name, outcomes in seen.items() if outcomes != {True, False}} == {}


def test_the_lines_that_ran_are_known() -> None:
    coverage = Coverage()
    with coverage.watching():
        graded(4)
    first = graded.__code__.co_firstlineno
    assert {line - first for _, line in coverage.lines} == {0, 1, 2, 3} or {
        line - first for _, line in coverage.lines
    } == {1, 2, 3}


def test_watching_ends_and_gives_back_what_was_there() -> None:
    import sys  # noqa: PLC0415 (what is tested is what it is at this moment)

    def mine(*_: Any) -> None: ...

    before = sys.gettrace()
    sys.settrace(mine)
    try:
        with Coverage().watching():
            assert sys.gettrace() is not mine
        assert sys.gettrace() is mine
    finally:
        sys.settrace(before)
