"""What a channel asks on top: every condition of promotion.toml catches its fault, and mistakes in it are told."""

import ast
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import policy
from pipeline.errors import SettingsError
from pipeline.evidence import PASSING, PROVENANCE, Evidence
from pipeline.policy import Channel
from pipeline.settings import HOME
from pipeline.signing import Identity
from pipeline.sigstore import Claimed
from tests.unit.evidence_values import NOW, attestation, evidence, verdict

LOCAL = Identity(name="local", key=Path("local.pub"))
CHANNEL = Channel(
    name="production",
    folder="127.0.0.1:5000/production",
    source="staging",
    signers=(LOCAL,),
    verdicts={gate: timedelta(days=1) for gate in ("check", "audit", "smoke")},
    packages=timedelta(days=30),
    size=2**20,
    forbidden=("frozen-branch",),
    approvers=(LOCAL,),
    budgets={"smoke.ready_seconds": 2.0},
)
FROZEN = {"rule": "frozen-branch", "message": "a branch is frozen", "fix": "export again"}


def _exchanged(gate: str, **changes: object) -> Evidence:
    found = evidence()
    kept = tuple(each for each in found.attestations if each.verdict.get("gate") != gate)
    return replace(found, attestations=(*kept, verdict(gate, **changes)))


def _fetched(when: str) -> Evidence:
    found = evidence()
    made = attestation(PROVENANCE, "3", {"buildDefinition": {"internalParameters": {"packagesFetched": when}}})
    return replace(found, attestations=tuple(made if each.kind == PROVENANCE else each for each in found.attestations))


def _large() -> Evidence:
    found = evidence()
    assert found.contents
    return replace(found, contents=replace(found.contents, size=2**20 + 1))


FAULTS: dict[str, Callable[[], Evidence]] = {
    "verdict-too-old": lambda: _exchanged("smoke", at="2026-11-24T11:59:59Z"),
    "verdict-of-the-future": lambda: _exchanged("audit", at="2026-11-25T13:00:00Z"),
    "packages-too-old": lambda: _fetched("2026-10-01T00:00:00Z"),
    "packages-of-the-future": lambda: _fetched("2026-11-25T13:00:00Z"),
    "packages-unknown": lambda: _fetched("last week"),
    "size": _large,
    "budget": lambda: _exchanged("smoke", measured={"ready_seconds": 2.001}),
    "budget-unmeasured": lambda: _exchanged("smoke", measured={}),
    "forbidden": lambda: _exchanged("check", findings=[FROZEN]),
}


def _rules(found: Evidence, approved: frozenset[str] = frozenset({"local"})) -> list[str]:
    return [each.rule for each in policy.judge(CHANNEL, found, approved=approved, now=NOW)]


def test_what_is_asked_is_enough() -> None:
    assert _rules(evidence()) == []


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_is_refused(rule: str) -> None:
    assert _rules(FAULTS[rule]()) == [rule]


def test_a_missing_approval_is_refused() -> None:
    assert _rules(evidence(), approved=frozenset({"somebody"})) == ["approval"]


def test_a_figure_that_is_no_number_is_over_every_budget() -> None:
    assert _rules(_exchanged("smoke", measured={"ready_seconds": float("nan")})) == ["budget"]


def test_all_faults_are_told_at_once() -> None:
    found = replace(_exchanged("smoke", at="2026-11-01T00:00:00Z", measured={}), contents=_large().contents)
    assert _rules(found, approved=frozenset()) == ["verdict-too-old", "size", "budget-unmeasured", "approval"]


def test_the_policy_that_is_shipped_can_be_read() -> None:
    shipped = policy.load()
    assert shipped.channel("staging").source == "releases"
    assert shipped.channel("production").source == "staging"


_KEY = '"~/.config/torchyard/cosign.pub"'
_FILE = "https://github.com/a/b/.github/workflows/c.yml"


def _workflow(identity: str, issuer: str = "https://token.actions.githubusercontent.com") -> str:
    return f'{{ identity = "{identity}", issuer = "{issuer}" }}'


@pytest.mark.parametrize(
    ("named", "claimed", "counts"),
    [
        (f"{_FILE}@refs/heads/main", f"{_FILE}@refs/heads/main", True),
        (f"{_FILE}@refs/heads/main", f"{_FILE}@refs/heads/mainly", False),
        (f"{_FILE}@refs/heads/main", f"{_FILE.replace('c.yml', 'cxyml')}@refs/heads/main", False),
        (f"{_FILE}@refs/tags/*", f"{_FILE}@refs/tags/v1.2.3", True),
        (f"{_FILE}@refs/tags/*", f"{_FILE}@refs/tags/", False),
        (f"{_FILE}@refs/tags/*", f"{_FILE}@refs/heads/v1.2.3", False),
        (f"{_FILE}@refs/tags/*", f"https://github.com/x/{_FILE}@refs/tags/v1", False),
        (f"{_FILE}@refs/heads/*", f"{_FILE}@refs/heads/a/pull", False),
    ],
)
def test_a_signer_may_be_a_workflow(tmp_path: Path, named: str, claimed: str, counts: bool) -> None:
    path = tmp_path / "promotion.toml"
    path.write_text((HOME / "promotion.toml").read_text().replace(_KEY, _workflow(named), 1))
    signer = policy.load(path).signers["local"]
    assert signer.is_claimed(Claimed(identity=claimed, issuer="https://token.actions.githubusercontent.com")) is counts
    assert not signer.is_claimed(Claimed(identity=claimed, issuer="https://accounts.example.com"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('from = "releases"', 'from = "nowhere"', "takes images from 'nowhere', which is no channel"),
        ('from = "releases"', 'from = "staging"', "takes images from 'staging', which is no channel"),
        ('signers = ["local"]', 'signers = ["nobody"]', "nobody"),
        ("verdicts = { check", "verdicts = { chekc", "names chekc; the gates are check, audit, smoke"),
        ('packages = "90d"', 'packages = "soon"', "'soon' is no age"),
        ('size = "2GiB"', 'size = "2GB"', "'2GB' is no size"),
        ("approvers = []", "approver = []", "has approver; known are"),
        ("[channels.staging]", "[channels.releases]", "takes none from elsewhere"),
        ('"127.0.0.1:5000/staging"', '"127.0.0.1:5000/Staging!"', "cannot hold repositories"),
        ("[signers]", "[signers", "cannot be used"),
        (
            _KEY,
            '{ identity = "https://github.com/a/b" }',
            "it is a key, or has identity and issuer",
        ),
        (_KEY, _workflow("https://github.com/a/*"), "a [*] stands after @refs/tags/ or @refs/heads/ only"),
        (_KEY, _workflow("*"), "a [*] stands after"),
        (_KEY, _workflow("https://github.com/a/b/.github/workflows/*@refs/tags/*"), "a [*] stands after"),
        (_KEY, _workflow("https://github.com/a/b/.github/workflows/c.yml@*"), "a [*] stands after"),
        ('"smoke.p50_ms" = 500', '"smoek.p50_ms" = 500', "budgets names 'smoek.p50_ms'"),
        ('"smoke.p50_ms" = 500', '"p50_ms" = 500', "budgets names 'p50_ms'"),
        ('"smoke.p50_ms" = 500', '"smoke." = 500', "budgets names 'smoke.'"),
        ('forbidden = ["frozen-branch"]', 'forbidden = "frozen-branch"', "forbidden is 'frozen-branch', and has to be"),
        (
            'forbidden = ["frozen-branch"]',
            'forbidden = ["frozen-brnch"]',
            "forbidden names frozen-brnch; what a gate lets",
        ),
        ('signers = ["local"]', 'signers = "local"', "signers is 'local', and has to be a list"),
    ],
)
def test_a_mistake_in_the_policy_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "promotion.toml"
    path.write_text((HOME / "promotion.toml").read_text().replace(old, new, 1))
    with pytest.raises(SettingsError, match=told):
        policy.load(path)


def test_what_a_gate_lets_pass_may_be_forbidden() -> None:
    """By what the gates' sources say: each finding, and each rule of audit's table, that is no error."""
    gates = (path for gate in ("check", "audit") for path in (HOME / "pipeline" / gate).rglob("*.py"))
    found = set()
    for path in (HOME / "pipeline/artifacts.py", HOME / "pipeline/smoke.py", *gates):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Finding", "Rule"}:
                named = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
                if named.get("level", "error") != "error":
                    found.add(named.get("rule") or named["name"])
    assert found == set(PASSING)


def test_an_unknown_channel_is_told() -> None:
    with pytest.raises(SettingsError, match=r"no channel 'prod'. There is: staging, production"):
        policy.load().channel("prod")
