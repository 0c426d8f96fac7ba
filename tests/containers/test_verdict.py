"""The verdict in the real trainer image: what is scripted, traced or refused, and how it is explained."""

import json
import re
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pipeline.artifacts import Evidence, Limits
from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.records import structured

HOME = Path(__file__).resolve().parents[2]
TRIAL = Path(__file__).with_name("verdict_trial.py")
Report: TypeAlias = dict[str, Any]


@pytest.fixture(scope="module")
def report(engine: DockerEngine, trainer: Image, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What verdict_trial.py found, all in one container."""
    out = tmp_path_factory.mktemp("verdict")
    job = Job(
        image=trainer.digest,
        command=("python", "/torchyard/verdict_trial.py", "/torchyard/out/report.json"),
        limits=Limits(memory=2048, cpus=min(2, engine.info().cpus), pids=256),
        mounts=(
            Mount(source=HOME / "pipeline" / "inside", target="/torchyard/pipeline/inside"),
            Mount(source=TRIAL, target="/torchyard/verdict_trial.py"),
            Mount(source=out, target="/torchyard/out", writable=True),
        ),
        env={"HOME": "/tmp", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": "/torchyard"},
    )
    engine.run(job, on_line=lambda _: None)
    found: Report = json.loads((out / "report.json").read_bytes())
    return found


def _line(code: str) -> str:
    """`verdict_trial.py:12`, where the code stands first."""
    text = TRIAL.read_text(encoding="utf-8")
    return f"{TRIAL.name}:{text[: text.index(code)].count(chr(10)) + 1}"


@pytest.mark.parametrize(
    ("case", "method", "because"),
    [
        ("stack", "trace", "no input decides which code runs"),
        ("embedding", "trace", "no input decides which code runs"),
        ("gate", "script", "`if x.sum() > 0:` asks (if) for the input's values, which scripting keeps"),
        ("rare", "script", "(x == 12345.0).any()"),
        ("words", "script", "gets its number of rounds from the input's shape"),
        ("gate accepted", "trace", "a person accepted the frozen branch: never below zero"),
    ],
)
def test_the_method_is_chosen_for_a_reason(report: Report, case: str, method: str, because: str) -> None:
    assert report[case].get("method") == method, report[case]
    assert because in report[case]["because"]
    assert structured(report[case], Evidence).method == method


def test_equal_models_have_equal_evidence(report: Report) -> None:
    assert report["stack"] == report["stack again"]
    assert "/tmp" not in json.dumps(report)


def test_a_branch_that_no_probe_takes_is_named_and_not_frozen(report: Report) -> None:
    at = _line("if bool((x == 12345.0).any())")
    assert report["rare"]["unvisited"] == [f"{at}: `bool((x == 12345.0).any())` was never True"]
    refused = report["rare traced"]["refused"]
    assert f"{at}: `bool((x == 12345.0).any())` was never True" in refused
    assert "--accept-frozen-branch REASON" in refused


def test_a_trace_of_live_control_flow_is_refused_with_the_input_that_shows_it(report: Report) -> None:
    refused = report["gate traced"]["refused"]
    assert _line("if x.sum() > 0") in refused
    assert re.search(
        r"For (sample|probe) \d+ \(\[\d, 3\] \[.*\]\) the traced program answers \[.*\], and the model \[", refused
    )


def test_an_accepted_branch_stays_in_the_record(report: Report) -> None:
    evidence = report["gate accepted"]
    frozen = [each for each in evidence["findings"] if each["rule"] == "frozen-branch"]
    assert [(each["level"], each["where"]) for each in frozen] == [("warning", _line("if x.sum() > 0"))]
    assert "accepted because: never below zero" in frozen[0]["message"]
    assert evidence["accepted"] == "never below zero"
    assert report["stack"]["accepted"] == ""


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("gate accepted though wrong", ["wrong for a sample itself", "For sample"]),
        ("random accepted", ["forward() is random", "nn.functional.dropout(x, 0.5)"]),
        ("trying", ["`try:`", "`try` cannot be scripted", "Test for the condition with `if`"]),
        ("keywords", ["only torch.jit.script can keep it", "`*args`, `**kwargs`", "Name and type each argument"]),
        ("keywords scripted", ["torch cannot script this model", "torch says:", "variable number of arguments"]),
        ("dropping", ["forward() is random", "draw once in __init__"]),
        ("training", ["norm (BatchNorm1d)", "in train mode", "do not override train()"]),
        ("counting", ["self.count += 1", "make forward() depend on its inputs"]),
        ("elsewhere", ["names a device", "device=x.device"]),
        ("words traced", ["a trace takes tensors, and an input is a list of strings", "export: auto"]),
        ("gated", ["A mix works", "`self.gate = torch.jit.script(Gate())` at verdict_trial.py:"]),
    ],
)
def test_what_cannot_be_exported_is_refused_with_what_to_do(report: Report, case: str, words: list[str]) -> None:
    refused = report[case].get("refused", f"accepted: {report[case]}")
    for each in words:
        assert each.lower() in refused.lower()


def test_probes_vary_every_free_dimension_and_the_kind_of_values(report: Report) -> None:
    probed = report["probes of numbers"]
    assert {shape[0] for ((shape, _, _),) in probed} >= {1, 2, 5}
    assert {shape[1] for ((shape, _, _),) in probed} == {3}
    ranges = [(low, high) for ((_, low, high),) in probed]
    assert (0.0, 0.0) in ranges
    assert max(high for _, high in ranges) > 100
    assert any(low == high != 0 for low, high in ranges)
    assert any(high < 0 for _, high in ranges)
    assert len(probed) <= 24


def test_equal_seeds_give_equal_probes(report: Report) -> None:
    assert report["probes of numbers"] == report["probes of numbers again"] != report["probes of another seed"]


def test_dimensions_of_equal_length_vary_together_and_whole_numbers_stay_in_range(report: Report) -> None:
    probed = report["probes of tokens"]
    assert all(tokens[0] == mask[0] for tokens, mask in probed)
    assert len({tokens[0][1] for tokens, _ in probed}) >= 3
    assert {low >= 10 and high <= 39 for (_, low, high), _ in probed} == {True}


def test_strings_are_probed_empty_long_and_in_other_scripts(report: Report) -> None:
    texts = [text for (probe,) in report["probes of words"] for text in probe]
    assert "" in texts
    assert any(len(text) > 200 for text in texts)
    assert any(not text.isascii() for text in texts)


def test_what_the_model_refuses_is_no_probe(report: Report) -> None:
    probed = report["probes of positives"]
    assert probed
    assert min(low for ((_, low, _),) in probed) > 0
