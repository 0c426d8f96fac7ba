"""Refuses a model that does not answer the same input in the same way every time: no archive can be right for it."""

from collections.abc import Iterable, Sequence

from torch import nn

from pipeline.inside.order import Refused
from pipeline.inside.verdict.coverage import Coverage
from pipeline.inside.verdict.findings import Finding, shown
from pipeline.inside.verdict.recording import MEMORY_RULES
from pipeline.inside.verdict.static import Survey
from pipeline.inside.verdict.trial import Case, Difference, differences


def watched(model: nn.Module, cases: Sequence[Case], coverage: Coverage) -> Difference | None:
    """Asks the model again, the other way round so that other inputs came before, and watches which code runs.

    Returns the first case that it answers otherwise than the first time.
    """
    with coverage.watching():
        return next(differences(model, cases[::-1], who="the model, asked again,"), None)


def refuse_unsteady(model: nn.Module, survey: Survey, unsteady: Difference | None) -> None:
    """Raises Refused for a model that is random, in train mode, or answers from what it remembers."""
    training = [
        f"{name or 'the model'} ({_lineage(module)})" for name, module in model.named_modules() if module.training
    ]
    if training:
        raise Refused(
            f"After eval() these modules are in train mode: {_some(training)}. An archive would keep that for ever: "
            "dropout stays on, and batch norm mixes the requests of a batch. Let eval() reach them: do not override "
            f"train(), and do not call it in forward().{_because(survey.findings, {'train-mode'})}"
        )
    for rule, what in (
        ("random", "forward() is random, so no archive can be held to its answers"),
        ("train-mode", "forward() turns train mode on, which an archive would keep for ever"),
        ("device-literal", "forward() names a device, and the archive would fail where that device is missing"),
    ):
        grave = [each for each in survey.findings if each["rule"] == rule and each["level"] == "error"]
        if grave:
            raise Refused(f"{what}.\n{shown(grave)}")
    if unsteady:
        causes = {"random", "state", "outside-world", "hook"}
        raise Refused(
            f"The model does not answer the same input in the same way every time. {unsteady} before. "
            "It is random, or it remembers earlier inputs: no archive can be held to such answers. Make forward() "
            f"depend on its inputs and weights alone.{_because(survey.findings, causes)}"
        )
    if survey.remembers:
        raise Refused(
            "forward() answers from what earlier calls or its surroundings left behind, and not from its inputs and "
            "weights alone. Take it as an input; of a state, return the new one."
            f"{_because(survey.findings, MEMORY_RULES)}"
        )


def _because(findings: Iterable[Finding], rules: Iterable[str]) -> str:
    found = [each for each in findings if each["rule"] in set(rules)]
    return f"\n{shown(found)}" if found else ""


def _lineage(module: nn.Module) -> str:
    kind, parent = type(module), type(module).__mro__[1]
    return kind.__name__ if kind.__module__.startswith("torch") else f"{kind.__name__}, a {parent.__name__}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
