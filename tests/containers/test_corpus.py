"""The verdict on every known trap, in the real trainer image: no wrong archive, and hardly a needless refusal."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pipeline.artifacts import Limits
from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine

HOME = Path(__file__).resolve().parents[2]
CORPUS = HOME / "tests" / "corpus"
# Refused although an archive could be made, each with the reason why that is borne. There may be two.
NEEDLESS: dict[str, str] = {}

Report: TypeAlias = dict[str, dict[str, Any]]


def _names() -> Iterator[str]:
    """The classes under @case, read without importing them: the host has no torch."""
    for path in sorted(CORPUS.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "case"
                for each in node.decorator_list
            ):
                yield node.name


NAMES = list(_names())


@pytest.fixture(scope="module")
def report(engine: DockerEngine, trainer: Image, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What corpus_trial.py found out about every case."""
    out = tmp_path_factory.mktemp("corpus")
    mounts = (
        Mount(source=HOME / "pipeline" / "inside", target="/torchyard/pipeline/inside"),
        Mount(source=CORPUS, target="/torchyard/tests/corpus"),
        Mount(source=Path(__file__).with_name("corpus_trial.py"), target="/torchyard/corpus_trial.py"),
        Mount(source=out, target="/torchyard/out", writable=True),
    )
    job = Job(
        image=trainer.digest,
        command=("python", "/torchyard/corpus_trial.py", "/torchyard/out/report.json"),
        limits=Limits(memory=2048, cpus=min(2, engine.info().cpus), pids=256),
        mounts=mounts,
        env={
            "HOME": "/tmp",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": "/torchyard",
        },
    )
    engine.run(job, on_line=lambda _: None)
    found: Report = json.loads((out / "report.json").read_bytes())
    return found


def test_the_corpus_is_whole(report: Report) -> None:
    assert len(NAMES) == len(set(NAMES)) >= 40
    assert set(report) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_label_is_true(report: Report, name: str) -> None:
    """An archive made by each method that the label allows equals the model, and no other one does."""
    case = report[name]
    if case["accepted"]:
        return
    allowed = ("script", "trace") if case["choice"] == "auto" else (case["choice"],)
    true = {method for method in allowed if not case["facts"][method]}
    assert true == set(case["right"]) - {"refuse"}, f"{name} is labelled {case['right']}; in fact: {case['facts']}"
    assert true or case["right"] == ["refuse"], f"{name}: nothing is right but to refuse"


@pytest.mark.parametrize("name", NAMES)
def test_no_wrong_acceptance(report: Report, name: str) -> None:
    case = report[name]
    assert case["got"] != "crash", f"{name}: the verdict crashed:\n{case['told']}"
    if case["got"] != "refuse":
        assert case["got"] in case["right"], f"{name}: right is {case['right']}, got {case['got']}: {case['told']}"
        assert case["accepted"] or not case["apart"], f"{name}: accepted as {case['got']}, but {case['apart']}"


def test_needless_refusals_are_few_and_listed(report: Report) -> None:
    needless = {
        name: case["told"] for name, case in report.items() if case["got"] == "refuse" and "refuse" not in case["right"]
    }
    assert needless.keys() == NEEDLESS.keys(), needless
    assert len(NEEDLESS) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_points_at_the_trap(report: Report, name: str) -> None:
    case = report[name]
    if name not in NEEDLESS and case["names"]:
        wanted = [case["names"], *([case["line"]] if case["line"] else [])]
        told = case["told"].replace("\\", "").lower()
        assert any(each.replace("\\", "").lower() in told for each in wanted), f"none of {wanted} in:\n{case['told']}"
