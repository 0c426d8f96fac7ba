"""oneDNN Graph in the real engine: which runs it takes part in, by its own account, and that the answers stay right."""

from pathlib import Path

import pytest

from pipeline.artifacts import Limits
from pipeline.engine import Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from tests.containers.conftest import Start

_SCRIPT = Path(__file__).with_name("fused_trial.py")
_PYTHON = "/usr/bin/python3.13"
_PHASES = ["plain", "fusing", "fused", "another shape", "by one", "by three", "many threads", "plain again", "off"]


def test_a_program_is_fused_for_one_shape_and_right_by_as_many_threads_or_one(
    engine: DockerEngine, runtime: Image, archives: Path
) -> None:
    mounts = (Mount(source=archives / "convolved", target="/model"), Mount(source=_SCRIPT, target="/trial.py"))
    lines: list[str] = []
    job = Job(
        image=runtime.digest,
        command=(_PYTHON, "/trial.py", "/model"),
        env={"ONEDNN_VERBOSE": "1"},
        limits=Limits(memory=1024, cpus=2, pids=64),
        mounts=mounts,
    )
    engine.run(job, on_line=lines.append)
    graphs: dict[str, int] = {}
    phase = ""
    for line in lines:
        phase = line if line in _PHASES else phase
        graphs[phase] = graphs.get(phase, 0) + (",graph,exec," in line)
    assert [phase for phase in _PHASES if graphs[phase]] == ["fusing", "fused", "by one", "many threads"]
    assert graphs["by one"] == 2 * graphs["fused"]
    assert graphs["many threads"] == 40 * graphs["fused"]
    assert float(lines[-1]) < 1e-5


@pytest.mark.parametrize(("fusion", "tried"), [("auto", True), ("off", False)])
def test_the_server_fuses_unless_it_is_told_not_to(start: Start, archives: Path, fusion: str, tried: bool) -> None:
    with start(archives / "convolved", ONEDNN_VERBOSE="1", TORCHYARD_FUSION=fusion) as running:
        running.wait_until_ready()
        assert (",graph,exec," in running.log()) is tried
