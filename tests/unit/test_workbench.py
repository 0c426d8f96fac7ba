"""What the results of a script of pipeline/inside rest on."""

from pathlib import Path

import pytest

from pipeline import workbench
from pipeline.workbench import INSIDE, code_of


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of scripts, in which `train` imports `order`, and `export` in a function `verdict.decision`."""
    files = {
        "train.py": "import json\nfrom pipeline.inside.order import answer\n",
        "order.py": "from pathlib import Path\n",
        "export.py": "from pipeline.inside import order\ndef f():\n    from pipeline.inside.verdict import decision\n",
        "verdict/__init__.py": "",
        "verdict/decision.py": "from pipeline.inside.verdict.trial import run\n",
        "verdict/trial.py": "from pipeline.inside.verdict import decision\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(workbench, "INSIDE", tmp_path)
    return tmp_path


def test_a_script_rests_on_itself_and_on_what_it_imports(inside: Path) -> None:
    assert sorted(code_of("train")) == ["order.py", "train.py"]
    before = code_of("train")
    (inside / "verdict/trial.py").write_text("CHANGED = True\n")
    assert code_of("train") == before
    (inside / "order.py").write_text("CHANGED = True\n")
    assert code_of("train") != before


def test_imports_are_followed_into_packages_and_functions_and_around(inside: Path) -> None:
    every = [path.relative_to(inside).as_posix() for path in inside.rglob("*.py")]
    assert sorted(code_of("train", "export")) == sorted(every)


def test_training_does_not_rest_on_how_models_are_exported() -> None:
    assert {"train.py", "order.py", "source.py", "checkpoint.py"} <= code_of("train").keys()
    assert not [name for name in code_of("train") if name.startswith(("verdict/", "export", "parity", "probes"))]
    assert "verdict/decision.py" in code_of("export")
    every = {path.relative_to(INSIDE).as_posix() for path in INSIDE.rglob("*.py")}
    assert code_of("compile", "eager", "export", "parity", "train").keys() == every
