"""Collects the shared libraries that ELF files need and the serving root lacks, stripped and found beside each other.

Run while the image is built: closure.py ROOT OUT LIBRARY_FOLDER... -- FILE...
Fails when a library is neither in the root nor in one of the folders: it would be missing at run time only.
OUT/libraries.json names for each the wheel that it is from, and its SHA-256 as it is shipped.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import deque
from importlib import metadata
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


def wheel_of(library: Path) -> dict[str, str]:
    """The package that installed a library, and its version.

    Raises:
        SystemExit: none did.
    """
    site = next(folder for folder in library.parents if folder.name == "site-packages")
    for package in metadata.distributions(path=[str(site)]):
        if any(file.locate() == library for file in package.files or ()):
            return {"package": package.name.lower().replace("_", "-"), "version": package.version}
    raise SystemExit(f"{library} is in no package's RECORD, so nobody could say where it comes from.")


def main(arguments: list[str]) -> None:
    """Parses the command line and writes the libraries to its OUT folder."""
    at = arguments.index("--")
    root, out, *folders = map(Path, arguments[:at])
    out.mkdir(parents=True, exist_ok=True)
    libraries = {}
    for name, library in sorted(closure_of([*map(Path, arguments[at + 1 :])], root, folders).items()):
        ship(library, out / name)
        content = (out / name).read_bytes()
        libraries[name] = wheel_of(library) | {"sha256": hashlib.sha256(content).hexdigest()}
        print(f"{name}: {library}, {len(content) / 1e6:.1f} MB")
    (out / "libraries.json").write_text(json.dumps(libraries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
