"""A pinned Debian root file system, made from packages by mmdebstrap; no registry is asked for anything."""

import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from fnmatch import translate
from io import BytesIO
from pathlib import Path
from typing import IO

from pipeline import programs, progress
from pipeline.errors import PinsError, SpaceError
from pipeline.pins import IMAGES, RootPin

NONROOT = 65532
_PASSWD = f"root:x:0:0:root:/:/nonexistent\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/:/nonexistent\n"
_GROUP = f"root:x:0:\nnonroot:x:{NONROOT}:\n"


def bootstrap(pin: RootPin, out: Path) -> tuple[str, ...]:
    """Writes the root as a tar file to `out`.

    Equal packages give equal bytes. Returns the packages as `name version architecture`, sorted.

    Raises:
        PinsError: mmdebstrap is not installed, or a package is not to be had.
        SpaceError: the disk is full.
    """
    if not shutil.which("mmdebstrap"):
        raise PinsError(
            "mmdebstrap is not installed, so a Debian root cannot be bootstrapped. "
            "Run `apt-get install mmdebstrap debian-archive-keyring`, "
            f"or set base.{pin.name}.image in images/pins.toml to a registry image by digest."
        )
    raw = out.with_suffix(".raw")
    try:
        _mmdebstrap(pin, raw)
        with tarfile.open(raw) as source, tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as target:
            packages = _filter(pin, source, target)
    finally:
        raw.unlink(missing_ok=True)
    return packages


def hooks(pin: RootPin) -> tuple[str, ...]:
    """What runs in an extracted root on top: beside the record of each package, which files it brought (`md5sums`)."""
    if pin.variant != "extract":
        return ()
    return (
        'for deb in "$1"/var/cache/apt/archives/*.deb; do'
        ' dpkg-deb --ctrl-tarfile "$deb" | tar --extract --to-stdout ./md5sums'
        ' > "$1/var/lib/dpkg/status.d/$(dpkg-deb --field "$deb" Package).md5sums"; done',
    )


def drift(recorded: tuple[str, ...], packages: tuple[str, ...]) -> tuple[str, ...]:
    """What differs between recorded packages and these: `- old` and `+ new` lines, sorted by package."""
    was, now = set(recorded), set(packages)
    changes = [f"- {line}" for line in was - now] + [f"+ {line}" for line in now - was]
    return tuple(sorted(changes, key=lambda line: (line[2:].split()[0], line[0] == "+")))


def _mmdebstrap(pin: RootPin, out: Path) -> None:
    command = [
        "mmdebstrap",
        f"--variant={pin.variant}",
        f"--include={','.join(pin.packages)}",
        "--format=tar",
    ]
    if pin.variant == "extract":
        # Nothing is configured in this variant, so merged-/usr has to be laid out by hand and the record of the
        # packages to be taken before apt's files go.
        command += [
            '--setup-hook=for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done',
            f"--extract-hook={IMAGES / 'base' / 'record-packages.sh'}",
            *(f"--extract-hook={hook}" for hook in hooks(pin)),
        ]
    else:
        files = IMAGES / "base" / "record-files.sh"
        command += [f"--extract-hook={files}", f"--customize-hook={files}"]
    command += [pin.suite, str(out)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(pin.epoch), "LC_ALL": "C.UTF-8"}
    log: list[str] = []

    def on_line(line: str) -> None:
        log.append(line)
        if line.startswith(("I: running", "I: downloading", "I: installing", "I: extracting", "E:")):
            progress.say(f"  {line}")

    if programs.run(command, env=environment, on_line=on_line):
        last = "\n".join(f"  {line}" for line in log[-15:])
        if "No space left on device" in last:
            raise SpaceError(
                f"The disk filled up while the {pin.name} root was bootstrapped:\n{last}\nFree some space."
            )
        raise PinsError(
            f"The {pin.name} root could not be bootstrapped from {', '.join(pin.packages)}:\n{last}\n"
            "Is Debian's mirror reachable, and are all packages in images/pins.toml spelled right?"
        )


def _filter(pin: RootPin, source: tarfile.TarFile, target: tarfile.TarFile) -> tuple[str, ...]:
    """Copies what the pin keeps, with all file times clamped, and returns the packages found on the way."""
    keep = _matcher(pin.keep or ("*",))
    drop = _matcher(pin.drop)
    if pin.keep:
        for name, text in (("etc/group", _GROUP), ("etc/passwd", _PASSWD)):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), pin.epoch
            target.addfile(member, BytesIO(text.encode()))
    packages: set[str] = set()
    for member in source:
        name = member.name.removeprefix("./")
        if name == "var/lib/dpkg/status" or name.startswith("var/lib/dpkg/status.d/"):
            packages.update(_packages(source.extractfile(member)))
        always = not pin.keep or (member.issym() and "/" not in name) or name == "tmp"
        if member.isdev() or not (always or (keep.match(name) and not member.isdir())) or drop.match(name):
            continue
        member.name = name
        member.mtime = min(int(member.mtime), pin.epoch)
        target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return tuple(sorted(packages))


def _matcher(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(plain) for glob in globs for plain in _braces(glob)) or "(?!)")


def _braces(glob: str) -> Iterator[str]:
    """Expands the first `{a,b}` of a glob, and those after it."""
    before, opened, rest = glob.partition("{")
    if not opened:
        yield glob
        return
    inside, _, after = rest.partition("}")
    for choice in inside.split(","):
        yield from _braces(before + choice + after)


def _packages(status: IO[bytes] | None) -> Iterator[str]:
    """The `name version architecture` of every package in a dpkg status file."""
    for paragraph in (status.read().decode() if status else "").split("\n\n"):
        values = dict(re.findall(r"^(Package|Version|Architecture): (.*)$", paragraph, re.MULTILINE))
        if values:
            yield f"{values['Package']} {values['Version']} {values['Architecture']}"
