"""What `inv explain` prints."""

from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import Finding
from pipeline.explain import explain
from tests.unit import values

INFO = Finding(rule="loop", level="info", where="model.py:7", message="a loop over x.shape[0]", fix="")
WARNING = Finding(rule="device-literal", level="warning", where="model.py:9", message="on the CPU", fix="Use x.device.")


def test_method_reason_and_trials_come_first(tmp_path: Path) -> None:
    lines = list(explain(values.archive(tmp_path)))
    assert lines[:3] == [
        "tiny 1.0.0 is traced (torch.jit.trace); model.yaml asks for `auto`.",
        "  nothing depends on the input's values",
        "  Tried on 7 samples of held-out data and 20 random probes.",
    ]
    assert lines[-1] == "On the held-out split: accuracy 0.9000"
    assert not any("Never reached" in line or "ACCEPTED" in line for line in lines)


def test_warnings_come_before_what_is_only_worth_knowing(tmp_path: Path) -> None:
    plain = values.archive(tmp_path)
    archive = replace(
        plain,
        evidence=replace(
            plain.evidence, findings=(INFO, WARNING), unvisited=("model.py:12: `if`",), accepted="one size only"
        ),
    )
    text = "\n".join(explain(archive))
    order = ["one size only", "device-literal, model.py:9", "Use x.device.", "loop, model.py:7", "model.py:12: `if`"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_long_text_is_wrapped_and_code_keeps_its_lines(tmp_path: Path) -> None:
    plain = values.archive(tmp_path)
    message = "the branch " + "was taken " * 30 + "\n>>> if x.sum() > 0:"
    findings = (replace(INFO, message=message),)
    lines = list(explain(replace(plain, evidence=replace(plain.evidence, findings=findings))))
    assert max(map(len, lines)) <= 110
    assert "           >>> if x.sum() > 0:" in lines
