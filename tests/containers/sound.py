"""Runs beside torch: archives of sound modules, in which the check must find nothing, and of the same in training."""

# torch is not on the host, so to mypy its Module is of any type.
# mypy: disallow-subclassing-any=False
import contextlib
import io
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision import models

from pipeline.check.foreign import DESCRIBE
from pipeline.check.runtime import RuntimeFacts, parse
from pipeline.check.static import inspect

# The layers that behave otherwise in training, and those whose code branches on what they were made with.
_LAYERS = {
    "dropouts": nn.Sequential(
        nn.Dropout(), nn.Dropout1d(), nn.Dropout3d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()
    ),
    "dropout2d": nn.Dropout2d(),
    "rrelu": nn.RReLU(),
    "lstm": nn.LSTM(4, 5, 2, dropout=0.3, batch_first=True),
    "gru": nn.GRU(4, 5, bidirectional=True),
    "attention": nn.MultiheadAttention(4, 2, dropout=0.1),
    "encoder": nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2),
    "decoder": nn.TransformerDecoderLayer(8, 2, 16),
    "norm without statistics": nn.BatchNorm2d(4, track_running_stats=False),
    "instance norm": nn.InstanceNorm2d(4),
    "instance norm with statistics": nn.InstanceNorm2d(4, track_running_stats=True, affine=True),
    "bag": nn.EmbeddingBag(5, 3),
    "upsample": nn.Upsample(scale_factor=2, mode="bilinear"),
    "gelu": nn.GELU(),
}
_NETWORKS: dict[str, nn.Module] = {
    "mobilenet": models.mobilenet_v3_small(),
    "shufflenet": models.shufflenet_v2_x0_5(),
    "transformer": models.VisionTransformer(
        image_size=64, patch_size=32, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8
    ),
}


class Functional(nn.Module):
    """Functions that are told the mode, as they should be."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, 0.5, self.training)
        x = nn.functional.alpha_dropout(x, 0.5)
        x = nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.0)
        return torch.div(x.softmax(-1), 2.0, rounding_mode=None)


def false_findings() -> list[str]:
    """What is found in sound archives, and what is not found in those in training mode; both should be nothing."""
    facts = _facts()
    wrong = []
    for name, module, archive in _archives():
        rules = sorted({f"{found.rule} {found.where}" for found in inspect(archive, facts)})
        trains = module.training and any(rule.startswith("train-mode data.pkl") for rule in rules)
        wrong += [] if trains else [f"{name}: {rule}" for rule in rules]
        wrong += [f"{name}: no train-mode"] if module.training and not trains else []
    return wrong


def _archives() -> Iterator[tuple[str, nn.Module, io.BytesIO]]:
    for name, layer in (_LAYERS | {"functional": Functional()}).items():
        scripted = torch.jit.script(layer.eval())
        yield name, layer, _saved(scripted)
        yield f"{name}, frozen", layer, _saved(torch.jit.freeze(scripted))
        yield f"{name}, in training", layer.train(), _saved(torch.jit.script(layer))
    image = torch.rand(1, 3, 64, 64)
    for name, network in _NETWORKS.items():
        network.eval()
        yield name, network, _saved(torch.jit.script(network))
        traced = torch.jit.trace(network, image, check_trace=False)
        yield f"{name}, traced", network, _saved(traced)
        yield f"{name}, traced and frozen", network, _saved(torch.jit.freeze(traced))


def _saved(module: torch.jit.ScriptModule) -> io.BytesIO:
    written = io.BytesIO()
    torch.jit.save(module, written)
    return written


def _facts() -> RuntimeFacts:
    """What this torch can load, as an image with it would say."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(DESCRIBE, {})
    return parse(said.getvalue().encode())
