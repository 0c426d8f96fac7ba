"""Runs in the training image: asks for a verdict on every case of the corpus, and finds out what is true of it.

The report is JSON: by name of the case what was found, as `examined` says. Further arguments name the only cases.
"""

import faulthandler
import inspect
import json
import sys
import time
import traceback
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.inside import probes
from pipeline.inside.order import Refused
from pipeline.inside.samples import DATATYPES, Sample, outputs_of
from pipeline.inside.verdict.decision import decide, refusing
from tests.corpus.case import Case, Inputs, corpus

TOLERANCE = {"absolute": 1e-4, "relative": 1e-4}
METHODS = ("script", "trace")
# A loop that never ends, in a case or in a verdict on it, ends the run with the place where it was: seconds.
_STUCK = 120


def examined(case: Case) -> dict[str, Any]:
    """What the verdict on the case is, and what each method is worth.

    `got` is script, trace, refuse or crash; `told` everything that the verdict said; `apart` how the archive differs
    from the model, or empty; `facts` for script and trace how an archive made in that way fails, or empty; `line`
    where the code that the case names is.
    """
    got, told, archive = _decided(case)
    return {
        "right": case.right,
        "names": case.names,
        "line": _line(case),
        "accepted": case.accepted,
        "choice": case.choice,
        "got": got,
        "told": told,
        "apart": _apart(case, archive) if archive is not None else "",
        "facts": facts(case),
    }


def facts(case: Case) -> dict[str, str]:
    """How an archive made by each method, without any care, fails or differs from the model; empty if it does not."""
    found = {}
    for method in METHODS:
        try:
            found[method] = _apart(case, _reloaded(_converted(case, method)))
        except Exception as error:  # noqa: BLE001 (whatever torch raises, there is no archive)
            found[method] = f"fails: {type(error).__name__}: {error}"
    return found


def _decided(case: Case) -> tuple[str, str, Any]:
    """The verdict, all that it says, and the archive as it would be loaded."""
    try:
        model = case.build()
        samples = tuple(_answered(model, inputs) for inputs in case.samples())
        contract = _contract(model, samples, case)
        probed = probes.make(model, samples, contract, seed=0)
        program, evidence = decide(
            model,
            samples=samples,
            probes=probed,
            outputs=[tensor["name"] for tensor in contract["outputs"]],
            choice=case.choice,
            accepted=case.accepted,
        )
        with refusing(evidence["method"]):
            archive = _reloaded(program)
    except Refused as refusal:
        return "refuse", str(refusal), None
    except Exception:  # noqa: BLE001 (one case must not keep the others from their turn)
        return "crash", traceback.format_exc(), None
    return evidence["method"], json.dumps(evidence), archive


def _converted(case: Case, method: str) -> Any:
    model = case.build()
    samples = case.samples()
    for inputs in samples:
        _answered(model, inputs)
    if method == "script":
        return torch.jit.script(model)
    largest = max(samples, key=lambda inputs: len(inputs[0]))
    with torch.no_grad():
        return torch.jit.trace(model, _copied(largest), check_trace=False)


def _reloaded(program: Any) -> Any:
    """The archive as the export writes it and a server reads it."""
    raw = BytesIO()
    torch.jit.save(torch.jit.freeze(program), raw)
    raw.seek(0)
    return torch.jit.load(raw)


def _apart(case: Case, archive: Any) -> str:
    """Where the archive and the model part on inputs that were held back. Each is asked twice and keeps its state."""
    eager = case.build()
    for number, inputs in enumerate(case.held_back()):
        where = f"held-back input {number} {[list(each.shape) for each in inputs]}"
        wanted, again = _run(eager, inputs), _run(eager, inputs)
        if not _equal(wanted, again):
            return f"{where}: the model itself answers {again} after {wanted}"
        for _ in range(2):
            got = _run(archive, inputs)
            if not _equal(got, wanted):
                return f"{where}: the archive answers {got}, the model {wanted}"
    return ""


def _run(program: Any, inputs: Inputs) -> tuple[Tensor, ...] | None:
    """The answer, or None for an input that the program refuses."""
    try:
        with torch.inference_mode():
            return _answers(program(*_copied(inputs)))
    except Exception:  # noqa: BLE001 (a model raises what it likes)
        return None


def _equal(one: tuple[Tensor, ...] | None, other: tuple[Tensor, ...] | None) -> bool:
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.allclose(a, b, rtol=TOLERANCE["relative"], atol=TOLERANCE["absolute"], equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def _answered(model: nn.Module, inputs: Inputs) -> Sample:
    with torch.inference_mode():
        return Sample(inputs=inputs, outputs=_answers(model(*_copied(inputs))))


def _answers(result: Any) -> tuple[Any, ...]:
    answers: tuple[Any, ...] = outputs_of(result, _names(result))
    return tuple(each.clone() for each in answers)


def _names(result: Any) -> list[str]:
    """What model.yaml would call the outputs."""
    if isinstance(result, dict):
        return list(result)
    return [f"y{number}" for number in range(len(result) if isinstance(result, tuple | list) else 1)]


def _copied(inputs: Inputs) -> Inputs:
    return tuple(each.clone() for each in inputs)


def _contract(model: nn.Module, samples: tuple[Sample, ...], case: Case) -> dict[str, Any]:
    """What model.yaml would declare; an output is free wherever the samples differ."""
    arguments = list(inspect.signature(model.forward).parameters)
    with torch.inference_mode():
        names = _names(model(*_copied(case.samples()[0])))
    answers: list[tuple[Any, ...]] = [sample.outputs for sample in samples]
    outputs = [
        [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*(each.shape for each in values), strict=False)]
        for values in zip(*answers, strict=True)
    ]
    return {
        "inputs": [
            {"name": name, "datatype": DATATYPES[value.dtype], "shape": list(shape)}
            for name, value, shape in zip(arguments, case.samples()[0], case.shapes, strict=False)
        ],
        "outputs": [
            {"name": name, "datatype": DATATYPES[value.dtype], "shape": shape}
            for name, value, shape in zip(names, answers[0], outputs, strict=True)
        ],
        "tolerance": TOLERANCE,
    }


def _line(case: Case) -> str:
    """`file.py:12`, where the guilty code is, or empty."""
    path = Path(sys.modules[case.module.__module__].__file__ or "")
    text = path.read_text(encoding="utf-8")
    start = text.index(f"class {case.name}(")
    at = text.find(case.names, start)
    if at == -1:
        at = text.find(case.names)
    return f"{path.name}:{text.count(chr(10), 0, at) + 1}" if case.names and at != -1 else ""


def main(out: Path, only: list[str]) -> None:
    report = {}
    for case in corpus():
        if not only or case.name in only:
            faulthandler.dump_traceback_later(_STUCK, exit=True)
            started = time.monotonic()
            report[case.name] = examined(case) | {"seconds": round(time.monotonic() - started, 2)}
    faulthandler.cancel_dump_traceback_later()
    out.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    main(Path(sys.argv[1]), sys.argv[2:])
