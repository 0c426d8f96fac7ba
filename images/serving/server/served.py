"""A model with its contract: inputs in, named answers out."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.answers import Answer, ModelFailed, named
from server.contract import Contract
from server.engine import Engine, Input, Model


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
        try:
            return named(self.contract, self.model.forward(inputs))
        except self.engine.ModelError as error:
            raise ModelFailed(str(error)) from error
