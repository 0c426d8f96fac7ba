"""Whatever the bytes: the archive's parser answers with findings, never with an exception."""

import io
import random
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from pipeline.artifacts import Finding
from pipeline.check import inspect
from pipeline.check.runtime import parse

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS = parse((GOLDEN / "runtime.json").read_bytes())
ROUNDS = 150
# Bytes that steer zip and pickle readers: ends of ranges, signatures, opcodes with a length behind them.
TOKENS = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"(",
    b"\x8b\xff\xff\xff\x7f",
    b"X",
)


def _mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four changes: bytes flipped, written over, cut out, put in or repeated."""
    mutant = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not mutant:
            break
        # Half of the changes hit the directory at the end, where every claim of a zip file is.
        place = rng.randrange(len(mutant)) if rng.random() < 0.5 else rng.randrange(len(mutant) * 3 // 4, len(mutant))
        length = rng.choice((1, 2, 4, 64))
        token = rng.choice(TOKENS)
        match rng.randrange(5):
            case 0:
                mutant[place] ^= 1 << rng.randrange(8)
            case 1:
                mutant[place : place + len(token)] = token
            case 2:
                del mutant[place : place + length]
            case 3:
                mutant[place:place] = token
            case 4:
                mutant[place:place] = mutant[place : place + length]
    return bytes(mutant)


def _inside(content: bytes, rng: random.Random) -> bytes:
    """The archive written anew, and its checksums with it, with one of its entries mutated."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = rng.choice([info for info in old.infolist() if info.file_size])
        for info in old.infolist():
            entry = old.read(info)
            new.writestr(info.filename, _mutated(entry, rng) if info is chosen else entry)
    return out.getvalue()


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.pt")))
def test_mutants_are_answered_with_findings(name: str) -> None:
    content = (GOLDEN / f"{name}.pt").read_bytes()
    rng = random.Random(name)
    for _ in range(ROUNDS // 2):
        for mutant in (_mutated(content, rng), _inside(content, rng)):
            findings = inspect(io.BytesIO(mutant), FACTS)
            assert all(isinstance(finding, Finding) for finding in findings)


def test_claims_of_size_cost_no_memory() -> None:
    """Pickles and directories that claim gigabytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO((GOLDEN / "traced.pt").read_bytes())) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(
                info.filename, old.read(info) if not info.filename.endswith("data.pkl") else b"\x80\x02" + b"(" * 2**20
            )
    tracemalloc.start()
    findings = inspect(out, FACTS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [finding.rule for finding in findings] == ["bad-pickle"]
    assert peak < 50 * 2**20
