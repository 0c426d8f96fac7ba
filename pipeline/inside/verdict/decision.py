"""Decides between torch.jit.script and torch.jit.trace from evidence, and says why."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample
from pipeline.inside.verdict import explanation
from pipeline.inside.verdict.coverage import Coverage
from pipeline.inside.verdict.findings import Finding, listed
from pipeline.inside.verdict.mixing import proposal
from pipeline.inside.verdict.rules import UNSCRIPTED
from pipeline.inside.verdict.scripting import Scripted, scripted
from pipeline.inside.verdict.search import edges
from pipeline.inside.verdict.sources import Sources
from pipeline.inside.verdict.static import Survey, root_of, strings_input, survey, tensor_input
from pipeline.inside.verdict.steady import refuse_unsteady, watched
from pipeline.inside.verdict.tracing import Traced, shape_of, trace, traced
from pipeline.inside.verdict.trial import FAILURES, Difference, cases, differences
from pipeline.inside.verdict.values import Value


def decide(
    model: nn.Module,
    *,
    samples: Sequence[Sample],
    probes: Sequence[Sample],
    outputs: Sequence[str],
    choice: str,
    accepted: str,
) -> tuple[ScriptModule, dict[str, Any]]:
    """The model as a program that agrees with it on every sample and probe, and the evidence (artifacts.Evidence).

    `outputs` are the names of the samples' answers, in order. `choice` is auto, script or trace; `accepted` a person's
    reason for letting a frozen branch through.

    Raises:
        Refused: there is no such program.
    """
    return _Decision(model, samples, probes, outputs, accepted).made(choice)


class _Decision:
    """What is known of one model while its verdict is made."""

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Sample],
        probes: Sequence[Sample],
        outputs: Sequence[str],
        accepted: str,
    ) -> None:
        self.model, self.accepted = model.eval(), accepted
        self.samples, self.probes = samples, probes
        self.cases = cases(samples, probes, outputs)
        self.sources = Sources(root_of(model))
        coverage = Coverage()
        unsteady = watched(model, self.cases, coverage)
        inputs = _inputs([*samples, *probes])
        self.survey: Survey = survey(model, inputs, self.sources, ran=coverage.codes, visited=coverage.lines)
        refuse_unsteady(model, self.survey, unsteady)
        self.unvisited = explanation.unvisited(self.survey, coverage, self.sources)
        self.findings: list[Finding] = [*self.survey.findings]
        # Not recorded: they only have to be answered alike.
        self.edges = edges(model, samples, outputs)

    def made(self, choice: str) -> tuple[ScriptModule, dict[str, Any]]:
        if choice == "script":
            return self._script_or_refuse(choice, "model.yaml asks for it, and it agrees with the model")
        if choice == "trace":
            return self._explicit_trace()
        return self._auto()

    def _auto(self) -> tuple[ScriptModule, dict[str, Any]]:
        if self.survey.live:
            what = explanation.first(self.survey.live)
            return self._script_or_refuse("auto", f"{what}, which scripting keeps")
        attempt, frozen, apart = self._trace()
        if attempt.program is not None and not frozen and not apart:
            return attempt.program, self._evidence("auto", "trace", explanation.PURE)
        why = explanation.not_traced(attempt, frozen, apart)
        return self._script_or_refuse("auto", f"{why}, and scripting agrees with the model", traced=why)

    def _explicit_trace(self) -> tuple[ScriptModule, dict[str, Any]]:
        attempt, frozen, apart = self._trace()
        if attempt.program is None:
            raise Refused(explanation.cannot_trace(attempt))
        live = bool(self.survey.live) or bool(frozen)
        if live and self.accepted:
            return self._accepted(attempt.program, "trace", apart)
        if live:
            raise Refused(explanation.frozen(self.survey, frozen, apart, self.unvisited))
        if apart:
            raise Refused(explanation.trace_differs(apart[0]))
        return attempt.program, self._evidence("trace", "trace", "model.yaml asks for it, and it agrees with the model")

    def _script_or_refuse(self, choice: str, because: str, *, traced: str = "") -> tuple[ScriptModule, dict[str, Any]]:
        attempt = scripted(self.model, self.sources)
        # The executor profiles the first runs of a shape, and from then on runs other, specialised code.
        runs = (*self.cases, *self.edges, *self.cases)
        apart = list(differences(attempt.program, runs, who="the scripted program")) if attempt.program else []
        unseen = [each for each in self.survey.findings if each["rule"] in UNSCRIPTED]
        if attempt.program is not None and not apart and not unseen:
            return attempt.program, self._evidence(choice, "script", because)
        if choice == "auto" and self.accepted and self.survey.live:
            trial, _, differing = self._trace()
            if trial.program is not None:
                return self._accepted(trial.program, choice, differing)
        raise Refused(self._no_program(choice, attempt, apart, unseen, traced))

    def _no_program(
        self, choice: str, attempt: Scripted, apart: list[Difference], unseen: list[Finding], traced: str
    ) -> str:
        mix = "" if choice == "script" else proposal(self.model, self.survey.live, self.cases, self.sources)
        return explanation.no_program(attempt, apart, self.survey, unseen=unseen, mix=mix, traced=traced, choice=choice)

    def _accepted(
        self, program: ScriptModule, choice: str, apart: list[Difference]
    ) -> tuple[ScriptModule, dict[str, Any]]:
        """A trace with a frozen branch that a person answers for; it must be right at least for the samples."""
        wrong = next((each for each in apart if each.is_of_sample), None)
        if wrong is not None:
            raise Refused(explanation.wrong_on_samples(wrong))
        self.findings += explanation.accepted(self.survey, apart, self.accepted)
        because = f"a person accepted the frozen branch: {self.accepted}"
        return program, self._evidence(choice, "trace", because, self.accepted)

    def _trace(self) -> tuple[Traced, list[Finding], list[Difference]]:
        """A trace, what torch warned of that the survey does not explain, and where it differs from the model."""
        attempt = traced(self.model, self.cases[: len(self.samples)], self.sources)
        self.findings += attempt.warned
        if attempt.program is None:
            return attempt, [], []
        new = {self.sources.where(*each) for each in attempt.frozen if not self.survey.settles(each, self.sources)}
        frozen = [each for each in attempt.warned if each["where"] in new]
        apart = list(differences(attempt.program, (*self.cases, *self.edges), who="the traced program"))
        if not frozen and not apart and not self.survey.live and not self._stable(attempt.program):
            frozen = [explanation.UNSTABLE]
        return attempt, frozen, apart

    def _stable(self, program: ScriptModule) -> bool:
        """Whether traces of other examples are the same program: inputs of another shape, and of other values."""
        wanted = shape_of(program)
        for case in {
            each.name: each for each in (self.cases[0], self.cases[len(self.cases) // 2], self.cases[-1])
        }.values():
            try:
                other, _ = trace(self.model, case.sample.inputs)
            except FAILURES:
                return False
            if shape_of(other) != wanted:
                return False
        return True

    def _evidence(self, choice: str, method: str, because: str, accepted: str = "") -> dict[str, Any]:
        return {
            "requested": choice,
            "method": method,
            "because": because,
            "findings": listed(explanation.for_method(self.findings, method)),
            "unvisited": self.unvisited,
            "samples": len(self.samples),
            "probes": len(self.probes),
            "accepted": accepted,
        }


def _inputs(taken: Sequence[Sample]) -> list[Value]:
    """The inputs as the survey takes them: a size that never differs is fixed."""
    result = []
    for group in zip(*(each.inputs for each in taken), strict=True):
        if not isinstance(group[0], Tensor):
            result.append(strings_input())
            continue
        sizes = [{each.shape[at] for each in group} for at in range(group[0].dim())]
        result.append(tensor_input([next(iter(each)) if len(each) == 1 else None for each in sizes]))
    return result


@contextmanager
def refusing(method: str) -> Iterator[None]:
    """Turns what torch says of a model that it cannot freeze or save into advice, with torch's own words below."""
    try:
        yield
    except (RuntimeError, TypeError, OSError, torch.jit.frontend.FrontendError) as error:
        advice = "Rewrite what it names" if method == "script" else "Set `export: script` in model.yaml, or rewrite it"
        raise Refused(f"torch cannot {method} and freeze this model. {advice}:\n{error}") from error
