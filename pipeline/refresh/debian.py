"""The Debian packages that are recorded beside the images: what the archive resolves to now."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline import progress
from pipeline.bootstrap import bootstrap, drift
from pipeline.pins import Pins
from pipeline.refresh.stale import Stale


def stale(pins: Pins, home: Path) -> Iterator[Stale]:
    """The recorded packages of each root that is bootstrapped, and of the toolchain.

    Roots are bootstrapped for real, and no engine is needed: the toolchain is the build root with its packages added,
    which apt resolves to the same set in the image.

    Raises:
        PinsError: mmdebstrap is not installed, or a package is not to be had.
        SpaceError: the disk is full.
    """
    build = pins.build_root
    toolchain = replace(build, name="toolchain", packages=(*build.packages, *pins.toolchain))
    places = ((build, "base"), (pins.serving_root, "base"), (toolchain, "pytorch-cuda"))
    own = ((root, root.name) for root in (pins.load_root, pins.registry_root, pins.tools_root))
    for root, folder in (*places, *own):
        if root.image:
            continue
        record = home / "images" / folder / f"{root.name}.packages"
        progress.say(f"resolving the {root.name} packages in Debian {root.suite}")
        with tempfile.TemporaryDirectory(prefix="torchyard-") as scratch:
            packages = bootstrap(root, Path(scratch) / "root.tar")
        recorded = tuple(record.read_text(encoding="utf-8").splitlines())
        yield Stale(path=record, text="\n".join(packages) + "\n", changes=drift(recorded, packages))
