"""The real engine and the fake one keep the same promises; what only a real one can show is shown by it alone."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Limits
from pipeline.engine import Build, Engine, Image, Job, Mount
from pipeline.engine.docker import DockerEngine
from pipeline.errors import BuildError, ContainerFailed, EngineError
from tests.unit.fake_engine import FakeEngine, layer

TAG = "torchyard-test-contract:1"
LIMITS = Limits(memory=256, cpus=1, pids=32)
PYTHON = "/usr/bin/python3.13"


@pytest.fixture(params=["docker", "fake"])
def either(request: pytest.FixtureRequest, engine: DockerEngine) -> Iterator[Engine]:
    """The real engine or the fake one; the test's image is removed at the end."""
    chosen: Engine = engine if request.param == "docker" else FakeEngine()
    yield chosen
    chosen.remove((TAG,))


def _root(tmp_path: Path) -> Path:
    path = tmp_path / "root.tar"
    path.write_bytes(layer({"etc/hello": b"hello"}))
    return path


def test_import_find_read_and_remove(either: Engine, tmp_path: Path) -> None:
    assert either.find(TAG) is None
    made = either.import_root(_root(tmp_path), tag=TAG, labels={"io.torchyard.inputs": "sha256:1"})
    assert either.find(TAG) == made == either.find(made.digest)
    assert made.labels == {"io.torchyard.inputs": "sha256:1"}
    assert len(made.diff_ids) == 1
    assert TAG in either.tags("io.torchyard.inputs")
    assert TAG not in either.tags("io.torchyard.nothing")
    assert either.read_file(TAG, "/etc/hello") == b"hello"
    assert either.read_file(TAG, "/etc/nothing") is None
    either.remove((TAG, "torchyard-test-nobody:1"))
    assert either.find(TAG) is None


def test_save_and_load_give_the_same_image(either: Engine, tmp_path: Path) -> None:
    made = either.import_root(_root(tmp_path), tag=TAG, labels={})
    with either.save(made.digest) as stream:
        saved = io.BytesIO(stream.read())
    with tarfile.open(fileobj=saved) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest
        assert len(json.load(manifest)[0]["Layers"]) == 1
    saved.seek(0)
    either.load(saved)
    assert either.find(made.digest) == made


def test_the_files_of_an_image_come_as_one_stream(either: Engine, tmp_path: Path) -> None:
    made = either.import_root(_root(tmp_path), tag=TAG, labels={})
    with either.files(made.digest) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        assert {member.name: member.size for member in archive if member.isreg() and member.size} == {"etc/hello": 5}


def test_what_is_not_there_is_an_engine_error(either: Engine) -> None:
    with pytest.raises(EngineError):
        either.read_file("torchyard-test-nobody:1", "/etc/hello")


def _run(engine: Engine, image: Image, program: str, **changes: object) -> list[str]:
    lines: list[str] = []
    job = Job(image=image.digest, command=(PYTHON, "-c", program), limits=LIMITS)
    engine.run(replace(job, **changes), on_line=lines.append)  # type: ignore[arg-type]
    return lines


def test_a_job_is_confined(engine: DockerEngine, runtime: Image, tmp_path: Path) -> None:
    program = """
import os, socket
print(os.getuid(), [line for line in open('/proc/self/status') if line.startswith(('CapEff', 'NoNewPrivs'))])
connect = lambda: socket.create_connection(('192.0.2.1', 1), 1)
for attempt in (lambda: open('/new', 'w'), lambda: open('/in/new', 'w'), connect):
    try:
        attempt()
        print('allowed')
    except OSError as error:
        print(error.strerror)
open('/out/made', 'w').write('by the job')
"""
    (tmp_path / "out").mkdir()
    mounts = (Mount(source=tmp_path, target="/in"), Mount(source=tmp_path / "out", target="/out", writable=True))
    status, *refusals = _run(engine, runtime, program, mounts=mounts)
    assert status.startswith(f"{os.getuid()} ")
    assert "CapEff:\\t0000000000000000" in status
    assert "NoNewPrivs:\\t1" in status
    assert refusals == ["Read-only file system", "Read-only file system", "Network is unreachable"]
    assert (tmp_path / "out/made").read_text() == "by the job"
    assert (tmp_path / "out/made").stat().st_uid == os.getuid()


def test_a_failed_job_shows_its_code_and_last_lines(engine: DockerEngine, runtime: Image) -> None:
    with pytest.raises(ContainerFailed, match=r"exit code 7:\n  before the end") as failed:
        _run(engine, runtime, "print('before the end'); raise SystemExit(7)")
    assert failed.value.code == 7


def test_a_job_out_of_memory_says_so(engine: DockerEngine, runtime: Image) -> None:
    with pytest.raises(ContainerFailed, match=r"ran out of memory: it may use 256 MiB"):
        _run(engine, runtime, "kept = [b'x' * 2**20 for _ in range(2**12)]")


def test_a_job_that_does_not_end_is_ended(engine: DockerEngine, runtime: Image) -> None:
    program = "print('it began', flush=True); import time; time.sleep(600)"
    with pytest.raises(ContainerFailed, match=r"did not end within 2 s and was stopped:\n  it began"):
        _run(engine, runtime, program, seconds=2)
    assert _run(engine, runtime, "print('in time')", seconds=60) == ["in time"]


def test_an_interrupted_job_leaves_no_container(engine: DockerEngine, runtime: Image) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    before = engine.containers()
    job = Job(image=runtime.digest, command=(PYTHON, "-uc", "print(1); import time; time.sleep(60)"), limits=LIMITS)
    with pytest.raises(KeyboardInterrupt):
        engine.run(job, on_line=interrupt)
    assert engine.containers() == before


def test_a_failed_build_shows_the_failing_step_and_leaves_no_tag(
    engine: DockerEngine, trainer: Image, tmp_path: Path
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("ARG BASE\nFROM ${BASE} AS made\nRUN echo before the end && exit 3\n")
    build = Build(folder=tmp_path, dockerfile=dockerfile, stage="made", tag=TAG, args={"BASE": "torchyard-base:build"})
    assert trainer
    with pytest.raises(BuildError, match=r"stage made of (.|\n)*before the end"):
        engine.build(build)
    assert engine.find(TAG) is None


def test_a_build_secret_reaches_the_step_and_no_layer(
    engine: DockerEngine, trainer: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainer
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:planted-secret@packages.example.com/simple")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        "ARG BASE\nFROM ${BASE} AS made\n"
        # Not in one word, since the history keeps the command.
        "RUN --mount=type=secret,id=pip.conf \\\n"
        "    grep -q \"planted$(printf '%s' -secret)\" /run/secrets/pip.conf && touch /seen\n"
    )
    build = Build(folder=tmp_path, dockerfile=dockerfile, stage="made", tag=TAG, args={"BASE": "torchyard-base:build"})
    try:
        made = engine.build(build)
        assert engine.read_file(made.digest, "/seen") == b""
        with engine.save(made.digest) as stream:
            assert b"planted-secret" not in stream.read()
    finally:
        engine.remove((TAG,))
