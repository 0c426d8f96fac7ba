"""The commands: each parses its arguments, calls one step and prints one line with what a person needs next."""

import errno
import functools
import getpass
import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.tasks import Task

from pipeline import images as pinned_images
from pipeline import policy, records, settings, spec
from pipeline import registry as local_registry
from pipeline.artifacts import Decided, Limits, Verdict
from pipeline.audit import audit as judge_image
from pipeline.bench import bench as measure
from pipeline.bench import bench_plan
from pipeline.check import check as judge_archive
from pipeline.deploy import serve as serve_image
from pipeline.diff import diff as compare_releases
from pipeline.doctor import examine
from pipeline.engine.credentials import credentials
from pipeline.engine.docker import DockerEngine, connect
from pipeline.errors import (
    DriftError,
    EngineError,
    PipelineError,
    RecordError,
    RegistryError,
    SettingsError,
    SpaceError,
    SpecError,
    TestsFailed,
    VerifyError,
)
from pipeline.explain import explain as tell
from pipeline.fetch import fetch as get_archive
from pipeline.keys import keys as make_keys
from pipeline.line import STEPS, Line
from pipeline.matrix import matrix as compare_all
from pipeline.oci.http import HttpRegistry
from pipeline.pins import load as load_pins
from pipeline.progress import say
from pipeline.promote import promote as bring
from pipeline.promote.approval import approve as give_approval
from pipeline.promote.lock import Holder, machine
from pipeline.promote.office import Office
from pipeline.promote.rollback import rollback as put_back
from pipeline.refresh import KINDS, refresh, write
from pipeline.release import Desk
from pipeline.release.source import source
from pipeline.reproduce import device as device_of
from pipeline.reproduce import reproduce as make_again
from pipeline.signing import Identity, ToolCosign
from pipeline.sigstore import GITHUB, Claimed
from pipeline.smoke import smoke as judge_container
from pipeline.soak import soak as soak_image
from pipeline.status import status as survey
from pipeline.storm import storm as storm_image
from pipeline.verify import verify as judge_release

HOME = Path(__file__).resolve().parent
BUILD = HOME / "build"
MODELS = HOME / "model_src"
P = ParamSpec("P")

_MODEL = "the name of a folder under model_src/, or the path of a model's folder elsewhere"
_FORCE = "run it again even if nothing changed"
_ACCEPT = "a reason for which tracing may freeze a branch of this model; it stays in every later report"
_DIGEST = "sha256:… instead of what the channel before has now"
_LOCKED = "stop when Debian packages resolve to others than recorded"
_DEVICE = "what it is served on, such as cpu"
_SIGNED_BY = {
    "key": "the public key of whoever released or promoted it, instead of promotion.toml's signers; can be repeated",
    "identity": "whom certificates name, where it was signed without a key: https://github.com/…@refs/…; the same",
    "issuer": "who says so",
}
_NOBODY: list[str] = []


def command(*positional: str, **options: str) -> Callable[[Callable[P, None]], "Task[Any]"]:
    """Makes a function an invoke task with help for its options; an expected error ends it with its own exit code.

    Only `positional` arguments can be given without their names: invoke takes `--help` for the value of one. What has a
    list for its default can be given several times.
    """

    def decorate(function: Callable[P, None]) -> "Task[Any]":
        arguments = list(inspect.signature(function).parameters.values())[1:]

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            # Stopped by a supervisor, or by a terminal that closes, is stopped by Ctrl-C: containers and half-written
            # files go on the way out.
            for each in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(each) is not signal.SIG_IGN:
                    signal.signal(each, signal.default_int_handler)
            try:
                for given in arguments[len(args) - 1 :]:
                    if given.default is given.empty and kwargs.get(given.name) is None:
                        name = function.__name__.replace("_", "-")
                        raise SpecError(f"--{given.name} is missing. `inv {name} --help` says what it means.")
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
                # Where nothing can be written, tempfile finds no folder that it can use.
                if error.errno != errno.ENOSPC and "No usable temporary directory" not in str(error):
                    raise
                where = error.filename or f"{BUILD}, or that of temporary files"
                _end(SpaceError(f"The disk is full at {where}. Free some space and run it again."))

        repeated = [each.name for each in arguments if isinstance(each.default, list)]
        return _Task(guarded, positional=positional, iterable=repeated, help=options)

    return decorate


class _Argument(Argument):
    """An argument that refuses what is no number for one, where invoke's own lets a ValueError through."""

    def set_value(self, value: Any, cast: bool = True) -> None:
        """Called by invoke's parser."""
        try:
            super().set_value(value, cast)
        except ValueError:
            wanted = "a whole number" if self.kind is int else "a number"
            _end(SpecError(f"--{self.name} {value}: it has to be {wanted}."))


class _Task(Task[Any]):
    """A task whose arguments are ours: invoke makes its own, and asks nobody of which class."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Called by invoke for its parser and its help."""
        arguments = super().get_arguments(ignore_unknown_help)
        for each in arguments:
            each.__class__ = _Argument
        return arguments


def _end(error: PipelineError) -> NoReturn:
    raise Exit(f"error: {error}", error.exit_code) from error


@command()
def doctor(_: Context) -> None:
    """Show what this machine has and lacks for Torchyard, each with its fix."""
    checks = examine(connect, pins=load_pins())
    for check in checks:
        say(f"{check.state:<8} {check.name:<12} {check.found}")
        if check.fix:
            say(f"{'':<21} fix: {check.fix}")
    missing = [check.name for check in checks if check.state == "missing"]
    if missing:
        raise EngineError(f"Missing: {', '.join(missing)}. The fixes are above.")
    say("Ready. Next: inv build-serving --model resnet")


@command(
    model=_MODEL,
    force="run every step again even if nothing changed",
    locked=_LOCKED,
    device=_DEVICE,
    accept_frozen_branch=_ACCEPT,
)
def build_serving(
    _: Context, model: str, force: bool = False, locked: bool = False, device: str = "", accept_frozen_branch: str = ""
) -> None:
    """From source to a smoke-tested image: compile, train, export, check, assemble, audit, smoke."""
    started = time.monotonic()
    line = _line(model, force=STEPS if force else (), locked=locked, device=device, accepted=accept_frozen_branch)
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
    """Build the pinned images: pytorch-cuda (training, toolchain), torchscript-runtime and torchyard-load."""
    pinned, engine = load_pins(), connect()
    for made in (pinned_images.trainer, pinned_images.toolchain, pinned_images.runtime, pinned_images.load):
        image = made(pinned, engine=engine, locked=locked)
        say(f"{made.__name__:<9} {image.digest} {image.size / 1e6:,.0f} MB")


@command(
    only="actions, python or debian, instead of all three",
    check="only say what is stale, and end with an error",
    keep="leave Python packages at the versions that are locked, where their requirements allow it",
)
def pins(_: Context, only: str = "", check: bool = False, keep: bool = False) -> None:
    """Refresh what is pinned: Debian packages, the locks of Python packages, the commits of actions."""
    if only not in {"", *KINDS}:
        raise SpecError(f"--only {only}: there is {', '.join(KINDS)}.")
    stale = refresh(load_pins(), HOME, kinds=(only,) if only else KINDS, keep=keep)
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
    if (BUILD / archive.trained.spec.name / "smoke.json").is_file():
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
    serve_image(image, port=port, grpc_port=grpc_port, engine=connect(), build=BUILD / image.archive.trained.spec.name)


@command(
    model=_MODEL,
    against="another image that serves the same model, measured in turns with this one",
    seconds="how long each cell of the table takes",
    rounds="how often everything is measured; the table shows medians",
    protocol="only this one: rest-binary, rest-json or grpc",
)
def bench(_: Context, model: str, against: str = "", seconds: float = 2.0, rounds: int = 3, protocol: str = "") -> None:
    """Put the image under load, beside the same archive in process and eager torch."""
    plan = bench_plan(seconds=seconds, rounds=rounds, protocol=protocol)
    image, engine = _line(model).assemble, connect()
    load = pinned_images.load(load_pins(), engine=engine)
    build = BUILD / image.archive.trained.spec.name
    measure(image, load=load, plan=plan, engine=engine, build=build, against=against)
    say(f"{_shown(build / 'bench.json')} holds the figures, and {_shown(build / 'bench.svg')} draws them.")


@command(model=_MODEL, minutes="how long")
def soak(_: Context, model: str, minutes: float = 60.0) -> None:
    """Load the image for a long time with good, wrong and disconnecting clients, and judge whether it grows."""
    image, engine = _line(model).assemble, connect()
    load = pinned_images.load(load_pins(), engine=engine)
    soak_image(image, minutes=minutes, load=load, engine=engine, build=BUILD / image.archive.trained.spec.name)


@command(model=_MODEL, times="how often", clients="how many keep it busy")
def storm(_: Context, model: str, times: int = 50, clients: int = 16) -> None:
    """Stop the image with SIGTERM under full load, many times, and see that no accepted request is lost."""
    image, engine = _line(model).assemble, connect()
    load = pinned_images.load(load_pins(), engine=engine)
    build = BUILD / image.archive.trained.spec.name
    storm_image(image, times=times, clients=clients, load=load, engine=engine, build=build)


@command(port="on loopback", stop="stop it instead; what it keeps stays in its volume")
def registry(_: Context, port: int = 5000, stop: bool = False) -> None:
    """Start a registry on loopback, from Debian's docker-registry."""
    engine = connect()
    if stop:
        was = local_registry.stop(port, engine=engine)
        say(f"stopped the registry at 127.0.0.1:{port}" if was else f"no registry of ours runs at 127.0.0.1:{port}")
        return
    address = local_registry.start(port, pins=load_pins(), engine=engine, registry=HttpRegistry(credentials))
    say(f"The registry answers at {address} and runs until `inv registry --port {port} --stop`.")


@command()
def keys(_: Context) -> None:
    """Make a pair of keys to sign with, where torchyard.toml says."""
    private = settings.load().key
    if private is None:
        raise SettingsError("signing.key is keyless: whoever runs this signs without a key, so there is none to make.")
    say(f"{make_keys(private, cosign=_cosign(connect()))}: the public key; the private one is {private.name} beside it")


@command(model=_MODEL, locked=_LOCKED, device=_DEVICE)
def release(_: Context, model: str, locked: bool = False, device: str = "") -> None:
    """Push a judged image by digest, with SBOMs, provenance and verdicts attached, and sign it."""
    started, line = time.monotonic(), _line(model, locked=locked, device=device)
    made = line.release(_desk(connect()), releases=settings.load().releases, source=source(HOME))
    name = made.image.archive.trained.spec.name
    records.write(BUILD / name / "release.json", made, inputs=made.evidence)
    say(f"{name} is released in {time.monotonic() - started:.0f} s; {made.sent / 2**20:,.1f} MiB of layers were sent:")
    say(f"  {made.repository}@{made.digest}")
    for reference in (f"{made.repository}@{made.model}", made.stored):
        if reference:
            say(f"  {reference} (the archive alone, for `inv fetch`)")
    say(f"Next: inv promote --model {name} --to staging")
    _hand_on("digest", made.digest)
    _hand_on("repository", made.repository)


@command(ref="host/path@sha256:…", **_SIGNED_BY)
def verify(_: Context, ref: str, key: list[str] = _NOBODY, identity: list[str] = _NOBODY, issuer: str = GITHUB) -> None:
    """Judge a released image again, with nothing but public keys and the registry."""
    signers = _signers(key, identity, issuer)
    found = judge_release(ref, signers=signers, registry=HttpRegistry(credentials), cosign=_cosign(connect()))
    for each in found.attestations:
        said = f" of {each.verdict['at']}: {each.predicate['result']}" if each.verdict else ""
        say(f"  {each.name}{said}")
    say(f"{ref} verifies: every byte, {len(found.attestations)} attestations and what binds them")


@command(
    "before",
    "after",
    before="host/path@sha256:…",
    after="host/path@sha256:…",
    **_SIGNED_BY,
)
def diff(
    _: Context,
    before: str,
    after: str,
    key: list[str] = _NOBODY,
    identity: list[str] = _NOBODY,
    issuer: str = GITHUB,
) -> None:
    """Show what differs between two releases, both verified: packages, operators, accuracy, latency, size, layers."""
    signers = _signers(key, identity, issuer)
    store, cosign = HttpRegistry(credentials), _cosign(connect())
    found = [judge_release(ref, signers=signers, registry=store, cosign=cosign) for ref in (before, after)]
    for line in compare_releases(*found):
        say(line)


@command(ref="host/path@sha256:…", model=_MODEL, **_SIGNED_BY)
def reproduce(
    _: Context, ref: str, model: str, key: list[str] = _NOBODY, identity: list[str] = _NOBODY, issuer: str = GITHUB
) -> None:
    """Make a release again from its recorded materials, from an empty build folder, and compare the digests."""
    signers = _signers(key, identity, issuer)
    engine, described = connect(), spec.find(model, MODELS)
    cosign = _cosign(engine)
    evidence = judge_release(ref, signers=signers, registry=HttpRegistry(credentials), cosign=cosign)
    locks = load_pins().serving_on(device_of(evidence))
    with tempfile.TemporaryDirectory(prefix="torchyard-") as build:
        compared = make_again(
            evidence,
            described,
            lambda decided: Line(described, pins=locks, engine=engine, build=Path(build), decided=decided),
        )
    for each in compared:
        shown = f"{'same ' if each.agrees else 'OTHER'} {each.what:<19} {each.recorded}"
        say(shown if each.agrees else f"{shown} and here {each.found}")
    if not all(each.agrees for each in compared if not each.is_tool):
        raise VerifyError(f"{ref}: not everything came out the same; the lines above say what.")


@command(
    ref="of a model, as `inv release` tells it: host/path@sha256:…, or s3://… and the like",
    out="the folder for its files",
    **_SIGNED_BY,
)
def fetch(
    _: Context, ref: str, out: str, key: list[str] = _NOBODY, identity: list[str] = _NOBODY, issuer: str = GITHUB
) -> None:
    """Get an archive with its contract and samples from a registry or another store, by digest."""
    signers = _signers(key, identity, issuer)
    cosign = _cosign(connect())
    for file in get_archive(ref, Path(out), signers=signers, registry=HttpRegistry(credentials), cosign=cosign):
        say(f"{file.path}: sha256 {file.sha256}")


@command(
    model="its name in the registry", to="the channel, of promotion.toml", digest=_DIGEST, dry_run="only say if it may"
)
def promote(_: Context, model: str, to: str, digest: str = "", dry_run: bool = False) -> None:
    """Bring an image into a channel, if everything that the channel asks for verifies from the registry alone."""
    entry = bring(model, to=to, digest=digest, dry_run=dry_run, now=datetime.now(UTC), office=_office(to))
    if entry:
        say(f"{to} has {model} {entry.version} now: {entry.digest} (entry {entry.sequence} of its log)")
    elif not dry_run:
        say(f"{to} has it already, nothing to do")


@command(model="its name in the registry", to="the channel, of promotion.toml", digest=_DIGEST)
def approve(_: Context, model: str, to: str, digest: str = "") -> None:
    """Sign, with your key, that an image may go to a channel."""
    say(f"approved for {to}: {give_approval(model, to=to, digest=digest, office=_office(to))}")


@command(
    model="its name in the registry",
    channel="the channel, of promotion.toml",
    to="sha256:… that was there before, instead of the newest such",
    reason="why; the log keeps it",
    new_log="begin another log with the digest of --to, because the channel's was lost; it says so for ever",
)
def rollback(_: Context, model: str, channel: str, to: str = "", reason: str = "", new_log: bool = False) -> None:
    """Put back what a channel had before."""
    now = datetime.now(UTC)
    entry = put_back(model, channel=channel, to=to, reason=reason, new_log=new_log, now=now, office=_office(channel))
    say(f"{channel} has {model} {entry.version} again: {entry.digest} (entry {entry.sequence} of its log)")


@command(model="only this one")
def status(_: Context, model: str = "") -> None:
    """Show which digest each channel has of each model, and whether it is in order."""
    models = (model,) if model else tuple(sorted(path.parent.name for path in MODELS.glob("*/model.yaml")))
    rows = []
    for row in survey(models, now=datetime.now(UTC), office=_office()):
        say(row.line())
        rows.append(row)
    if unread := sum(bool(row.trouble) for row in rows):
        raise RegistryError(f"Of {unread} nothing is known, see above.")
    if not rows:
        say(f"No release of {model or 'any model'} is there. Next: inv release --model {model or 'resnet'}")


@command(model="only this model's", images="also every image, and all containers but the local registry")
def clean(_: Context, model: str = "", images: bool = False) -> None:
    """Remove what was built: records, weights and archives."""
    name = Path(os.path.abspath(model)).name if model else ""  # noqa: PTH100 (a link is not followed)
    if model and not name:
        raise SpecError(f"--model {model}: that is no model's folder.")
    folder = BUILD / name
    if folder.exists():
        _remove(folder)
        say(f"removed {_shown(folder)}")
    else:
        say(f"nothing was built in {_shown(folder)}")
    if images:
        removed = connect().clean()
        say(f"removed {len(removed)} images")


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise RecordError(
            f"{error.filename} cannot be removed ({error.strerror}). Is it somebody else's, or is it in use?"
        ) from error


@command()
def lint(_: Context) -> None:
    """Check style, types, shell scripts, Dockerfiles and workflows."""
    shell = ["inv", ".ci/run", *map(str, Path("images").rglob("*.sh"))]
    _tool("ruff", "check", ".")
    _tool("ruff", "format", "--check", ".")
    _tool("mypy", "tasks.py", "pipeline", "tests", "model_src", "images/serving/server", "images/load/clients")
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


def _line(
    model: str, *, force: tuple[str, ...] = (), locked: bool = False, device: str = "", accepted: str = ""
) -> Line:
    """The line of a model; whatever is wrong with model.yaml, the pins or the engine is said here, before any work."""
    return Line(
        spec.find(model, MODELS),
        pins=load_pins().serving_on(device),
        engine=connect(),
        build=BUILD,
        force=force,
        locked=locked,
        decided=Decided(accepted=accepted.strip()),
    )


def _signers(keys: list[str], identities: list[str], issuer: str) -> tuple[Identity, ...]:
    """Those whose signatures count: who is named, by public keys or certificates, or else promotion.toml's signers."""
    by_key = (Identity(name=each, key=Path(each).absolute()) for each in keys)
    by_claim = (Identity(name=each, claimed=Claimed(identity=each, issuer=issuer)) for each in identities)
    return (*by_key, *by_claim) or tuple(policy.load().signers.values())


def _cosign(engine: DockerEngine) -> ToolCosign:
    tools = pinned_images.release_tools(load_pins(), engine=engine)
    return ToolCosign(engine=engine, tools=tools, instance=settings.load().sigstore)


def _desk(engine: DockerEngine) -> Desk:
    """What releases are made with."""
    tools, asked = pinned_images.release_tools(load_pins(), engine=engine), settings.load()
    return Desk(
        engine=engine,
        registry=HttpRegistry(credentials),
        cosign=_cosign(engine),
        tools=tools,
        key=asked.key,
        store=asked.store,
    )


def _office(channel: str | None = None) -> Office:
    """What promotions are made with; policy and settings are read, and the channel is looked up in them, before
    anything is asked of engine or registry."""
    asked, rules = settings.load(), policy.load()
    if channel is not None:
        rules.channel(channel)
    return Office(
        policy=rules,
        releases=asked.releases,
        registry=HttpRegistry(credentials),
        cosign=_cosign(connect()),
        key=asked.key,
        holder=Holder(name=f"{_user()}@{socket.gethostname()}", process=os.getpid(), machine=machine()),
    )


def _user() -> str:
    """Who runs this, by name or else by number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _hand_on(name: str, value: str) -> None:
    """In a job on GitHub, makes a value an output of its step: https://docs.github.com/actions/reference/workflow-commands"""
    if outputs := os.environ.get("GITHUB_OUTPUT"):
        with Path(outputs).open("a", encoding="utf-8") as stream:
            stream.write(f"{name}={value}\n")


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
