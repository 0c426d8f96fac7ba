"""Collects the shared libraries that ELF files need and the serving root lacks, stripped and found beside each other.

Run while the image is built: closure.py ROOT OUT LIBRARY_FOLDER... -- FILE...
Fails when a library is neither in the root nor in one of the folders: it would be missing at run time only.
"""

import re
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[(.+)\]")
# Where the loader of the serving root looks by itself.
_SYSTEM = ("usr/lib/x86_64-linux-gnu", "usr/lib64")


def needed_by(file: Path) -> list[str]:
    """The names of the libraries that an ELF file asks for."""
    listing = subprocess.run(
        ["/usr/bin/readelf", "--dynamic", "--wide", file], check=True, capture_output=True, text=True
    )
    return _NEEDED.findall(listing.stdout)


def closure_of(files: list[Path], root: Path, folders: list[Path]) -> dict[str, Path]:
    """The libraries to ship, by name, so that the files can be loaded in `root`.

    Raises:
        SystemExit: some are nowhere; all of them are named.
    """
    found: dict[str, Path] = {}
    missing: list[str] = []
    waiting = deque((name, file) for file in files for name in needed_by(file))
    shipped = {file.name for file in files}
    while waiting:
        name, user = waiting.popleft()
        if name in found or name in shipped or any((root / folder / name).exists() for folder in _SYSTEM):
            continue
        path = next((folder / name for folder in folders if (folder / name).exists()), None)
        if path is None:
            missing.append(f"{name} (needed by {user})")
            continue
        found[name] = path
        waiting.extend((other, path) for other in needed_by(path))
    if missing:
        raise SystemExit(
            f"The serving root cannot load what is built for it; these libraries are nowhere: {', '.join(missing)}. "
            "Add the package that has them to the serving root, or their folder to the arguments of closure.py."
        )
    return found


def ship(library: Path, target: Path) -> None:
    """Copies a library without what only debuggers and linkers read; it looks for others in its own folder."""
    shutil.copyfile(library, target)
    target.chmod(0o755)
    subprocess.run(["/usr/bin/strip", "--strip-unneeded", target], check=True)
    subprocess.run(["/usr/bin/patchelf", "--set-rpath", "$ORIGIN", target], check=True)


def main(arguments: list[str]) -> None:
    """Parses the command line and writes the libraries to its OUT folder."""
    at = arguments.index("--")
    root, out, *folders = map(Path, arguments[:at])
    out.mkdir(parents=True, exist_ok=True)
    for name, library in sorted(closure_of([*map(Path, arguments[at + 1 :])], root, folders).items()):
        ship(library, out / name)
        print(f"{name}: {library}, {(out / name).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
