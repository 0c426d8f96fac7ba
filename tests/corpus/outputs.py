"""What goes in and comes out: dicts, None, named tuples, views, and inputs that are overwritten."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from tests.corpus.case import case


@case("script")
class DictOutput(nn.Module):
    """The answer is a dict: only scripting keeps it one."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x * 2, "best": x.argmax(1)}


@case("script", "trace")
class DictInside(nn.Module):
    """A dict between layers does no harm."""

    def forward(self, x: Tensor) -> Tensor:
        parts = {"even": x[:, ::2], "odd": x[:, 1::2]}
        return parts["even"].sum(1) - parts["odd"].sum(1)


@case("script", "refuse", names="None", values=(torch.ones,))
class OptionalOutput(nn.Module):
    """The answer is None for some inputs; the samples are not among them."""

    def forward(self, x: Tensor) -> Optional[Tensor]:  # noqa: UP045 (as people write it)
        if x.sum() > 0:
            return x * 2
        return None


class _Boxes(NamedTuple):
    corners: Tensor
    scores: Tensor


@case("script", "trace")
class NamedOutput(nn.Module):
    """The answer is a named tuple."""

    def forward(self, x: Tensor) -> _Boxes:
        return _Boxes(corners=x * 2, scores=x.sum(1))


@case("script", "trace")
class OptionalArgument(nn.Module):
    """An optional argument that is not declared is None in every call."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        return x + 1


@case("script", "trace")
class InputMutated(nn.Module):
    """The caller's tensor is overwritten; the answer is the right one all the same."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return x + 1


@case("script", "trace")
class OutputIsInput(nn.Module):
    """One output is the input itself."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.relu()


@case("script", "trace")
class OutputIsView(nn.Module):
    """The outputs are views of one tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        doubled = x * 2
        return doubled[:, :1], doubled[:, 1:]
