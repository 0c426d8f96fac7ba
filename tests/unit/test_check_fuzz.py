"""Whatever the bytes: the archive's parser answers with findings, never with an exception, and keeps within bounds."""

import io
import json
import random
import resource
import sys
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.artifacts import Finding
from pipeline.check import inspect
from pipeline.check.runtime import parse
from tests.unit.mutants import mutant

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS = parse((GOLDEN / "runtime.json").read_bytes())
PATHS = sorted(GOLDEN.rglob("*.pt"))
ARCHIVES = tuple(path.read_bytes() for path in PATHS)
# Of each archive; more than 3,000 in all.
ROUNDS = 125
MOST_MEMORY = 200 * 2**20


def _largest_so_far() -> int:
    """The most memory, in bytes, that this process ever had."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def test_there_are_thousands_of_mutants() -> None:
    assert ROUNDS * len(PATHS) >= 3000


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_mutants_are_answered_with_findings(path: Path) -> None:
    content = path.read_bytes()
    rng = random.Random(path.stem)
    before = _largest_so_far()
    for _ in range(ROUNDS):
        findings = inspect(io.BytesIO(mutant(content, ARCHIVES, rng)), FACTS)
        assert all(isinstance(finding, Finding) for finding in findings)
        assert all(len(finding.message) < 5000 for finding in findings)
    assert _largest_so_far() - before < MOST_MEMORY


_CODE = {"version": b"3\n", "code/__torch__.py": b""}
_LARGE: dict[str, dict[str, bytes]] = {
    "a pickle of marks": {"data.pkl": b"\x80\x02" + b"(" * 2**20},
    "a pickle of one string": {"data.pkl": b"\x80\x02X" + (2**22).to_bytes(4, "little") + b"a" * 2**22 + b"."},
    "a string that is not there": {"data.pkl": b"\x80\x02\x8d" + (2**40).to_bytes(8, "little") + b"a."},
    "a number of many digits": {"data.pkl": b"\x80\x02L" + b"9" * 2**22 + b"L\n."},
    "a memo of many names": {"data.pkl": b"\x80\x02" + b"c__torch__\nA\n" + b"r\xff\xff\xff\xff" * 2**16 + b"."},
    "a contract of many objects": {"extra/contract.json": b"[" + b"[]," * 2**19 + b"[]]"},
    "a contract that nests": {"extra/contract.json": b"[" * 2**20},
    "a contract of one long schema": {"extra/contract.json": json.dumps({"operators": ["f(" * 2**19]}).encode()},
    "code of one line": {"code/__torch__.py": b"  y = " + b"torch.relu(" * 2**15},
    "code of one string": {"code/__torch__.py": b'  y = torch.format("' + b'\\"' * 2**20},
    "code of many classes": {
        "code/__torch__.py": b"".join(b"p : __torch__.torch.classes.a.B%d\n" % n for n in range(20_000))
    },
    "zeros": {"data/0": bytes(48 * 2**20)},
    "many entries": {f"data/{n}": b"" for n in range(2_000)},
}


@pytest.mark.parametrize("entries", _LARGE.values(), ids=_LARGE)
def test_what_is_large_or_claims_to_be_costs_little_memory(entries: Mapping[str, bytes]) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (_CODE | dict(entries)).items():
            archive.writestr(f"model/{name}", content)
    tracemalloc.start()
    findings = inspect(out, FACTS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(isinstance(finding, Finding) for finding in findings)
    assert peak < MOST_MEMORY / 2


def test_a_pickle_that_only_nests_is_refused() -> None:
    entries = _CODE | _LARGE["a pickle of marks"]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"model/{name}", content)
    assert [finding.rule for finding in inspect(out, FACTS)] == ["bad-pickle"]
