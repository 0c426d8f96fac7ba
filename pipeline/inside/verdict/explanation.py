"""The verdict in words: why it is trace or script, what was never visited, and what to do where neither will do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.inside.verdict.coverage import Coverage
from pipeline.inside.verdict.findings import Finding, finding, shown
from pipeline.inside.verdict.recording import Live
from pipeline.inside.verdict.sources import Sources
from pipeline.inside.verdict.static import Survey
from pipeline.inside.verdict.values import LIVE, NOTHING

if TYPE_CHECKING:
    from pipeline.inside.verdict.scripting import Scripted
    from pipeline.inside.verdict.tracing import Traced
    from pipeline.inside.verdict.trial import Difference

PURE = "no input decides which code runs, and the trace agrees with the model on every sample and probe"
UNSTABLE = finding(
    "unstable-trace",
    "warning",
    "",
    "traces of different inputs are different programs",
    "Let torch.jit.script keep what the inputs decide",
)
_ACCEPT = "Only if such an input never comes: `--accept-frozen-branch REASON`."
_MOST_UNVISITED = 20


def unvisited(survey: Survey, coverage: Coverage, sources: Sources) -> list[str]:
    """The branches that the inputs decide and that every sample and probe decided alike, such as `model.py:12: ...`."""
    found = set()
    decisions = coverage.decisions()
    for position, outcomes in decisions.items():
        if survey.taints.get(position, NOTHING) & LIVE and len(outcomes) < 2:
            loop = position in coverage.loops
            if True in outcomes:
                never = "never ended" if loop else "was never False"
            elif False in outcomes:
                never = "was never entered" if loop else "was never True"
            else:
                never = "was never reached"
            found.add((position, never))
    for live in survey.live:
        missed = live.position not in decisions and (live.position[0], live.position[1]) not in coverage.lines
        if missed and live.position[1]:
            found.add((live.position, "was never reached"))
    lines = [f"{sources.where(at[0], at[1])}: `{_code(at, sources)}` {never}" for at, never in sorted(found)]
    once = list(dict.fromkeys(lines))
    more = len(once) - _MOST_UNVISITED
    return once if more <= 0 else [*once[:_MOST_UNVISITED], f"and {more} more"]


def _code(at: tuple[str, int, int, int, int], sources: Sources) -> str:
    """The condition itself where it stands on one line, or else the line."""
    line = sources.raw(at[0], at[1])
    part = line.encode()[at[2] : at[4]].decode(errors="replace") if at[1] == at[3] else ""
    return part or line.strip()


def first(live: Sequence[Live]) -> str:
    """The control flow that counts most, in a sentence."""
    found = min(live, key=lambda each: (not each.finding["rule"].startswith(("branch", "loop")), each.finding["where"]))
    return f"{found.finding['where']}: {found.finding['message']}"


def for_method(findings: Sequence[Finding], method: str) -> list[Finding]:
    """The findings that say something of a program made in this way."""
    if method == "script":
        return [each for each in findings if each["rule"] not in {"tracer-warning", "device-baked", "unstable-trace"}]
    return [each | {"level": "warning"} if each["rule"] == "device-baked" else each for each in findings]


def not_traced(attempt: "Traced", frozen: Sequence[Finding], apart: Sequence["Difference"]) -> str:
    """Why a trace will not do although no control flow was read in the code."""
    if attempt.program is None:
        return f"tracing fails ({_first_line(attempt.failed)})"
    if apart:
        return f"a trace is wrong ({apart[0]})"
    return f"a trace would freeze what the inputs decide ({frozen[0]['where']}: {frozen[0]['message']})"


def cannot_trace(attempt: "Traced") -> str:
    return (
        f"torch cannot trace this model. Set `export: auto` in model.yaml, or rewrite what it names:\n{attempt.failed}"
    )


def trace_differs(apart: "Difference") -> str:
    return f"The trace does not compute what the model does. {apart}. Set `export: auto` in model.yaml."


def frozen(survey: Survey, warned: Sequence[Finding], found: Sequence["Difference"], missed: Sequence[str]) -> str:
    """Why an explicit trace is refused, with the input that shows it."""
    seen = [*(each.finding for each in survey.live), *warned]
    shows = f"{found[0]}." if found else ""
    if not found:
        lines = "\n".join(f"  {each}" for each in missed) or "  (both sides of each were visited)"
        shows = f"No sample and no probe shows the wrong answer, because these ways were never taken:\n{lines}\n"
    return (
        f"A trace keeps one way through code that the inputs decide:\n{shown(seen)}\n{shows}"
        f"{'' if shows.endswith(chr(10)) else chr(10)}Set `export: auto` or `export: script` in model.yaml."
        f"{'' if any(each.is_of_sample for each in found) else f' {_ACCEPT}'}"
    )


def wrong_on_samples(wrong: "Difference") -> str:
    return (
        "--accept-frozen-branch is for a branch that is never taken, but the trace is wrong for a sample itself. "
        f"{wrong}. Set `export: script` in model.yaml."
    )


def accepted(survey: Survey, apart: Sequence["Difference"], reason: str) -> list[Finding]:
    """The frozen branches as they stay in the record."""
    wrong = f"; {apart[0]}" if apart else ""
    return [
        finding(
            "frozen-branch",
            "warning",
            live.finding["where"],
            f"{live.finding['message']}; the trace keeps one way, accepted because: {reason}{wrong}",
            "Write it so that torch.jit.script can keep it",
        )
        for live in survey.live
    ]


def no_program(
    attempt: "Scripted",
    apart: Sequence["Difference"],
    survey: Survey,
    *,
    unseen: Sequence[Finding],
    mix: str,
    traced: str,
    choice: str,
) -> str:
    """Why there is neither a scripted program nor a traced one that can be trusted."""
    seen = shown(each.finding for each in survey.live)
    live = f"The inputs decide which code runs, so only torch.jit.script can keep it:\n{seen}\n"
    before = live if survey.live and choice == "auto" else f"{traced[:1].upper()}{traced[1:]}.\n" if traced else ""
    if attempt.program is not None and not apart:
        return f"{before}torch can script this model, but for other inputs it would answer otherwise:\n{shown(unseen)}"
    if attempt.program is not None:
        before += f"{shown(unseen)}\n" if unseen else ""
        return (
            f"{before}The scripted program does not compute what the model does. {apart[0]}. Scripting reads the code "
            "and not the run: hooks, patched methods, is_scripting() and numbers beyond 64 bits are what it can miss."
        )
    hints = [each for each in survey.findings if each["rule"] in {"checkpoint", "autograd-function", "unread-code"}]
    before += f"{shown(hints)}\n" if hints else ""
    accept = f"\n{_ACCEPT}" if survey.live and choice == "auto" else ""
    advice = f"\n{mix}" if mix else ""
    return f"{before}torch cannot script this model. {attempt.failed}{advice}{accept}\ntorch says:\n{attempt.words}"


def _first_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[0][:200] if lines else ""
