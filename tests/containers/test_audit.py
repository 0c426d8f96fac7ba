"""The audit of real images: the runtime passes, and each fault planted by a real build is refused with its reason."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import pins
from pipeline.audit import audit
from pipeline.engine import Build, Engine, Image
from pipeline.errors import AuditError
from tests.unit.audit_layers import CONFIG, ELF, PYTHON, ROOT, SERVER, Member, layer, program
from tests.unit.fake_engine import FakeEngine

CLEAN = {
    "user": "USER 65532:65532",
    "entrypoint": f'ENTRYPOINT ["{PYTHON}", "-m", "http.server"]',
    "healthcheck": f'HEALTHCHECK CMD ["{PYTHON}", "-c", "pass"]',
    "port": "EXPOSE 8080",
}
TAG = "torchyard-test-audit:fault"


@pytest.fixture
def base(runtime: Image) -> str:  # noqa: ARG001 (building the runtime makes its root)
    return pins.load().serving_root.image or "torchyard-base:serving"


@pytest.fixture(autouse=True)
def no_traces(engine: Engine) -> Iterator[None]:
    yield
    engine.remove((TAG,))


def build(engine: Engine, folder: Path, base: str, members: tuple[Member, ...], **lines: str) -> Image:
    """An image that is clean but for what `members` adds and what `lines` puts in place of the clean ones."""
    (folder / "fault.tar").write_bytes(layer(*members))
    dockerfile = folder / "Dockerfile"
    instructions = [f"FROM {base} AS image", "ADD fault.tar /", *(CLEAN | lines).values()]
    dockerfile.write_text("\n".join(instructions) + "\n", encoding="utf-8")
    return engine.build(Build(folder=folder, dockerfile=dockerfile, stage="image", tag=TAG))


def test_the_runtime_passes_quickly(engine: Engine, runtime: Image) -> None:
    start = time.monotonic()
    verdict = audit(runtime.digest, engine=engine)

    assert verdict.digest == runtime.digest
    assert verdict.measured["layers"] == len(runtime.diff_ids)
    assert not [finding for finding in verdict.findings if finding.level == "error"]
    assert time.monotonic() - start < 20


def test_an_image_without_faults_passes(engine: Engine, tmp_path: Path, base: str) -> None:
    image = build(engine, tmp_path, base, (program("opt/tools/serve"),))

    assert audit(TAG, engine=engine).digest == image.digest


@pytest.mark.parametrize(
    ("member", "finding"),
    [
        (Member(path="usr/bin/su", content=ELF, mode=0o4755), "setuid: /usr/bin/su (layer 2)\n  Mode 4755"),
        (program("usr/bin/sh"), "shell: /usr/bin/sh (layer 2)\n"),
        (program("usr/bin/apt-get"), "package-manager: /usr/bin/apt-get (layer 2)\n"),
        (Member(path="opt/open.so", mode=0o666), "world-writable: /opt/open.so (layer 2)\n  Mode 0666"),
        (Member(path="opt/own.so", uid=65532), "runtime-writable: /opt/own.so (layer 2)\n  It belongs to user 65532"),
        (
            Member(
                path="usr/bin/ping",
                mode=0o755,
                headers={"SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20\0\0" + "\0" * 12},
            ),
            "file-capability: /usr/bin/ping (layer 2)\n",
        ),
    ],
    ids=lambda value: value.path if isinstance(value, Member) else "",
)
def test_a_planted_file_is_refused(engine: Engine, tmp_path: Path, base: str, member: Member, finding: str) -> None:
    build(engine, tmp_path, base, (member,))

    with pytest.raises(AuditError) as refusal:
        audit(TAG, engine=engine)

    assert "1 to mend" in str(refusal.value)
    assert finding in str(refusal.value)


@pytest.mark.parametrize(
    ("rule", "line", "reason"),
    [
        ("user", "", "user: config.User\n  It is empty, so the server runs as root."),
        ("user", "USER 0", "user: config.User\n  It is '0': the server runs as root"),
        ("healthcheck", "", "healthcheck: config.Healthcheck\n  There is none"),
        ("healthcheck", "HEALTHCHECK CMD true", "healthcheck: config.Healthcheck\n  It is in shell form (true)"),
        ("entrypoint", "ENTRYPOINT serve", "entrypoint: config.Entrypoint\n  It is in shell form (/bin/sh -c serve)"),
        ("port", "EXPOSE 8080 22", "port: config.ExposedPorts 22/tcp\n"),
    ],
)
def test_a_planted_setting_is_refused(
    engine: Engine, tmp_path: Path, base: str, rule: str, line: str, reason: str
) -> None:
    build(engine, tmp_path, base, (program("opt/tools/serve"),), **{rule: line})

    with pytest.raises(AuditError) as refusal:
        audit(TAG, engine=engine)

    assert "1 to mend" in str(refusal.value)
    assert reason in str(refusal.value)


def test_a_file_deleted_by_a_later_layer_is_refused(engine: Engine) -> None:
    maker = FakeEngine()
    su = layer(Member(path="usr/bin/su", content=ELF, mode=0o4755))
    image = maker.add(TAG, layers=(ROOT, SERVER, su, layer(Member(path="usr/bin/.wh.su"))), config=CONFIG)
    with maker.save(TAG) as stream:
        engine.load(stream)

    with pytest.raises(AuditError) as refusal:
        audit(TAG, engine=engine)

    assert f"{TAG} ({image.digest})" in str(refusal.value)
    assert "1 to mend" in str(refusal.value)
    assert "setuid: /usr/bin/su (layer 3, deleted later)" in str(refusal.value)
