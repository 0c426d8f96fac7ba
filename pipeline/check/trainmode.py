"""Recognises calls that were saved as in training, with the flag written into the code as a literal."""

import ast
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.check.code import Use

_RANDOM = "it drops values at random, so that equal requests get different answers"
_BATCH = "it normalises by the batch in hand instead of what was learnt, so that an answer depends on its neighbours"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flag:
    """Where an operator's train flag is among its arguments, and which argument makes it harmless as 0 or None.

    Without running statistics (None) a norm uses the batch's in evaluation too; dropout with p = 0 does nothing.
    """

    name: str
    position: int
    harmless: int
    told: str


# Functions of torch's own Python code, which a scripted model calls by name. When torch's own modules do so, their
# attribute `training` says more: the attention's dropout is behind an `if`, a norm without statistics gets None.
_FUNCTIONS = "torch.nn.functional."
_TORCHS = "code/__torch__/torch/nn/"
_FLAGS: Mapping[str, _Flag] = {
    **{
        f"aten::{name}{suffix}": _Flag(name="train", position=2, harmless=1, told=_RANDOM)
        for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        for suffix in ("", "_")
    },
    "aten::native_dropout": _Flag(name="train", position=2, harmless=1, told=_RANDOM),
    "aten::rrelu": _Flag(name="training", position=3, harmless=2, told=_RANDOM),
    "aten::rrelu_": _Flag(name="training", position=3, harmless=2, told=_RANDOM),
    **{
        f"aten::{name}": _Flag(name="training", position=5, harmless=3, told=_BATCH)
        for name in ("batch_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
    },
    "aten::instance_norm": _Flag(name="use_input_stats", position=5, harmless=3, told=_BATCH),
    **{
        f"{_FUNCTIONS}{name}": _Flag(name="training", position=2, harmless=1, told=_RANDOM)
        for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    },
    f"{_FUNCTIONS}rrelu": _Flag(name="training", position=3, harmless=2, told=_RANDOM),
    f"{_FUNCTIONS}batch_norm": _Flag(name="training", position=5, harmless=1, told=_BATCH),
    f"{_FUNCTIONS}instance_norm": _Flag(name="use_input_stats", position=5, harmless=1, told=_BATCH),
    f"{_FUNCTIONS}multi_head_attention_forward": _Flag(name="training", position=13, harmless=10, told=_RANDOM),
}
# Where an operator without a flag has the probability itself.
_PROBABILITIES = {"aten::scaled_dot_product_attention": 4, f"{_FUNCTIONS}scaled_dot_product_attention": 4}
_RECURRENT = {"aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"}


def baked_in(use: Use) -> str | None:
    """What a call does at every request because it was saved in training mode; None if it was not."""
    if use.call is None or (use.operator.startswith(_FUNCTIONS) and use.line.path.startswith(_TORCHS)):
        return None
    if use.operator in _RECURRENT:
        return _RANDOM if _drops_between_layers(use.call) else None
    if use.operator in _PROBABILITIES:
        probability = _literal(use.call, _PROBABILITIES[use.operator], "dropout_p")
        return _RANDOM if isinstance(probability, float) and probability > 0 else None
    flag = _FLAGS.get(use.operator)
    if flag is None or _literal(use.call, flag.position, flag.name) is not True:
        return None
    return None if _literal(use.call, flag.harmless, "p") in {0, None} else flag.told


def _drops_between_layers(call: ast.Call) -> bool:
    """Recurrent operators have their flag after the dropout's probability, whose place differs by overload."""
    values = [argument.value if isinstance(argument, ast.Constant) else ... for argument in call.args]
    pairs = itertools.pairwise(values)
    return any(isinstance(value, float) and value > 0 and train is True for value, train in pairs)


def _literal(call: ast.Call, position: int, name: str) -> object:
    """The literal value of an argument; an Ellipsis for any other expression."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    argument = named[0] if named else call.args[position] if position < len(call.args) else None
    return argument.value if isinstance(argument, ast.Constant) else ...
