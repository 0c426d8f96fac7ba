"""The topic model's tokeniser means the same in Python and in the archive, and its held-out texts are new to it."""

from pathlib import Path

from pipeline.artifacts import Limits
from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine

HERE = Path(__file__).resolve()


def test_topic_agrees_on_any_text_and_learns_no_held_out_one(engine: DockerEngine, trainer: Image) -> None:
    mounts = (
        Mount(source=HERE.with_name("topic_agreement.py"), target="/topic_agreement.py"),
        Mount(source=HERE.parents[2] / "model_src" / "topic", target="/torchyard/model"),
    )
    command = ("/opt/venv/bin/python", "/topic_agreement.py")
    lines: list[str] = []
    job = Job(image=trainer.digest, command=command, limits=Limits(memory=1024, cpus=1, pids=64), mounts=mounts)
    engine.run(job, on_line=lines.append)
    assert lines[-1] == "held"
