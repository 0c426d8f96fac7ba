"""How far answers are from the trained model's, and when that is too far."""

from typing import Any

import torch
from torch import Tensor

from pipeline.inside.order import Refused
from pipeline.inside.samples import Value


class Deviation:
    """Gathers the largest deviation of one output over many answers (artifacts.Deviation); of strings it is 0 or 1."""

    def __init__(self) -> None:
        self._absolute = self._relative = 0.0
        self._equal = True
        self._agreeing = self._rows = 0

    def add(self, actual: Value, wanted: Value, tolerance: dict[str, float] | None, *, what: str) -> None:
        """Counts one answer in. Without a tolerance it is only measured.

        Raises:
            Refused: it has another datatype or shape, is not finite where the trained model's is, or is beyond the
                tolerance.
        """
        _refuse_other_form(actual, wanted, what=what)
        if tolerance is not None:
            _refuse_beyond(actual, wanted, tolerance, what=what)
        if not isinstance(actual, Tensor) or not isinstance(wanted, Tensor):
            if actual != wanted:
                self._absolute, self._relative, self._equal = 1.0, 1.0, False
            return
        if _same_bits(actual, wanted):
            self._agree(wanted, wanted)
            return
        self._equal = False
        apart = _apart(actual, wanted)
        self._absolute = max(self._absolute, float(apart.max()))
        scale = wanted.double().abs()
        if (scale > 0).any():
            self._relative = max(self._relative, float((apart / scale)[scale > 0].max()))
        self._agree(actual, wanted)
        if not torch.isfinite(apart).all():
            raise Refused(f"{what} is not finite where the trained model's is, or the other way round.")

    def found(self) -> dict[str, Any]:
        """The deviation as JSON."""
        agreement = self._agreeing / self._rows if self._rows else None
        return {"absolute": self._absolute, "relative": self._relative, "equal": self._equal, "agreement": agreement}

    def _agree(self, actual: Tensor, wanted: Tensor) -> None:
        """Counts the rows that answer alike, where rows are what a classifier gives: a number for each class."""
        if wanted.is_floating_point() and wanted.dim() >= 2 and wanted.shape[-1] >= 2 and wanted.numel():
            same = actual.argmax(dim=-1) == wanted.argmax(dim=-1)
            self._agreeing += int(same.sum())
            self._rows += same.numel()


def _refuse_beyond(actual: Value, wanted: Value, tolerance: dict[str, float], *, what: str) -> None:
    """Whole numbers, booleans and strings have to be equal; NaN is equal to NaN, and an infinity to itself.

    Raises:
        Refused: an element is off by more than the tolerance.
    """
    if not isinstance(actual, Tensor) or not isinstance(wanted, Tensor):
        if actual != wanted:
            raise Refused(
                f"{what} is {actual!r:.200} where the trained model gave {wanted!r:.200}. TorchScript's strings are "
                "bytes: len(), indexing, lower() and split() differ from Python's beyond ASCII."
            )
        return
    apart = _apart(actual, wanted)
    allowed = tolerance["absolute"] + tolerance["relative"] * wanted.double().abs()
    within = (apart <= allowed) | (apart == 0) if wanted.is_floating_point() else actual == wanted
    if not within.all():
        at = int((~within).flatten().nonzero()[0])
        got, expected, off, bound = (each.flatten()[at].item() for each in (actual, wanted, apart, allowed))
        raise Refused(
            f"{what} is {got:.6g} where the trained model gave {expected:.6g}, "
            f"off by {off:.2g} and allowed is {bound:.2g}. {_ADVICE}"
        )


_ADVICE = (
    "The archive does not compute what the model does: tracing froze a branch, or forward() is random. "
    "Set `export: script`; raise `tolerance` only if it is intended."
)


def _refuse_other_form(actual: Value, wanted: Value, *, what: str) -> None:
    """Raises Refused where datatype or shape are not the trained model's."""
    if type(actual) is not type(wanted):
        raise Refused(f"{what} is a {type(actual).__name__} where the trained model gave a {type(wanted).__name__}.")
    if not isinstance(actual, Tensor) or not isinstance(wanted, Tensor):
        return
    if actual.dtype != wanted.dtype or actual.shape != wanted.shape:
        raise Refused(
            f"{what} is {actual.dtype} {list(actual.shape)} where the trained model gave {wanted.dtype} "
            f"{list(wanted.shape)}. Export baked a shape in: set `export: script` in model.yaml."
        )


def _apart(actual: Tensor, wanted: Tensor) -> Tensor:
    """|actual - wanted| in double precision; 0 where both are NaN or the same infinity, infinite where one is."""
    apart = (actual.double() - wanted.double()).abs()
    same = (actual == wanted) | (actual.isnan() & wanted.isnan())
    return torch.where(same, 0.0, apart).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _same_bits(actual: Tensor, wanted: Tensor) -> bool:
    one, other = (each.contiguous().reshape(-1).view(torch.uint8) for each in (actual, wanted))
    return bool(torch.equal(one, other))
