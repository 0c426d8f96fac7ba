"""Runs the model and a program made from it on the same inputs, and says where they differ."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample, outputs_of

# The same kernels compute both; only fusion and constant folding may move the last bits. Relative to each element,
# and a tenth of that relative to the largest of the output.
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
# Seconds for one answer. An input that takes longer is left out.
LONGEST = 10.0
# How much of a tensor a message shows.
SHOWN = 6
# What a model or program raises when it cannot take an input: any kind, since Python of the model's own runs.
FAILURES = (Exception,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An input by the name that messages give it, and the model's answer to it: one for each of the named `outputs`."""

    name: str
    sample: Sample
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One case for which a program does not answer as the model does: `says` completes the sentence."""

    case: Case
    says: str

    @property
    def is_of_sample(self) -> bool:
        """Whether the model was asked this by a person, not by a probe."""
        return self.case.name.startswith("sample ")

    def __str__(self) -> str:
        return f"For {self.case.name} ({described(self.case.sample.inputs)}) {self.says}"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError when what runs inside takes longer: a loop on an input's values may never end."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cases(samples: Sequence[Sample], probes: Sequence[Sample], outputs: Sequence[str]) -> tuple[Case, ...]:
    """Samples and probes under their names."""
    kinds = (("sample", samples), ("probe", probes))
    return tuple(
        Case(name=f"{kind} {n}", sample=each, outputs=tuple(outputs))
        for kind, group in kinds
        for n, each in enumerate(group)
    )


def run(program: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[str]) -> tuple[Any, ...]:
    """The answers in the order of `outputs`, tensors or lists of strings. The inputs stay as they are.

    Raises:
        Refused: it returned something else.
    """
    given = [each.clone() if isinstance(each, Tensor) else list(each) for each in inputs]
    with torch.no_grad():
        return outputs_of(program(*given), outputs)


def differences(program: Callable[..., Any], wanted: Sequence[Case], *, who: str) -> Iterator[Difference]:
    """The cases for which the program fails or answers something else than the model did."""
    for case in wanted:
        try:
            got = run(program, case.sample.inputs, case.outputs)
        except Refused as refusal:
            yield Difference(case=case, says=f"{who} answers otherwise: {refusal}")
        except FAILURES as failure:
            yield Difference(case=case, says=f"{who} fails where the model answers: {_last_line(failure)}")
        else:
            apart = difference(got, case.sample.outputs)
            if apart:
                yield Difference(case=case, says=f"{who} answers {apart[0]}, and the model {apart[1]}")


def agreeing(program: Callable[..., Any], probes: Sequence[Sample], outputs: Sequence[str]) -> tuple[Sample, ...]:
    """The probes that the program answers as the model did."""
    apart = {each.case.name for each in differences(program, cases((), probes, outputs), who="the program")}
    return tuple(each.sample for each in cases((), probes, outputs) if each.name not in apart)


def difference(got: Sequence[Any], wanted: Sequence[Any]) -> tuple[str, str] | None:
    """Both answers in words where they differ in number, datatype, shape or value."""
    if len(got) != len(wanted):
        return f"{len(got)} outputs", f"{len(wanted)}"
    for one, other in zip(got, wanted, strict=True):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            if one != other:
                return f"{one!r:.80}", f"{other!r:.80}"
        elif one.dtype != other.dtype or one.shape != other.shape:
            return f"{one.dtype} {list(one.shape)}", f"{other.dtype} {list(other.shape)}"
        elif not agrees(one, other):
            at = _first_apart(one, other)
            return values(one, at), values(other, at)
    return None


def agrees(got: Tensor, wanted: Tensor) -> bool:
    """Whether values are equal, or as good as equal for numbers that are rounded."""
    if torch.equal(got, wanted) or not wanted.numel():
        return True
    return bool(_within(got, wanted).all())


def _within(got: Tensor, wanted: Tensor) -> Tensor:
    if not wanted.is_floating_point():
        return got == wanted
    close = CLOSE.get(wanted.dtype, 0.0)
    exact = wanted.double()
    sizes = exact.abs().nan_to_num(0.0, 0.0, 0.0)
    apart = (got.double() - exact).abs()
    return (apart <= close * sizes + close / 10 * sizes.max()) | (got == wanted) | (got.isnan() & wanted.isnan())


def _first_apart(got: Tensor, wanted: Tensor) -> int:
    return int((~_within(got, wanted)).flatten().nonzero()[0])


def values(tensor: Tensor, start: int = 0) -> str:
    """A few values of a tensor, from the element `start` on."""
    start = 0 if start < SHOWN else start
    some = tensor.detach().flatten()[start : start + SHOWN].tolist()
    text = ", ".join(f"{each:.5g}" if isinstance(each, float) else str(each) for each in some)
    before = "…, " if start else ""
    return f"[{before}{text}{', …' if tensor.numel() > start + SHOWN else ''}]"


def described(inputs: Sequence[Any]) -> str:
    """Inputs by shape and values."""
    return "; ".join(
        f"{list(each.shape)} {values(each)}" if isinstance(each, Tensor) else f"{each!r:.80}" for each in inputs
    )


def _last_line(failure: Exception) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[-1]:.200}" if lines else type(failure).__name__
