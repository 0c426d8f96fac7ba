"""The workflows as data: thin, with no right that a job does not need, and with nothing of an event in a shell."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.parser import Parser

import tasks
from pipeline.refresh import python

FOLDER = tasks.HOME / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*"))
# What a job may do besides reading the repository, by workflow and job.
RIGHTS = {
    ("model.yml", "release"): {"packages": "write", "attestations": "write", "id-token": "write"},
    ("model.yml", "staging"): {"packages": "write", "id-token": "write"},
    ("model.yml", "production"): {"packages": "write", "id-token": "write"},
    ("release.yml", "rollback"): {"packages": "write", "id-token": "write"},
}
ACTIONS = {
    "actions/attest",
    "actions/cache",
    "actions/checkout",
    "actions/download-artifact",
    "actions/upload-artifact",
    "docker/login-action",
    "peter-evans/create-pull-request",
}
# An action of ours.
ENGINE = "$/.github/actions/engine"
# A task gives its help away when it is asked for its arguments, so a copy is asked.
COMMANDS = deepcopy(Collection.from_module(tasks)).to_contexts()
_INV = re.compile(r"(?P<sudo>sudo (--preserve-env=(?P<kept>[A-Z_,]+) )?)?\./inv (?P<arguments>[^\n]+)")
# What a runner sets for every step.
_RUNNERS = {
    "CI",
    "GITHUB_OUTPUT",
    "GITHUB_REPOSITORY",
    "GITHUB_RUN_ATTEMPT",
    "GITHUB_RUN_ID",
    "GITHUB_SERVER_URL",
    "HOME",
}
# And in a job that may ask for tokens.
_TOKENS = {"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL"}
Workflow = dict[Any, Any]


def _load(path: Path) -> Workflow:
    loaded: Workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def _faults(name: str, workflow: Workflow) -> Iterator[str]:
    """What is wrong with a workflow, by the rules of this project."""
    if workflow.get("permissions") != {}:
        yield "the workflow's permissions are not {}"
    if not workflow.get("concurrency", {}).get("group"):
        yield "no concurrency group"
    for job_name, job in workflow["jobs"].items():
        if "uses" in job:
            yield from _faults_of_call(job_name, job)
            continue
        if job.get("permissions") != {"contents": "read"} | RIGHTS.get((name, job_name), {}):
            yield f"{job_name}: permissions are {job.get('permissions')}"
        if (job.get("permissions", {}).get("id-token") == "write") != _needs_tokens(job):
            yield f"{job_name}: id-token is write where nothing asks for a token, or the other way round"
        if not isinstance(job.get("timeout-minutes"), int):
            yield f"{job_name}: no timeout"
        if "secrets." in str(job) and "environment" not in job:
            yield f"{job_name}: a secret without an environment"
        for step in job["steps"]:
            known = {*workflow.get("env", {}), *job.get("env", {}), *step.get("env", {})}
            known |= _TOKENS if job.get("permissions", {}).get("id-token") == "write" else set()
            yield from (f"{job_name}: {fault}" for fault in _faults_of(step, known))


def _faults_of_call(name: str, job: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a job that is another workflow of ours: it has to have all that the jobs there may do."""
    called = FOLDER / Path(job["uses"]).name
    if job["uses"] != f"$/.github/workflows/{called.name}" or called not in FILES:
        yield f"{name}: {job['uses']} is no workflow of ours"
        return
    rights = {"contents": "read"}
    for (workflow, _), more in RIGHTS.items():
        rights |= more if workflow == called.name else {}
    if job.get("permissions") != rights:
        yield f"{name}: permissions are {job.get('permissions')}"
    asked = _load(called)[True]["workflow_call"]["inputs"]
    if asked.keys() != job.get("with", {}).keys():
        yield f"{name}: gives {called.name} {', '.join(job.get('with', {})) or 'nothing'}"
    if "secrets" in job:
        yield f"{name}: gives {called.name} secrets"


def _needs_tokens(job: dict[str, Any]) -> bool:
    """Whether a step of a job says who it is."""
    steps = [f"{step.get('run', '')} {step.get('uses', '')}" for step in job["steps"]]
    return any("actions/attest@" in step or all(name in step for name in _TOKENS) for step in steps)


def _faults_of(step: dict[str, Any], known: set[str]) -> Iterator[str]:
    if step.get("uses") == ENGINE:
        return
    if "uses" in step:
        action, _, commit = step["uses"].partition("@")
        if action not in ACTIONS:
            yield f"{action} is not one of the actions"
        if not re.fullmatch("[0-9a-f]{40}", commit):
            yield f"{action} is not pinned by commit"
        if action == "actions/checkout" and step.get("with", {}).get("persist-credentials") is not False:
            yield "checkout keeps its credentials"
        return
    run = step["run"]
    if "${{" in run:
        yield f"interpolation in {run!r}"
    command = _INV.fullmatch(run)
    if not command:
        yield f"{run!r} is no ./inv command"
        return
    kept = set((command["kept"] or "").split(",")) - {""}
    named = {*re.findall(r"\$(\w+)", run), *kept}
    yield from (f"{name} is nowhere set" for name in sorted(named - known - _RUNNERS))
    if command["sudo"]:
        yield from (f"{name} does not get past sudo" for name in sorted({*step.get("env", {})} - kept))
    if "$" in re.sub(r'"\$\w+"', "", run):
        yield f"{run!r} has a variable without quotes"
    arguments = shlex.split(command["arguments"])
    try:
        parsed = Parser(contexts=COMMANDS).parse_argv(arguments)
    except ParseError as error:
        yield f"inv {command['arguments']}: {error}"
        return
    for argument in (each for context in parsed for each in context.args.values()):
        if argument.value is None:
            yield f"inv {command['arguments']}: --{argument.name} is missing"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_of_this_project_has_no_fault(path: Path) -> None:
    assert list(_faults(path.name, _load(path))) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_action_says_which_release_its_commit_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    uses = [line for line in lines if "- uses:" in line and ENGINE not in line]
    assert uses
    assert [use for use in uses if not re.fullmatch(r" +- uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_an_action_is_pinned_to_one_commit_everywhere() -> None:
    uses = re.findall(r"uses: (\S+)@(\S+)", "".join(path.read_text(encoding="utf-8") for path in FILES))
    assert len(dict(uses)) == len(set(uses))


def test_what_pins_refreshes_reaches_the_pull_request() -> None:
    steps = _load(FOLDER / "pins.yml")["jobs"]["refresh"]["steps"]
    globs = next(step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")).split()
    sent = {path for glob in globs for path in tasks.HOME.glob(glob)}
    locks = {path.with_suffix(".lock") for path in python.sources(tasks.HOME)}
    assert sent == {*FILES, *locks, *(tasks.HOME / "images").glob("*/*.packages")}


def test_every_model_is_released() -> None:
    release = _load(FOLDER / "release.yml")
    models = sorted(path.parent.name for path in tasks.MODELS.glob("*/model.yaml"))
    # YAML 1.1 reads the key `on` as true.
    assert release[True]["workflow_dispatch"]["inputs"]["model"]["options"] == ["all", *models]
    assert f"'{json.dumps(models)}'" in release["jobs"]["release"]["strategy"]["matrix"]["model"]


@pytest.mark.parametrize(
    ("given", "job"),
    [
        ({}, "release"),
        ({"model": "resnet", "rollback": "no"}, "release"),
        ({"model": "all", "rollback": "no", "reason": "none"}, "release"),
        ({"model": "resnet", "rollback": "staging"}, "rollback"),
        ({"model": "resnet", "rollback": "production", "digest": "sha256:0", "new-log": True}, "rollback"),
        ({"model": "all", "rollback": "production"}, "unclear"),
        ({"model": "all", "rollback": "staging", "digest": "sha256:0", "new-log": True}, "unclear"),
        ({"model": "resnet", "rollback": "no", "digest": "sha256:0"}, "unclear"),
        ({"model": "all", "rollback": "no", "new-log": True}, "unclear"),
    ],
)
def test_a_run_does_one_thing_and_says_where_it_cannot_tell_which(given: dict[str, object], job: str) -> None:
    jobs = _load(FOLDER / "release.yml")["jobs"]
    assert [name for name, each in jobs.items() if _holds(each["if"], given)] == [job]
    assert jobs["rollback"]["env"]["MODEL"] == "${{ inputs.model }}"
    assert '--channel ""' in jobs["unclear"]["steps"][-1]["run"]


def _holds(condition: str, inputs: dict[str, object]) -> bool:
    """Whether an expression of GitHub's is true; an input that was not given is empty."""
    said = re.sub(r"inputs\.([\w-]+)", lambda found: repr(inputs.get(found[1], "")), condition)
    for theirs, ours in (("||", " or "), ("&&", " and "), ("!=", "<>"), ("!", " not "), ("<>", "!=")):
        said = said.replace(theirs, ours)
    return bool(eval(said, {"__builtins__": {}}))


def test_a_lost_log_is_begun_again_only_where_that_is_asked_for() -> None:
    steps = _load(FOLDER / "release.yml")["jobs"]["rollback"]["steps"]
    conditions = {"--new-log" in step["run"]: step["if"] for step in steps if "./inv rollback" in step.get("run", "")}
    assert _load(FOLDER / "release.yml")["jobs"]["release"]["if"].endswith(" && !inputs.digest && !inputs.new-log")
    assert conditions == {False: "${{ !inputs.new-log }}", True: "${{ inputs.new-log }}"}


def test_jobs_that_use_an_engine_have_one_whose_images_are_known_by_their_configuration() -> None:
    (step,) = _load(tasks.HOME / ENGINE.removeprefix("$/") / "action.yml")["runs"]["steps"]
    assert '.features["containerd-snapshotter"] = false' in step["run"]
    for file in FILES:
        for job in _load(file)["jobs"].values():
            steps = job.get("steps", [])
            runs = enumerate(step.get("run", "") for step in steps)
            # Pins are brought up to date without an engine.
            uses = [number for number, run in runs if "sudo" in run and "./inv pins" not in run]
            made = [number for number, step in enumerate(steps) if step.get("uses") == ENGINE]
            assert bool(uses) is bool(made), file
            assert not uses or made[0] < uses[0]


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", "promotion.toml"])
def test_whoever_sets_up_signers_is_told_of_the_workflows_that_sign(file: str) -> None:
    """A certificate names the file whose job it is, which is the called one."""
    told = (tasks.HOME / file).read_text(encoding="utf-8")
    signing = {workflow for workflow, job in RIGHTS if "steps" in _load(FOLDER / workflow)["jobs"][job]}
    on_tags = {workflow for workflow, job in RIGHTS if job == "release"}
    assert set(re.findall(r"/workflows/([\w-]+\.yml)@refs/tags/\*", told)) == on_tags
    assert set(re.findall(r"(?<![\w-])(?!pins)[\w-]+\.yml", told)) == signing


def test_production_waits_for_its_environment() -> None:
    jobs = _load(FOLDER / "model.yml")["jobs"]
    assert {name: (job.get("needs"), job["environment"]) for name, job in jobs.items()} == {
        "release": (None, "release"),
        "staging": ("release", "staging"),
        "production": (["release", "staging"], "production"),
    }
    assert _load(FOLDER / "release.yml")["jobs"]["rollback"]["environment"] == "${{ inputs.rollback }}"


def test_channels_get_the_digest_of_this_run() -> None:
    jobs = _load(FOLDER / "model.yml")["jobs"]
    assert jobs["release"]["outputs"] == {"digest": "${{ steps.release.outputs.digest }}"}
    for name in ("staging", "production"):
        assert jobs[name]["env"] == {"DIGEST": "${{ needs.release.outputs.digest }}"}
        assert jobs[name]["steps"][-1]["run"].endswith(f'--to {name} --digest "$DIGEST"')


def _step(workflow: Workflow, key: str) -> dict[str, Any]:
    steps: list[dict[str, Any]] = workflow["jobs"]["lint"]["steps"]
    return next(step for step in steps if key in step)


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (lambda w: w.pop("permissions"), "the workflow's permissions are not {}"),
        (lambda w: w.pop("concurrency"), "no concurrency group"),
        (lambda w: w["jobs"]["lint"].pop("permissions"), "lint: permissions are None"),
        (lambda w: w["jobs"]["lint"]["permissions"].update({"id-token": "write"}), "lint: permissions are .*id-token"),
        (lambda w: w["jobs"]["lint"].pop("timeout-minutes"), "lint: no timeout"),
        (lambda w: _step(w, "run").update(env={"KEY": "${{ secrets.KEY }}"}), "lint: a secret without an environment"),
        (lambda w: _step(w, "run").update(run="make lint"), "'make lint' is no ./inv command"),
        (lambda w: _step(w, "run").update(run="./inv lint\ncurl x"), r"'\./inv lint\\ncurl x' is no \./inv command"),
        (lambda w: _step(w, "run").update(run="./inv tset"), "inv tset: No idea what 'tset' is"),
        (lambda w: _step(w, "run").update(run="./inv test --onyl unit"), "inv test --onyl unit: "),
        (lambda w: _step(w, "run").update(run="./inv train"), "inv train: --model is missing"),
        (lambda w: _step(w, "run").update(run='./inv train --model "$MODEL"'), "MODEL is nowhere set"),
        (lambda w: _step(w, "run").update(run="./inv train --model $MODEL", env={"MODEL": 1}), "without quotes"),
        (lambda w: _step(w, "run").update(run='./inv train --model "${{ inputs.model }}"'), "interpolation in"),
        (lambda w: _step(w, "run").update(run="sudo --preserve-env=KEY ./inv lint"), "KEY is nowhere set"),
        (lambda w: _step(w, "run").update(run="sudo ./inv lint", env={"KEY": 1}), "KEY does not get past sudo"),
        (lambda w: _step(w, "uses").update(uses="actions/checkout@v7"), "actions/checkout is not pinned by commit"),
        (lambda w: _step(w, "uses").pop("with"), "checkout keeps its credentials"),
        (lambda w: _step(w, "uses").update(uses="evil/action@" + "0" * 40), "evil/action is not one of the actions"),
    ],
)
def test_a_fault_is_found(plant: Callable[[Workflow], object], fault: str) -> None:
    workflow = deepcopy(_load(FOLDER / "ci.yml"))
    plant(workflow)
    found = list(_faults("ci.yml", workflow))
    assert any(re.search(fault, one) for one in found), found


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (lambda job: job.update(uses="evil/workflows/.github/workflows/model.yml@v1"), "is no workflow of ours"),
        (lambda job: job.update(uses="$/.github/workflows/nobody.yml"), "is no workflow of ours"),
        (lambda job: job["permissions"].update(contents="write"), "release: permissions are"),
        (lambda job: job["permissions"].pop("attestations"), "release: permissions are"),
        (lambda job: job["with"].pop("device"), "release: gives model.yml model"),
        (lambda job: job.update(secrets="inherit"), "release: gives model.yml secrets"),
    ],
)
def test_a_fault_of_a_call_is_found(plant: Callable[[dict[str, Any]], object], fault: str) -> None:
    workflow = deepcopy(_load(FOLDER / "release.yml"))
    plant(workflow["jobs"]["release"])
    assert any(fault in one for one in _faults("release.yml", workflow))
