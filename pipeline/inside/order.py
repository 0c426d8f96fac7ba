"""What the host asks a script for, and how the script answers: a variable in, a file out.

The order is JSON in TORCHYARD_ORDER. The answer is /torchyard/out/result.json, written as the last act, so that
without it nothing counts: what the script found out, or {"refused": MESSAGE} when the model cannot be accepted.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = Path("/torchyard/model")
OUT = Path("/torchyard/out")


class Refused(Exception):
    """The model is not acceptable. The message says what was found, what it means and what to do."""


def answer(work: Callable[[dict[str, Any], Path], dict[str, Any]]) -> None:
    """Does the work for the order, given the order and the output folder, and leaves its result there."""
    try:
        result = work(json.loads(os.environ["TORCHYARD_ORDER"]), OUT)
    except Refused as refusal:
        write_atomic(OUT / "result.json", json.dumps({"refused": str(refusal)}).encode())
        sys.exit(1)
    write_atomic(OUT / "result.json", json.dumps(result).encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Replaces the file at `path`; a reader sees all of it or none of it."""
    half = path.with_name(f".{path.name}")
    with half.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    half.replace(path)
