"""The rules that keep the layout true: imports point downwards, and each outside thing has one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
# Lower layers first; a module may import from its own layer only if it is the same package.
LAYERS = (
    {"errors", "artifacts", "progress", "programs"},
    {"alone", "records", "pins", "spec", "engine", "oci", "sigstore"},
    {"bootstrap", "parity", "workbench", "load", "signing", "settings"},
    {"images", "compile", "train", "export", "check", "assemble", "audit", "smoke", "deploy", "doctor", "explain"}
    | {"evidence", "keys", "refresh", "stores"},
    {"registry", "release", "policy", "diff"},
    {"line", "bench", "matrix", "promote", "fetch", "soak", "storm"},
    {"status", "reproduce", "verify"},
)
# The same for the server's packages; its own folder has leaves, and what puts all of it together.
SERVER = HOME / "images" / "serving" / "server"
SERVER_LAYERS = ("model", "inference", "protocol", "http", "grpc")
SERVER_LEAVES = {"cgroup", "errors", "listening", "log", "memory", "pace", "refusal"}
HOMES = {
    "docker": ("pipeline/engine", "tests/smoke", "tests/containers", "tests/unit/test_engine.py"),
    "testcontainers": ("tests/smoke", "tests/containers"),
    "invoke": ("tasks.py", *(f"tests/unit/test_{name}.py" for name in ("refresh", "tasks", "workflows"))),
    "yaml": ("pipeline/spec", "tests/unit/test_spec.py", "tests/unit/test_workflows.py"),
    "torch": ("pipeline/inside", "model_src", "images/serving", "tests/golden", "tests/containers", "tests/corpus"),
    "uvicorn": ("images/serving/server", "tests/unit/server"),
    "google": ("images/serving/server", "tests"),
    "_http2": ("images/serving/server/serving.py",),
    # gRPC's own package is what clients use; the server is its own.
    "grpc": ("tests",),
}
SOURCES = sorted(
    path
    for top in ("pipeline", "images", "model_src", "tests", "tasks.py")
    for path in ([HOME / top] if top.endswith(".py") else (HOME / top).rglob("*.py"))
)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(module: str) -> int:
    return next(height for height, modules in enumerate(LAYERS) if module in modules)


def _host_modules() -> list[Path]:
    inside = HOME / "pipeline" / "inside"
    return [path for path in SOURCES if path.is_relative_to(HOME / "pipeline") and not path.is_relative_to(inside)]


@pytest.mark.parametrize("path", _host_modules(), ids=lambda path: path.relative_to(HOME).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(HOME / "pipeline").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in _imports(path):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top == "pipeline" and other and other != own:
            assert _layer(other) < _layer(own), f"{path.name} imports pipeline.{other}, which is not below it"


def test_every_package_of_the_server_has_its_layer() -> None:
    assert {path.parent.name for path in SERVER.glob("*/__init__.py")} == set(SERVER_LAYERS)


@pytest.mark.parametrize("package", ["", *SERVER_LAYERS])
def test_imports_of_the_server_point_downwards(package: str) -> None:
    paths = list((SERVER / package).glob("*.py")) if package else [SERVER / f"{name}.py" for name in SERVER_LEAVES]
    below = SERVER_LEAVES | set(SERVER_LAYERS[: SERVER_LAYERS.index(package) + 1] if package else ())
    for path in paths:
        for name in _imports(path):
            top, _, rest = name.partition(".")
            if top == "server" and rest:
                assert rest.split(".")[0] in below | {"__version__"}, f"{path.name} imports {name}, not below it"


@pytest.mark.parametrize("package", HOMES)
def test_each_outside_thing_has_one_home(package: str) -> None:
    users = {
        path.relative_to(HOME).as_posix() for path in SOURCES if package in {n.split(".")[0] for n in _imports(path)}
    }
    strangers = {user for user in users if not user.startswith(HOMES[package])}
    assert not strangers


@pytest.mark.parametrize("top", ["images", "model_src"])
def test_what_is_shipped_never_imports_the_pipeline(top: str) -> None:
    users = [
        path
        for path in SOURCES
        if path.is_relative_to(HOME / top) and "pipeline" in {n.split(".")[0] for n in _imports(path)}
    ]
    assert not users
