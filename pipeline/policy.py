"""promotion.toml -> what each channel asks, and evidence held against it without asking anybody."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.artifacts import Finding
from pipeline.errors import SettingsError
from pipeline.evidence import GATES, PASSING, PROVENANCE, RELEASES, TEST_RESULT, Evidence, finding, when
from pipeline.settings import HOME, absolute, repository
from pipeline.signing import Identity
from pipeline.sigstore import Claimed

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}
_SIZES = {"MiB": 2**20, "GiB": 2**30}
# What is signed in the future was signed by a clock that is wrong, or to look fresh for longer.
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What a channel asks. `source` is the only channel that it takes images from.

    `verdicts` maps a gate to the oldest that its verdict may be, `packages` is the same for the base packages;
    `size` is in bytes as sent; `budgets` maps `gate.figure` to the most that may have been measured.
    """

    name: str
    folder: str
    source: str
    signers: tuple[Identity, ...]
    verdicts: Mapping[str, timedelta]
    packages: timedelta
    size: int
    forbidden: tuple[str, ...]
    approvers: tuple[Identity, ...]
    budgets: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All channels, and all signers by name."""

    channels: Mapping[str, Channel]
    signers: Mapping[str, Identity]

    def channel(self, name: str) -> Channel:
        """The channel of this name.

        Raises:
            SettingsError: there is none.
        """
        if name not in self.channels:
            known = ", ".join(self.channels) or "none"
            raise SettingsError(f"promotion.toml has no channel {name!r}. There is: {known}.")
        return self.channels[name]


def load(path: Path = HOME / "promotion.toml") -> Policy:
    """Reads the policy.

    Raises:
        SettingsError: it cannot be read, or asks for something that is not known; the message names it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        signers = {name: _signer(name, asked, path.parent) for name, asked in content["signers"].items()}
        channels = {name: _channel(name, asked, signers) for name, asked in content["channels"].items()}
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be used ({error!r}). Correct it and run again.") from error
    for channel in channels.values():
        if channel.source not in {RELEASES, *channels} - {channel.name}:
            raise SettingsError(f"{path}: {channel.name} takes images from {channel.source!r}, which is no channel.")
    return Policy(channels=channels, signers=signers)


def judge(channel: Channel, evidence: Evidence, *, approved: frozenset[str], now: datetime) -> tuple[Finding, ...]:
    """What a channel asks and the evidence does not give, on top of what every release has to have.

    `approved` are the names of those whose approval of this digest for this channel verifies.
    """
    return (
        *_fresh(channel, evidence, now),
        *_packages(channel, evidence, now),
        *_figures(channel, evidence),
        *_forbidden(channel, evidence),
        *_approved(channel, approved),
    )


def _fresh(channel: Channel, evidence: Evidence, now: datetime) -> Iterator[Finding]:
    for gate, oldest in channel.verdicts.items():
        if not (found := evidence.attestation(f"{TEST_RESULT} {gate}")):
            continue
        judged = when(found.verdict["at"])
        if now - judged > oldest:
            text = f"it is of {judged:%Y-%m-%d %H:%M}, and {channel.name} takes none older than {_shown(oldest)}"
            cure = f"Judge the image again and release it: `inv {gate} --force`, `inv release`."
            yield finding("verdict-too-old", gate, text, cure)
        elif judged - now > _SKEW:
            text = f"it is of {judged:%Y-%m-%d %H:%M}, which is yet to come"
            yield finding("verdict-of-the-future", gate, text, "Put the clocks right and release again.")


def _packages(channel: Channel, evidence: Evidence, now: datetime) -> Iterator[Finding]:
    if not (found := evidence.attestation(PROVENANCE)):
        return
    where, cure = "the base packages", "Fetch them anew: `inv clean --images`, `inv build-serving`, `inv release`."
    try:
        fetched = when(found.predicate["buildDefinition"]["internalParameters"]["packagesFetched"])
    except (KeyError, TypeError, ValueError):
        yield finding("packages-unknown", where, "were fetched at a time that provenance does not tell", cure)
        return
    told = f"were fetched on {fetched:%Y-%m-%d}"
    if now - fetched > channel.packages:
        text = f"{told}, and {channel.name} takes none older than {_shown(channel.packages)}"
        yield finding("packages-too-old", where, text, cure)
    elif fetched - now > _SKEW:
        yield finding("packages-of-the-future", where, f"{told}, which is yet to come", cure)


def _figures(channel: Channel, evidence: Evidence) -> Iterator[Finding]:
    if evidence.contents and evidence.contents.size > channel.size:
        text = f"has {evidence.contents.size / 2**20:,.0f} MiB, and {channel.name} takes {channel.size / 2**20:,.0f}"
        yield finding("size", "the image", text, "Make the model smaller, or raise `size` in promotion.toml.")
    for name, most in channel.budgets.items():
        gate, _, figure = name.partition(".")
        found = evidence.attestation(f"{TEST_RESULT} {gate}")
        measured = found.verdict["measured"].get(figure) if found else None
        if found and measured is None:
            text = f"{gate} measured no {figure}"
            yield finding("budget-unmeasured", name, text, "Name a figure that the gate measures, in promotion.toml.")
        elif measured is not None and not float(measured) <= most:
            text = f"{gate} measured {float(measured):.4g}, and {channel.name} allows {most:.4g}"
            yield finding("budget", name, text, "Make it better and release again, or raise it in promotion.toml.")


def _forbidden(channel: Channel, evidence: Evidence) -> Iterator[Finding]:
    for gate in GATES:
        found = evidence.attestation(f"{TEST_RESULT} {gate}")
        for each in found.verdict["findings"] if found else ():
            if each["rule"] in channel.forbidden:
                yield finding("forbidden", f"{gate}: {each['rule']}", str(each.get("message")), str(each.get("fix")))


def _approved(channel: Channel, approved: frozenset[str]) -> Iterator[Finding]:
    for approver in channel.approvers:
        if approver.name not in approved:
            text = f"has not approved this digest for {channel.name}"
            cure = f"Ask for it: `inv approve --model NAME --to {channel.name}` with the key of {approver.name}."
            yield finding("approval", approver.name, text, cure)


def _channel(name: str, asked: Mapping[str, Any], signers: Mapping[str, Identity]) -> Channel:
    if name == RELEASES:
        raise ValueError(f"{RELEASES} is where `inv release` puts images and takes none from elsewhere")
    known = {"repository", "from", "signers", "verdicts", "packages", "size", "forbidden", "approvers", "budgets"}
    if strange := sorted(set(asked) - known):
        raise ValueError(f"channels.{name} has {', '.join(strange)}; known are {', '.join(sorted(known))}")
    if strange := sorted(set(asked["verdicts"]) - set(GATES)):
        raise ValueError(f"channels.{name}.verdicts names {', '.join(strange)}; the gates are {', '.join(GATES)}")
    for listed in ("signers", "forbidden", "approvers"):
        if not isinstance(asked[listed], list):
            raise TypeError(f"channels.{name}.{listed} is {asked[listed]!r}, and has to be a list")
    if strange := sorted(set(asked["forbidden"]) - set(PASSING)):
        raise ValueError(
            f"channels.{name}.forbidden names {', '.join(strange)}; what a gate lets pass is {', '.join(PASSING)}"
        )
    for figure in asked["budgets"]:
        gate, _, measured = figure.partition(".")
        if gate not in GATES or not measured:
            raise ValueError(f"channels.{name}.budgets names {figure!r}; write a gate and a figure: smoke.p50_ms")
    repository(asked["repository"], "model")
    return Channel(
        name=name,
        folder=asked["repository"],
        source=asked["from"],
        signers=tuple(signers[each] for each in asked["signers"]),
        verdicts={gate: _age(oldest) for gate, oldest in asked["verdicts"].items()},
        packages=_age(asked["packages"]),
        size=_size(asked["size"]),
        forbidden=tuple(asked["forbidden"]),
        approvers=tuple(signers[each] for each in asked["approvers"]),
        budgets={figure: float(most) for figure, most in asked["budgets"].items()},
    )


def _signer(name: str, asked: str | Mapping[str, str], folder: Path) -> Identity:
    """Somebody by his public key, or by what his certificates say."""
    if isinstance(asked, str):
        return Identity(name=name, key=absolute(asked, folder))
    if set(asked) != {"identity", "issuer"}:
        raise ValueError(f"signers.{name} has {', '.join(sorted(asked))}; it is a key, or has identity and issuer")
    # A pattern that ends before the ref is named would let any workflow of anybody's in.
    if not re.fullmatch(r"[^*\s]+(@refs/(heads|tags)/\*)?", asked["identity"]):
        raise ValueError(
            f"signers.{name}.identity is {asked['identity']!r}; a * stands after @refs/tags/ or @refs/heads/ only"
        )
    return Identity(name=name, claimed=Claimed(identity=asked["identity"], issuer=asked["issuer"]))


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([hd])", text)
    if not found:
        raise ValueError(f"{text!r} is no age; write 12h or 30d")
    return int(found[1]) * _UNITS[found[2]]


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)(MiB|GiB)", text)
    if not found:
        raise ValueError(f"{text!r} is no size; write 512MiB or 2GiB")
    return int(found[1]) * _SIZES[found[2]]


def _shown(age: timedelta) -> str:
    return f"{age.days} days" if age >= timedelta(days=2) else f"{age / timedelta(hours=1):g} hours"
