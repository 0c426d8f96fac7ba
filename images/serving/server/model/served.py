"""A model with its contract: inputs in, named answers out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from server.model.answers import Answer, ModelFailed, named, split
from server.model.contract import Contract
from server.model.engine import Engine, Input, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of a model answered to each of its requests, and the nanoseconds that its parts took."""

    answers: Sequence[tuple[Answer, ...]]
    input_ns: int
    infer_ns: int
    output_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that `engine` loaded."""

    contract: Contract
    engine: Engine
    model: Model

    def answer(self, inputs: Sequence[Input]) -> tuple[Answer, ...]:
        """Runs the model on inputs in forward()'s order, in the calling thread.

        Raises:
            ModelFailed: the model raised, or answered something other than its contract says.
        """
        return self.answer_together([inputs]).answers[0]

    def answer_together(self, requests: Sequence[Sequence[Input]]) -> Run:
        """Runs the model once for several requests whose inputs differ in their rows only.

        Raises:
            ModelFailed: the model raised, or answered something other than its contract says.
        """
        try:
            outputs, input_ns, infer_ns = self.model.forward_together(requests)
        except (self.engine.ModelError, MemoryError) as error:
            raise ModelFailed(str(error) or "out of memory") from error
        ran = time.monotonic_ns()
        whole = named(self.contract, outputs)
        answers = [whole] if len(requests) == 1 else split(whole, [inputs[0][1][0] for inputs in requests])
        return Run(answers=answers, input_ns=input_ns, infer_ns=infer_ns, output_ns=time.monotonic_ns() - ran)
