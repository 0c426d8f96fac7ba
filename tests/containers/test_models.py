"""Every model of model_src goes the whole line, exported by the method that its code asks for."""

import pytest

import tasks
from pipeline import pins, spec
from pipeline.engine.docker import DockerEngine
from pipeline.explain import explain
from pipeline.line import Line

METHODS = {"detector": "script", "forecast": "script", "gate": "script", "resnet": "trace", "topic": "script"}


def test_every_model_is_here() -> None:
    assert sorted(METHODS) == sorted(path.parent.name for path in tasks.MODELS.glob("*/model.yaml"))


@pytest.mark.parametrize("name", METHODS)
def test_a_model_is_served_and_explained(engine: DockerEngine, name: str) -> None:
    # In the build folder of this checkout, so that what was made before and has not changed is not made again.
    line = Line(spec.find(name, tasks.MODELS), pins=pins.load(), engine=engine, build=tasks.BUILD)
    assert (line.audit.digest, line.smoke.digest) == (line.assemble.digest, line.assemble.digest)
    assert line.export.evidence.method == METHODS[name]
    assert line.export.evidence.requested == "auto"
    assert next(iter(explain(line.export))).startswith(f"{name} ")
