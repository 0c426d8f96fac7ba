"""Rules about an image's configuration: user, commands, ports, volumes, environment, secrets in settings."""

import posixpath
import re
from collections.abc import Iterator, Sequence

from pipeline.audit import traces
from pipeline.audit.contents import Contents
from pipeline.audit.layer import Entry
from pipeline.audit.programs import SHELLS

REQUIRED_PORT = "8080/tcp"
ALLOWED_PORTS = frozenset({REQUIRED_PORT, "8081/tcp"})

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Each makes the loader or the interpreter run code that the entrypoint does not name.
_INJECTING = frozenset(
    {"LD_PRELOAD", "LD_AUDIT", "GCONV_PATH", "BASH_ENV", "ENV", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT"}
    | {"PYTHONHOME", "PYTHONUSERBASE", "PERL5OPT", "PERL5LIB", "RUBYOPT", "NODE_OPTIONS", "OPENSSL_CONF"}
)
_SEARCH_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (inside the image)
_SECRET_NAME = re.compile(
    r".*(?:passw(?:or)?d|passphrase|sshpass|authtoken)(?:$|[_.-].*)|(?:.*[_.-])?(?:pass|pwd|secret|secrets|token"
    r"|credentials?|(?:api|access|private|secret|signing|encryption)_?key|auth)(?:$|[_.-].*)",
    re.IGNORECASE,
)
# Build arguments as builders write them into a history: `RUN |2 NAME=value OTHER=value /bin/sh -c …`, `ARG NAME=value`.
_ASSIGNMENT = re.compile(r"(?:^|[\s|\"'])([A-Za-z_][\w.-]*)=(\"[^\"]*\"|'[^']*'|\S*)")


def user(contents: Contents) -> Iterator[tuple[str, str]]:
    """The user and the group must both be numbers other than 0."""
    value = str(contents.config.get("User") or "")
    uid, gid = contents.user
    if not value:
        yield "config.User", "It is empty, so the server runs as root."
    elif uid == 0 or gid == 0:
        yield "config.User", f"It is {value!r}: the server runs as root or in root's group."
    elif uid is None:
        yield "config.User", f"It is {value!r}: only a number can be seen not to be root (Kubernetes' runAsNonRoot)."
    elif gid is None:
        yield "config.User", f"It is {value!r}: without a numeric group, files in the image may make it root's group."


def entrypoint(contents: Contents) -> Iterator[tuple[str, str]]:
    """The entrypoint must be in exec form, and its program must be in the image."""
    command: Sequence[str] = contents.config.get("Entrypoint") or ()
    if command:
        yield from _command("config.Entrypoint", command, contents)
    else:
        yield "config.Entrypoint", "There is none, so the image does not say what it runs."
    arguments: Sequence[str] = contents.config.get("Cmd") or ()
    if _is_shell_form(arguments):
        yield "config.Cmd", "It is in shell form, and there must be no shell."


def healthcheck(contents: Contents) -> Iterator[tuple[str, str]]:
    """The health check must be there, in exec form, and its program must be in the image."""
    where = "config.Healthcheck"
    test: Sequence[str] = (contents.config.get("Healthcheck") or {}).get("Test") or ()
    if not test:
        yield where, "There is none, so nothing notices a server that hangs."
    elif test[0] == "NONE":
        yield where, "It is switched off (NONE), so nothing notices a server that hangs."
    elif test[0] == "CMD-SHELL":
        yield where, f"It is in shell form ({' '.join(test[1:])}), and there must be no shell."
    elif test[0] != "CMD" or len(test) < 2:
        yield where, f"{list(test)!r} names no program to start."
    else:
        yield from _command(where, test[1:], contents)


def port(contents: Contents) -> Iterator[tuple[str, str]]:
    """8080 must be declared, 8081 may be, no other port may."""
    ports = frozenset(contents.config.get("ExposedPorts") or ())
    if REQUIRED_PORT not in ports:
        yield "config.ExposedPorts", f"{REQUIRED_PORT}, where the server answers, is not declared."
    for name in sorted(ports - ALLOWED_PORTS):
        yield f"config.ExposedPorts {name}", "The server does not listen there."


def volume(contents: Contents) -> Iterator[tuple[str, str]]:
    """No volume may be declared."""
    for path in sorted(contents.config.get("Volumes") or ()):
        yield f"config.Volumes {path}", "The engine makes a writable place that a read-only root does not cover."


def environment(contents: Contents) -> Iterator[tuple[str, str]]:
    """The environment must not inject code, nor search for code where anyone may put it."""
    for name, value in contents.env.items():
        if name in _INJECTING:
            yield f"config.Env {name}", f"It is {value!r}: code that the entrypoint does not name would run."
        if name in _SEARCH_PATHS:
            for path in value.split(":") if value else ():
                normal = posixpath.normpath(path)
                if not path.startswith("/") or any(
                    normal == place or normal.startswith(f"{place}/") for place in _SCRATCH
                ):
                    yield f"config.Env {name}", f"Code is searched for in {path!r}, where others may put theirs."
    if contents.files.entries.get("/etc/ld.so.preload"):
        yield "/etc/ld.so.preload", "The loader puts the libraries that it names into every program."


def secret(contents: Contents) -> Iterator[tuple[str, str]]:
    """No secret in the environment, the labels, the commands or the history with its build arguments."""
    for name, value in contents.env.items():
        yield from _setting(f"config.Env {name}", name, value)
    for name, value in (contents.config.get("Labels") or {}).items():
        yield from _setting(f"config.Labels {name}", name, value)
    for key in ("Entrypoint", "Cmd"):
        yield from _setting(f"config.{key}", "", " ".join(contents.config.get(key) or ()))
    for number, step in enumerate(contents.history, 1):
        text = str(step.get("created_by") or "")
        yield from _setting(f"history {number}", "", text)
        for name, value in _ASSIGNMENT.findall(text):
            yield from _setting(f"history {number} {name}", name, value.strip("\"'"))


def _setting(where: str, name: str, value: str) -> Iterator[tuple[str, str]]:
    """Judges a value by what it looks like and, unless it is a path or a switch, by what its name promises."""
    found = traces.in_text(value)
    if found:
        yield where, f"It holds {' and '.join(found)}, and whoever has the image can read it."
    elif _SECRET_NAME.fullmatch(name) and not re.fullmatch(r"|/.*|\$.*|true|false|\d{1,3}", value, re.IGNORECASE):
        yield where, "Its name says that it is a secret, and whoever has the image can read it."


def _command(where: str, command: Sequence[str], contents: Contents) -> Iterator[tuple[str, str]]:
    name = command[0]
    if _is_shell_form(command):
        yield where, f"It is in shell form ({' '.join(command)}), and there must be no shell."
        return
    program = _find(name, contents)
    if program is None or program.kind not in ("file", "hardlink"):
        yield where, f"Its program {name!r} is not in the image, or is a link that leads nowhere."
    elif not _may_execute(program, contents):
        yield where, f"Its program {program.path} may not be executed by the server's user (mode {program.mode:04o})."


def _is_shell_form(command: Sequence[str]) -> bool:
    return bool(command) and SHELLS.fullmatch(posixpath.basename(command[0])) is not None


def _find(name: str, contents: Contents) -> Entry | None:
    """The program that `name` starts, found as the engine finds it."""
    home = str(contents.config.get("WorkingDir") or "/")
    if "/" in name:
        return contents.files.resolve(posixpath.join(home, name))
    for folder in contents.env.get("PATH", _DEFAULT_PATH).split(":"):
        if program := contents.files.resolve(posixpath.join(home, folder, name)):
            return program
    return None


def _may_execute(program: Entry, contents: Contents) -> bool:
    uid, gid = contents.user
    if not uid:
        return program.mode & 0o111 != 0
    bit = 0o100 if program.uid == uid else 0o010 if program.gid == gid else 0o001
    return program.mode & bit != 0
