"""`python3.13 -m server.replay`: loads an archive and replays its samples, and probes if they lie there.

Prints one JSON object on stdout. Exit codes are those of `server.errors`; the reason is on stderr.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from server import settings
from server.errors import StartError
from server.model import contract as contracts
from server.model.engine import imported
from server.model.loading import load, prepare
from server.model.replaying import replay
from server.model.samples import probes


def main() -> int:
    """Parses the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.replay", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="DIR", help="a folder with model.pt, contract.json, samples")
    which.add_argument("--archive", type=Path, metavar="FILE", help="a bare archive, which is only loaded")
    arguments = parser.parse_args()
    try:
        threads = settings.read(os.environ).threads
        settings.prepare_openmp(threads)
        print(json.dumps(_load(arguments.archive) if arguments.archive else _replay(arguments.model, threads)))
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _load(archive: Path) -> dict[str, object]:
    return {"loaded": True, "methods": load(archive, imported(), optimize=False).methods}


def _replay(folder: Path, threads: int) -> dict[str, object]:
    contract = contracts.read(folder)
    ready = prepare(contract, folder, imported, threads=threads)
    probed = probes(contract, folder)
    more = replay(ready.served, probed, kind="probe", judged=contract.judges_probes)
    outputs = {
        name: {figure: max(value, more[name][figure]) for figure, value in figures.items()}
        for name, figures in ready.differences.items()
    }
    return {"samples": len(ready.samples), "probes": len(probed), "outputs": outputs}


if __name__ == "__main__":
    sys.exit(main())
