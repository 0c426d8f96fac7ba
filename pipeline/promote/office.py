"""Who promotes, and what a promotion, a rollback and an approval do alike."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import Finding
from pipeline.errors import PromoteError
from pipeline.evidence import RELEASES, finding, told
from pipeline.oci import Registry, Repository
from pipeline.policy import Channel, Policy
from pipeline.promote import log as logs
from pipeline.promote.lock import Holder
from pipeline.promote.log import Entry, Log
from pipeline.settings import repository
from pipeline.signing import Cosign, Identity, Key, me


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """What promotions are made with: policy, the folder of releases, registry, cosign, our key, and who we are."""

    policy: Policy
    releases: str
    registry: Registry
    cosign: Cosign
    key: Key
    holder: Holder

    def repository(self, channel: str, model: str) -> Repository:
        """The repository of a model in a channel, `releases` included."""
        folder = self.releases if channel == RELEASES else self.policy.channel(channel).folder
        return repository(folder, model)

    def tagged(self, where: Repository, tag: str) -> str:
        """The digest that a tag names; empty where there is no such tag."""
        found = self.registry.manifest(where, tag)
        return found.digest if found else ""

    def current(self, channel: str, model: str) -> str:
        """The digest that a channel has, by its tag.

        Raises:
            PromoteError: it has none.
        """
        source = self.repository(channel, model)
        if digest := self.tagged(source, channel):
            return digest
        made = "release it with `inv release --model NAME`"
        if channel != RELEASES:
            made = f"promote something to {channel} first"
        raise PromoteError(f"{source}: there is nothing in {channel}, so nothing can come from there; {made}.")

    def log(self, target: Repository, channel: Channel) -> Log:
        """The log as it is now, while nobody else writes it.

        Raises:
            PromoteError: it is broken.
        """
        log = logs.read(target, signers=channel.signers, registry=self.registry, cosign=self.cosign)
        if log.problems:
            raise PromoteError(told(f"{target}: its promotion log is broken", log.problems))
        return log

    def enter(self, entry: Entry, log: Log, target: Repository, still: Callable[[], None], channel: Channel) -> None:
        """Signs an entry, which takes its time, and puts it into the log if nobody else has the lock by then.

        What the channel's signers do not verify breaks a log; once these very bytes are there, it does.

        Raises:
            PromoteError: they do not verify it, or the lock is somebody else's.
        """
        content = logs.signed(entry, repository=target, cosign=self.cosign, key=self.key)
        if not logs.verifies(content, signers=channel.signers, cosign=self.cosign):
            raise PromoteError(
                f"{target}: what {me(self.key).shown} signs verifies under no key of the signers of {channel.name}, so "
                "the log was left as it is and the tag not moved. Is the private key that of the public one beside it?"
            )
        logs.append(log, content, repository=target, registry=self.registry, still=still)

    def move(self, target: Repository, tag: str, digest: str) -> None:
        """Has a tag name a digest.

        Raises:
            PromoteError: the digest is not there.
        """
        found = self.registry.manifest(target, digest)
        if found is None:
            raise PromoteError(f"{target.at(digest)} is not there any more, so {tag} cannot name it. Promote it again.")
        self.registry.put_manifest(target, tag, found)

    def unknown(self, channel: Channel) -> Iterator[Finding]:
        """What we sign for a channel, and its log, has to count there."""
        if not is_among(self.key, channel.signers):
            text = f"is who would sign here, and none of the signers of {channel.name}"
            cure = "Add it in promotion.toml to [signers] and to the channel's signers, or have one of them do it."
            yield finding("not-a-signer", me(self.key).shown, text, cure)


def is_among(key: Key, known: tuple[Identity, ...]) -> bool:
    """Whether what we sign counts as that of one of them. Where our public key is not beside the private one, that
    shows only when what we signed is read back."""
    ourselves = me(key)
    if ourselves.claimed:
        return any(each.is_claimed(ourselves.claimed) for each in known)
    ours = _content(ourselves.key)
    return not ours or ours in {_content(each.key) for each in known}


def _content(path: Path | None) -> bytes:
    return path.read_bytes() if path and path.is_file() else b""
