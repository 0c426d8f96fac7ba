"""Whether a model may answer requests together is proved, and the size of a batch is what pays."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from server import together
from server.model import contract, samples
from server.model.engine import Input
from server.model.served import ServedModel
from server.together import Apart, best, prove
from tests.unit.server import models
from tests.unit.server.fake_engine import FakeEngine, FakeModel, Output


@dataclass
class Mixing(FakeModel):
    """Doubles its rows, and lets a row depend on the others of its batch where there are several."""

    archive: str = "double"
    together: float = 0.0

    def forward(self, inputs: Sequence[Input], /) -> Sequence[Output]:
        (_, shape, content), *_ = inputs
        x = np.frombuffer(content, np.float32).reshape(shape)
        y = 2 * x + self.together * (x - x.mean(axis=0))
        return [Output.of("FP32", tuple(shape), y.ravel().tolist())]


def _pairs(*rows: list[float]) -> bytes:
    tensors: dict[str, Any] = {}
    for index, row in enumerate(rows):
        x = np.array([row], np.float32)
        tensors |= {f"{index}/input/x": x, f"{index}/output/y": 2 * x}
    return save(tensors)


def _prove(folder: Path, model: FakeModel, content: bytes, **changes: Any) -> int:
    described = contract.read(models.write(folder, content=content, **changes))
    served = ServedModel(contract=described, engine=FakeEngine(), model=model)
    return prove(served, samples.read(described, folder / "samples.safetensors"))


def test_rows_that_do_not_depend_on_others_can_be_answered_together(tmp_path: Path) -> None:
    model = FakeModel("double")
    assert _prove(tmp_path, model, _pairs([1, 2, 3], [4, 5, 6], [7, 8, 9])) == 3
    assert model.batches == [3, 1, 1, 1, 3, 1, 1, 1]


def test_a_row_that_depends_on_others_is_found(tmp_path: Path) -> None:
    with pytest.raises(Apart, match=r"number 0 of 2 requests gets another answer than alone: y differs by up to 1\.5"):
        _prove(tmp_path, Mixing(together=1.0), _pairs([1, 2, 3], [4, 5, 6]))


def test_equal_samples_prove_nothing(tmp_path: Path) -> None:
    with pytest.raises(Apart, match="no two samples or probes of one shape differ"):
        _prove(tmp_path, Mixing(together=1.0), _pairs([1, 2, 3], [1, 2, 3]))


def test_outputs_of_other_lengths_are_told(tmp_path: Path) -> None:
    tensors = {f"{index}/input/x": np.ones((1, 3), np.float32) * index for index in range(2)}
    tensors |= {f"{index}/output/y": np.ones((2, 3), np.float32) for index in range(2)}
    with pytest.raises(Apart, match=r"do not have a row for each row \(x 1, y 2\)"):
        _prove(tmp_path, FakeModel("double"), save(tensors))


def test_a_model_that_fails_at_several_is_told(tmp_path: Path) -> None:
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    with pytest.raises(Apart, match="fails at requests together: output y: forward"):
        _prove(tmp_path, FakeModel("rows"), _pairs([1, 2, 3], [4, 5, 6]), outputs=outputs)


def test_a_fixed_first_dimension_is_told(tmp_path: Path) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 3]}]
    with pytest.raises(Apart, match=r"x \[1, 3\] has no free first dimension"):
        _prove(tmp_path, FakeModel("double"), _pairs([1, 2, 3], [4, 5, 6]), inputs=inputs)


@pytest.mark.parametrize(
    ("row_ms", "size"),
    [
        ({1: 2.0, 2: 1.6, 4: 1.4, 8: 1.3, 16: 1.29}, 16),
        ({1: 20.0, 2: 16.0, 4: 14.0, 8: 13.0, 16: 12.9}, 8),
        ({1: 300.0, 2: 250.0, 4: 210.0, 8: 200.0}, 2),
        ({1: 20.0, 2: 16.0, 4: 13.0, 8: 16.0, 16: 17.0}, 8),
        ({1: 20.0, 2: 20.1, 4: 19.0}, 1),
        ({1: 20.0}, 1),
    ],
)
def test_the_largest_batch_that_is_nearly_the_fastest_and_not_long_is_taken(
    row_ms: dict[int, float], size: int
) -> None:
    assert best(row_ms) == size


@pytest.mark.parametrize(("behaviour", "possible"), [("double", True), ("rows", False)])
def test_the_program_prints_what_it_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    behaviour: str,
    possible: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "_engine", FakeEngine())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(together, "_SECONDS", 0.0)
    content = _pairs([1, 2, 3], [4, 5, 6])
    folder = models.write(tmp_path, behaviour=behaviour, content=content)
    monkeypatch.setattr(sys, "argv", ["server.together", str(folder), "--memory", "4096"])
    assert together.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["possible"] is possible
    assert set(found["row_ms"]) == ({"1", "2", "4", "8", "16", "32"} if possible else set())
    assert ("2 samples and probes got the same answers" in found["because"]) is possible


def test_a_process_that_gets_too_large_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "_engine", FakeEngine())
    monkeypatch.setattr(together, "_SECONDS", 0.0)
    folder = models.write(tmp_path, content=_pairs([1, 2, 3], [4, 5, 6]))
    monkeypatch.setattr(sys, "argv", ["server.together", str(folder), "--memory", "1"])
    assert together.main() == 0
    assert set(json.loads(capsys.readouterr().out)["row_ms"]) == {"1"}
