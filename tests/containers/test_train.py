"""Training in the real trainer image: repeatable, resumable, cut off from the network, and honest about failure."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import spec
from pipeline.artifacts import Archive, ModelSpec
from pipeline.engine import Image, Job
from pipeline.engine.docker import DockerEngine
from pipeline.errors import TrainError
from pipeline.train import train

TINY = Path(__file__).parent / "models" / "tiny"


class Interrupting(DockerEngine):
    """Stops listening, as Ctrl-C does, at the first line that starts with `at`."""

    def __init__(self, engine: DockerEngine, at: str) -> None:
        self.__dict__.update(engine.__dict__)
        self._at = at

    def run(self, job: Job, *, on_line: Callable[[str], None]) -> None:
        def listen(line: str) -> None:
            on_line(line)
            if line.startswith(self._at):
                raise KeyboardInterrupt

        super().run(job, on_line=listen)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., ModelSpec]:
    """Makes a copy of the tiny model with some texts of its files replaced by others."""

    def edit(changes: dict[str, str]) -> ModelSpec:
        folder = tmp_path / "tiny"
        shutil.copytree(TINY, folder)
        for name in ("model.py", "model.yaml"):
            text = (folder / name).read_text()
            for old, new in changes.items():
                text = text.replace(old, new)
            (folder / name).write_text(text)
        return spec.load(folder)

    return edit


def test_what_was_trained_on_is_known_by_content(
    engine: DockerEngine, trainer: Image, edited: Callable[..., ModelSpec], tiny_archive: Archive, tmp_path: Path
) -> None:
    before = tiny_archive.trained.data
    assert {name: split.items for name, split in before.items()} == {"training": 120, "held-out": 30}
    assert len({split.sha256 for split in before.values()}) == 2
    # One value of one item.
    changed = edited({"    held_out = torch": "    lengths[1, 0] += 0.001\n    held_out = torch"})
    after = train(changed, trainer=trainer, engine=engine, out=tmp_path / "out").data
    assert after["held-out"] == before["held-out"]
    assert after["training"] != before["training"]
    assert after["training"].items == 120


def test_an_interrupted_run_resumes_to_the_same_weights(
    engine: DockerEngine,
    trainer: Image,
    tiny_archive: Archive,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = tiny_archive.trained
    with pytest.raises(KeyboardInterrupt):
        train(whole.spec, trainer=trainer, engine=Interrupting(engine, "epoch 2/"), out=tmp_path)
    assert (tmp_path / "checkpoint.pt").is_file()
    assert not (tmp_path / "weights.safetensors").exists()
    capsys.readouterr()

    resumed = train(whole.spec, trainer=trainer, engine=engine, out=tmp_path)

    lines = capsys.readouterr().out
    assert "resuming after epoch" in lines
    assert "epoch 1/20" not in lines
    assert resumed.weights.sha256 == whole.weights.sha256
    assert resumed.metrics == whole.metrics
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("stale", ["other inputs", "garbage"])
def test_a_checkpoint_that_does_not_fit_is_passed_over(
    engine: DockerEngine,
    trainer: Image,
    tiny_spec: ModelSpec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stale: str,
) -> None:
    short = dataclasses.replace(tiny_spec, training=dataclasses.replace(tiny_spec.training, epochs=2, floors={}))
    if stale == "garbage":
        (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    else:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_spec, trainer=trainer, engine=Interrupting(engine, "epoch 2/"), out=tmp_path)
    capsys.readouterr()

    train(short, trainer=trainer, engine=engine, out=tmp_path)

    lines = capsys.readouterr().out
    assert ("cannot be read" if stale == "garbage" else "of other inputs") in lines
    assert "epoch 1/2 " in lines


def test_a_model_below_its_floor_is_refused(
    engine: DockerEngine, trainer: Image, edited: Callable[..., ModelSpec], tmp_path: Path
) -> None:
    poor = edited({"epochs: 20": "epochs: 1", "accuracy: 0.9": "accuracy: 0.999"})
    with pytest.raises(TrainError, match=r"tiny: accuracy on the held-out split is 0\.\d+, below the floor of 0\.999"):
        train(poor, trainer=trainer, engine=engine, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"def evaluate": "def evalute"}, r"no function `evaluate`\. Perhaps `evalute` is meant"),
        ({"lr=0.02": "lr=1e30"}, r"loss became (nan|inf) in epoch \d+\. The training diverged"),
        ({"return TensorDataset(": "return [], TensorDataset("}, r"Return two datasets"),
        ({"irises = load_iris()": "raise ValueError('no irises')"}, r"exit code 1:\n(.*\n)*.*ValueError: no irises"),
        ({".float().mean().item()": ".float().mean().item() * float('nan')"}, r"`evaluate` gave nan as accuracy"),
        (
            {"irises = load_iris()": "import urllib.request as u; u.urlopen('http://192.0.2.1')"},
            r"(?s)urlopen error.*Network is unreachable",
        ),
        (
            {"irises = load_iris()": "open('/torchyard/model/model.py', 'a')"},
            r"Read-only file system: '/torchyard/model/model\.py'",
        ),
    ],
)
def test_what_model_py_does_wrong_is_in_the_message(
    engine: DockerEngine,
    trainer: Image,
    edited: Callable[..., ModelSpec],
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(TrainError, match=message):
        train(edited(changes), trainer=trainer, engine=engine, out=tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()
