"""Compiles a model's own operators (ops/*.cpp) against torch's headers: equal sources give equal bytes.

Run in the toolchain. The library links torch_cpu and c10 alone, since that is what the runtime has, and carries no
path to them: whoever loads it has loaded torch before.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.inside.order import MODEL, Refused, answer

PACKAGES = Path("/opt/venv/lib/python3.13/site-packages")
TORCH = PACKAGES / "torch"
# As the runtime's own extension is compiled (images/serving/Dockerfile). Line numbers are for the linker's messages;
# --strip-all takes them out again.
_COMPILE = (
    *("-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"),
    *("-Wall", "-Wextra", "-Werror", "-fdiagnostics-color=never", f"-ffile-prefix-map={PACKAGES}/="),
    *("-isystem", f"{TORCH}/include", "-isystem", f"{TORCH}/include/torch/csrc/api/include"),
)
# -z defs: a symbol that is nowhere is an error here, and not where the library is loaded.
_LINK = (
    *(f"-L{TORCH}/lib", "-ltorch_cpu", "-lc10", "-Wl,--as-needed", "-Wl,-z,defs", "-Wl,-z,relro,-z,now"),
    "-Wl,--strip-all",
)
_PLACE = re.compile(r"(?P<place>[^\s:]+:\d+)(?::[^:\s]+)?: (?:fatal )?(?:error: )?(?P<told>.*)")
_LAST_LINES = 20
# In a process of its own: torch ends the one whose library registers what it refuses.
_REGISTER = """
import sys
from pathlib import Path
from pipeline.inside.source import load_operators
print(*load_operators(Path(sys.argv[1])), sep="\\n")
"""


def main(order: dict[str, Any], out: Path) -> dict[str, Any]:
    """Writes out/ops.so from the order's sources, which are paths in the model's folder.

    Raises:
        Refused: the compiler, the linker or torch does; the message has the last lines, and file and line of the code.
    """
    # Seen from the model's folder, files have the same names wherever that folder lies.
    os.chdir(MODEL)
    sources = [Path(source) for source in order["sources"]]
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        for source, made in zip(sources, objects, strict=True):
            print(f"g++ {source}")
            _run("-c", source, "-o", made, *_COMPILE)
        half = out / ".ops.so"
        try:
            _run("-shared", *objects, "-o", half, *_LINK)
            _register(half)
            half.chmod(0o644)
            half.replace(out / "ops.so")
        finally:
            half.unlink(missing_ok=True)
    return {}


def _run(*arguments: str | Path) -> None:
    # The locale decides how messages are quoted, and nothing else.
    environment = os.environ | {"LC_ALL": "C"}
    command = ["/usr/bin/g++", *arguments]
    done = subprocess.run(command, check=False, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        # The linker takes file and line from the debugging records, which have the whole path.
        raise Refused(_told(done.stderr.replace(f"{MODEL}/", "").splitlines(), done.returncode))


def _register(library: Path) -> None:
    """Shows which operators the library registers."""
    command = [sys.executable, "-c", _REGISTER, str(library)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Refused(
            "The operators in ops/ compile, and torch cannot register them. "
            f"Correct what it names and run again:\n{_last(done.stderr.splitlines())}"
        )
    if not done.stdout.strip():
        raise Refused(
            "The operators in ops/ compile and register nothing, so that no model can call them. "
            "Register each with TORCH_LIBRARY; model_src/README.md shows how."
        )
    print(done.stdout, end="")


def _told(lines: list[str], code: int) -> str:
    """What the compiler or the linker said, with the first place that it blames up front."""
    first = next(_blamed(lines), f"g++ ended with exit code {code}")
    return (
        f"The operators in ops/ cannot be compiled. {first}. Correct it and run again; g++ ends with:\n{_last(lines)}"
    )


def _last(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])


def _blamed(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if ("error: " in line or "undefined reference" in line) and (match := _PLACE.search(line)):
            yield f"{match['place']}: {match['told']}"


if __name__ == "__main__":
    answer(main)
