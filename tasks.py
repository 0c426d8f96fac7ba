"""The commands: each parses its arguments, calls one step and prints one line with what a person needs next."""

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task

from pipeline import images as pinned_images
from pipeline import spec
from pipeline.artifacts import Limits, Verdict
from pipeline.audit import audit as judge_image
from pipeline.bench import bench as measure
from pipeline.bench import bench_eager
from pipeline.check import check as judge_archive
from pipeline.deploy import serve as serve_image
from pipeline.doctor import examine
from pipeline.engine.docker import connect
from pipeline.errors import DriftError, EngineError, PipelineError, SpaceError, SpecError, TestsFailed
from pipeline.explain import explain as tell
from pipeline.line import STEPS, Line
from pipeline.matrix import matrix as compare_all
from pipeline.pins import load as load_pins
from pipeline.progress import say
from pipeline.refresh import KINDS, refresh, write
from pipeline.smoke import smoke as judge_container

HOME = Path(__file__).resolve().parent
BUILD = HOME / "build"
MODELS = HOME / "model_src"
P = ParamSpec("P")

_MODEL = "the name of a folder under model_src/"
_FORCE = "run it again even if nothing changed"
_ACCEPT = "a reason for which tracing may freeze a branch of this model; it stays in every later report"
_LOCKED = "stop when Debian packages resolve to others than recorded"


def command(**options: str) -> Callable[[Callable[P, None]], "Task[Any]"]:
    """Makes a function an invoke task with help for its options; an expected error ends it with its own exit code."""

    def decorate(function: Callable[P, None]) -> "Task[Any]":
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            # Stopped by a supervisor is stopped by Ctrl-C: containers and half-written files go on the way out.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                function(*args, **kwargs)
            except PipelineError as error:
                _end(error)
            except KeyboardInterrupt:
                raise Exit(
                    "interrupted; nothing half-made was kept. The same command goes on from here.", 130
                ) from None
            except BrokenPipeError:
                # Whoever read our lines has seen enough; Python must not say so again when it ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Exit(code=141) from None
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                _end(SpaceError(f"The disk is full at {error.filename or BUILD}. Free some space and run it again."))

        return Task(guarded, help=options)

    return decorate


def _end(error: PipelineError) -> NoReturn:
    raise Exit(f"error: {error}", error.exit_code) from error


@command()
def doctor(_: Context) -> None:
    """Show what this machine has and lacks for Torchyard, each with its fix."""
    checks = examine(connect)
    for check in checks:
        say(f"{check.state:<8} {check.name:<12} {check.found}")
        if check.fix:
            say(f"{'':<21} fix: {check.fix}")
    missing = [check.name for check in checks if check.state == "missing"]
    if missing:
        raise EngineError(f"Missing: {', '.join(missing)}. The fixes are above.")
    say("Ready. Next: inv build-serving --model resnet")


@command(
    model=_MODEL, force="run every step again even if nothing changed", locked=_LOCKED, accept_frozen_branch=_ACCEPT
)
def build_serving(
    _: Context, model: str, force: bool = False, locked: bool = False, accept_frozen_branch: str = ""
) -> None:
    """From source to a smoke-tested image: compile, train, export, check, assemble, audit, smoke."""
    started = time.monotonic()
    line = _line(model, force=STEPS if force else (), locked=locked, accepted=accept_frozen_branch)
    image = line.assemble
    _tell(line.audit)
    _tell(line.smoke)
    if line.ran:
        say(f"{image.tag} is built, audited and smoke-tested in {time.monotonic() - started:.0f} s: {image.digest}")
    else:
        say(f"{image.tag} is up to date, nothing to do: {image.digest}")
    say(f"Next: inv serve --model {model}")


@command(locked=_LOCKED)
def images(_: Context, locked: bool = False) -> None:
    """Build the pinned images: pytorch-cuda (training, toolchain) and torchscript-runtime."""
    pinned, engine = load_pins(), connect()
    for made in (pinned_images.trainer, pinned_images.toolchain, pinned_images.runtime):
        image = made(pinned, engine=engine, locked=locked)
        say(f"{made.__name__:<9} {image.digest} {image.size / 1e6:,.0f} MB")


@command(only="actions, python or debian, instead of all three", check="only say what is stale, and end with an error")
def pins(_: Context, only: str = "", check: bool = False) -> None:
    """Refresh what is pinned: Debian packages, the locks of Python packages, the commits of actions."""
    if only not in {"", *KINDS}:
        raise SpecError(f"--only {only}: there is {', '.join(KINDS)}.")
    stale = refresh(load_pins(), HOME, kinds=(only,) if only else KINDS)
    for file in stale:
        say(f"{_shown(file.path)}:")
        for change in file.changes:
            say(f"  {change}")
    if check and stale:
        raise DriftError(f"{len(stale)} files of pins are stale, see above. `inv pins` refreshes them.")
    write(stale)
    if stale:
        say(f"{len(stale)} files refreshed. Next: inv test, and commit them")
    else:
        say("what is pinned is up to date, nothing to do")


@command(model=_MODEL, force=_FORCE, locked=_LOCKED)
def compile(_: Context, model: str, force: bool = False, locked: bool = False) -> None:  # noqa: A001 (the step's verb)
    """Compile a model's own operators, ops/*.cpp, in the toolchain."""
    library = _line(model, force=("compile",) if force else (), locked=locked).compile
    say(f"{_shown(library.path)}: sha256 {library.sha256}" if library else f"{model} has no ops/: nothing to compile")


@command(model=_MODEL, force=_FORCE, locked=_LOCKED)
def train(_: Context, model: str, force: bool = False, locked: bool = False) -> None:
    """Train a model in pytorch-cuda; an interrupted run goes on from its last epoch."""
    trained = _line(model, force=("train",) if force else (), locked=locked).train
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in trained.metrics.items())
    say(f"{_shown(trained.weights.path)}: {metrics}")


@command(model=_MODEL, force=_FORCE, locked=_LOCKED, accept_frozen_branch=_ACCEPT)
def export(_: Context, model: str, force: bool = False, locked: bool = False, accept_frozen_branch: str = "") -> None:
    """Turn the trained model into a TorchScript archive that computes the same."""
    archive = _line(model, force=("export",) if force else (), locked=locked, accepted=accept_frozen_branch).export
    worst = max(deviation.absolute for deviation in archive.parity["runtime"].values())
    how = f"{archive.evidence.method}, {archive.precision} {archive.memory_format}"
    say(f"{_shown(archive.file.path)}: {how}, at most {worst:.2g} from eager, sha256 {archive.file.sha256}")


@command(model=_MODEL)
def explain(_: Context, model: str) -> None:
    """Say why a model is scripted or traced, and how far from the trained model its archive is at every stage."""
    line = _line(model)
    archive, verdicts = line.export, [line.check]
    if (BUILD / model / "smoke.json").is_file():
        verdicts.append(line.smoke)
    for told in tell(archive, verdicts):
        say(told)


@command(
    model=_MODEL,
    archive="an archive from elsewhere, instead of a model's; contract and samples beside it are used",
    image="the runtime image to check against, with --archive",
    force=_FORCE,
)
def check(_: Context, model: str = "", archive: str = "", image: str = "", force: bool = False) -> None:
    """Judge an archive against the runtime image that will load it, operator by operator."""
    if archive:
        verdict = judge_archive(Path(archive), runtime=image or load_pins().runtime, engine=connect())
    else:
        verdict = _line(_required(model), force=("check",) if force else ()).check
    _tell(verdict)


@command(load="also load each archive in each runtime and replay its samples")
def matrix(_: Context, load: bool = False) -> None:
    """Show which archive in build/ fits which runtime image that is present."""
    for line in compare_all(BUILD, engine=connect(), load=load).lines():
        say(line)


@command(model=_MODEL, force=_FORCE)
def assemble(_: Context, model: str, force: bool = False) -> None:
    """Put a checked archive onto the runtime image: the serving image."""
    image = _line(model, force=("assemble",) if force else ()).assemble
    say(f"{image.tag}: {image.digest}")


@command(model=_MODEL, image="any image, instead of a model's", force=_FORCE)
def audit(_: Context, model: str = "", image: str = "", force: bool = False) -> None:
    """Judge an image's configuration and every layer: who runs, what is in it, who can write."""
    if image:
        verdict = judge_image(image, engine=connect())
    else:
        verdict = _line(_required(model), force=("audit",) if force else ()).audit
    _tell(verdict)


@command(model=_MODEL, image="any serving image, instead of a model's", force=_FORCE)
def smoke(_: Context, model: str = "", image: str = "", force: bool = False) -> None:
    """Run an image under the production contract and hold it to its samples over HTTP and gRPC."""
    if image:
        limits = Limits(memory=1024, cpus=2, pids=256)
        verdict = judge_container(image, limits=limits, engine=connect())
    else:
        verdict = _line(_required(model), force=("smoke",) if force else ()).smoke
    _tell(verdict)


@command(model=_MODEL, port="on loopback, for HTTP", grpc_port="on loopback, for gRPC")
def serve(_: Context, model: str, port: int = 8080, grpc_port: int = 8081) -> None:
    """Run the built image on loopback under the production contract, until Ctrl-C."""
    image = _line(model).assemble
    serve_image(image, port=port, grpc_port=grpc_port, engine=connect(), build=BUILD / model)


@command(model=_MODEL, requests="how many of each kind", eager="the archive beside eager fp32 in torch, instead")
def bench(_: Context, model: str, requests: int = 1000, eager: bool = False) -> None:
    """Compare a request over the wire with the same archive in process, in one run."""
    image = _line(model).assemble
    if eager:
        bench_eager(image, engine=connect(), build=BUILD / model)
    else:
        measure(image, requests=requests, engine=connect(), build=BUILD / model)


@command(model="only this model's", images="also every image, and containers that a killed run left")
def clean(_: Context, model: str = "", images: bool = False) -> None:
    """Remove what was built: records, weights and archives."""
    folder = BUILD / model
    shutil.rmtree(folder, ignore_errors=True)
    say(f"removed {_shown(folder)}")
    if images:
        removed = connect().clean()
        say(f"removed {len(removed)} images")


@command()
def lint(_: Context) -> None:
    """Check style, types, shell scripts, Dockerfiles and workflows."""
    shell = ["inv", ".ci/run", *map(str, Path("images").rglob("*.sh"))]
    _tool("ruff", "check", ".")
    _tool("ruff", "format", "--check", ".")
    _tool("mypy", "tasks.py", "pipeline", "tests", "model_src", "images/serving/server")
    _tool("shellcheck", *shell)
    _tool("hadolint", *map(str, Path("images").rglob("Dockerfile")))
    _lint_workflows(Path(".github"))


@command(only="lint, unit or containers, instead of all three", match="only the tests whose names match (pytest -k)")
def test(context: Context, only: str = "", match: str = "") -> None:  # noqa: PT028 (a command, not a test)
    """Run the linters, the unit tests and the container tests."""
    if only not in {"", "lint", "unit", "containers"}:
        raise SpecError(f"--only {only}: there is lint, unit and containers.")
    if only in {"", "lint"}:
        lint(context)
    if only != "lint":
        folders = [f"tests/{kind}" for kind in ("unit", "containers") if only in {"", kind}]
        _tool("pytest", *folders, "--durations=10", *(("-k", match) if match else ()))


def _line(model: str, *, force: tuple[str, ...] = (), locked: bool = False, accepted: str = "") -> Line:
    """The line of a model; whatever is wrong with model.yaml, the pins or the engine is said here, before any work."""
    return Line(
        spec.find(model, MODELS),
        pins=load_pins(),
        engine=connect(),
        build=BUILD,
        force=force,
        locked=locked,
        accepted=accepted.strip(),
    )


def _required(model: str) -> str:
    if not model:
        raise SpecError("Say which: --model NAME. The models are the folders under model_src/.")
    return model


def _tell(verdict: Verdict) -> None:
    for finding in verdict.findings:
        say(f"  {finding.level}: {finding.rule} at {finding.where}: {finding.message}")
    measured = ", ".join(f"{name} {value:.4g}" for name, value in verdict.measured.items())
    say(f"{verdict.gate:<9} passed for {verdict.digest[:19]} ({measured})")


def _lint_workflows(folder: Path) -> None:
    """Checks the workflows below a `.github` folder: what GitHub would refuse, and what an outsider could abuse."""
    workflows = map(str, sorted(folder.glob("workflows/*.yml")))
    _tool("actionlint", f"-shellcheck={_program('shellcheck')}", *workflows)
    _tool("zizmor", "--offline", "--no-progress", "--strict-collection", "--persona=auditor", str(folder))


def _tool(name: str, *arguments: str) -> None:
    """Runs a linter or pytest from this environment; its output is the report."""
    say(f"{name} {' '.join(arguments)}")
    done = subprocess.run([_program(name), *arguments], cwd=HOME, check=False)
    if done.returncode:
        raise TestsFailed(f"{name} found something, see above.")


def _program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _shown(path: Path) -> Path:
    return path.relative_to(HOME) if path.is_relative_to(HOME) else path
