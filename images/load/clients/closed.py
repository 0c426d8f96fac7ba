"""So many clients that each wait for an answer before they send again: h2load, and a witness that looks at answers.

h2load sends one request over and over and looks at no answer. So a witness sends other requests meanwhile, at a low
rate: a server that mixes up what it answers at the same time shows it to the witness.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from clients.arrivals import Arrivals, Outcome

# After h2load, where a witness meanwhile would be felt: at a rate that leaves a server idle between requests.
_AFTERWARDS = 20.0
_ENDLESS = 10**9


def main() -> int:
    """Parses the command line and returns the exit code: h2load's, if it failed."""
    parser = argparse.ArgumentParser(prog="python3.13 -m clients.closed", description=__doc__)
    parser.add_argument("requests", type=Path, nargs="+", metavar="FILE", help="the witness's, byte for byte")
    parser.add_argument("--port", type=int, required=True, help="of the witness's requests, on loopback")
    parser.add_argument(
        "--rate", type=float, required=True, help="the witness's requests a second; 0: once, afterwards"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where its outcome goes, as JSON")
    parser.add_argument("--h2load", required=True, metavar="JSON", help="h2load's arguments, a list")
    arguments = parser.parse_args()
    address = "127.0.0.1", arguments.port
    requests = [path.read_bytes() for path in arguments.requests]
    with subprocess.Popen(["/usr/bin/h2load", *json.loads(arguments.h2load)]) as h2load:
        outcome = Outcome()
        if arguments.rate:
            witness = Arrivals(address, requests, arguments.rate)
            outcome = witness.run(_ENDLESS, until=lambda: h2load.poll() is not None)
        h2load.wait()
    if not arguments.rate:
        outcome = Arrivals(address, requests, _AFTERWARDS).run(len(requests))
    arguments.out.write_text(json.dumps(outcome.told()))
    return h2load.returncode


if __name__ == "__main__":
    sys.exit(main())
