"""`python3.13 -m server.describe`: what this runtime can load, for the check of archives against it.

Run once while the image is built; the image has no shell that could redirect stdout, hence the argument.
"""

import argparse
import json
import sys
from pathlib import Path

import _engine


def description() -> dict[str, object]:
    """The runtime's torch version, device, first and last readable archive version, operator schemas and classes.

    `upgraders` are the operators that older archives mean otherwise: an archive version and the schema until then.
    """
    return {
        "torch": _engine.torch_version(),
        "device": "cpu",
        "archive_versions": list(_engine.archive_versions()),
        "operators": _engine.operators(),
        "upgraders": _engine.upgraders(),
        "classes": _engine.classes(),
    }


def main() -> None:
    """Writes the description as JSON to the file that is named, or to stdout."""
    parser = argparse.ArgumentParser(prog="python3.13 -m server.describe", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it, instead of stdout")
    out = parser.parse_args().out
    text = json.dumps(description(), indent=1) + "\n"
    if out:
        out.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
