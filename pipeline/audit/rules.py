"""The table of rules: what a serving image must not have, why each breach matters, and how to mend it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.artifacts import Level
from pipeline.audit import configuration, libraries, permissions, programs, remains
from pipeline.audit.contents import Contents

# Yields where the rule is broken and why that matters.
Look: TypeAlias = Callable[[Contents], Iterator[tuple[str, str]]]

_ELSEWHERE = (
    "Copy only what the server needs from a build stage; deleting it in a later layer leaves it inside the image."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`name` is stable: reports and people refer to it."""

    name: str
    look: Look
    fix: str
    level: Level = "error"


RULES = (
    Rule(name="user", look=configuration.user, fix="Write `USER 65532:65532` in the Dockerfile."),
    Rule(
        name="entrypoint",
        look=configuration.entrypoint,
        fix='Write it in exec form with an absolute path: ENTRYPOINT ["/usr/bin/python3.13", "-m", "server"].',
    ),
    Rule(
        name="healthcheck",
        look=configuration.healthcheck,
        fix='Write it in exec form: HEALTHCHECK CMD ["/usr/bin/python3.13", "-m", "server.health"].',
    ),
    Rule(name="port", look=configuration.port, fix="Write `EXPOSE 8080` (and 8081 for gRPC), and no other port."),
    Rule(name="volume", look=configuration.volume, fix="Remove VOLUME; scratch space is a tmpfs given at run time."),
    Rule(name="environment", look=configuration.environment, fix="Remove the setting, or give an absolute path."),
    Rule(
        name="secret-setting",
        look=configuration.secret,
        fix="Revoke the secret, rebuild without it, and give build steps theirs by `RUN --mount=type=secret`.",
    ),
    Rule(
        name="secret-file",
        look=remains.secret_file,
        fix=f"Revoke what is in it and rebuild without it. {_ELSEWHERE}",
    ),
    Rule(
        name="secret-content",
        look=remains.secret_content,
        fix=f"Revoke it and rebuild without it. {_ELSEWHERE}",
    ),
    Rule(
        name="ca-bundle",
        look=remains.ca_bundle,
        fix=f"Give the build its certificates by `RUN --mount=type=secret`. {_ELSEWHERE}",
    ),
    Rule(name="leftover", look=remains.leftover, fix=_ELSEWHERE),
    Rule(name="docker-socket", look=remains.docker_socket, fix="Remove it; a server has no business with the engine."),
    Rule(name="shell", look=programs.shell, fix=_ELSEWHERE),
    Rule(name="interpreter", look=programs.interpreter, fix=_ELSEWHERE),
    Rule(name="package-manager", look=programs.package_manager, fix=_ELSEWHERE),
    Rule(name="pip", look=programs.pip, fix=_ELSEWHERE),
    Rule(name="compiler", look=programs.compiler, fix=_ELSEWHERE),
    Rule(name="ssh", look=programs.ssh, fix=_ELSEWHERE),
    Rule(name="jupyter", look=programs.jupyter, fix=_ELSEWHERE),
    Rule(
        name="model-library",
        look=libraries.model_library,
        fix="Let `inv build-serving` compile ops/*.cpp against torch alone and ship it as /model/ops.so, mode 0444.",
    ),
    Rule(
        name="setuid",
        look=permissions.setuid,
        fix=f"Take the bit away where the file is added (`chmod u-s,g-s`). {_ELSEWHERE}",
    ),
    Rule(
        name="file-capability",
        look=permissions.file_capability,
        fix=f"Take it away where the file is added (`setcap -r`). {_ELSEWHERE}",
    ),
    Rule(name="world-writable", look=permissions.world_writable, fix="Take the bit away (`chmod o-w`)."),
    Rule(
        name="runtime-writable",
        look=permissions.runtime_writable,
        fix="Give it to root and take the write bits away (`chown 0:0`, `chmod g-w`).",
    ),
    Rule(name="special-file", look=permissions.special_file, fix="Remove it; the engine makes /dev at run time."),
    Rule(
        name="dangling-link",
        look=permissions.dangling_link,
        fix="Remove the link, or add what it points to.",
        level="warning",
    ),
)
