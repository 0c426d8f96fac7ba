"""What a channel's tag and evidence say against its promotion log."""

from pipeline.artifacts import Finding
from pipeline.evidence import Evidence, finding
from pipeline.oci import Repository
from pipeline.promote.log import Entry, Log


def drift(log: Log, tagged: str, *, at: Repository, channel: str, unfinished: str = "") -> tuple[Finding, ...]:
    """What speaks against a channel's tag in its repository: its log has to name the same digest last.

    A tag that is one entry behind was left by a promotion of `unfinished`, if that is the last entry's digest.
    """
    where, current = f"{at}:{channel}", log.current.digest if log.current else ""
    if tagged == current:
        return ()
    before = log.entries[-2].digest if len(log.entries) > 1 else ""
    if unfinished and unfinished == current and tagged == before:
        return ()
    if log.current is None:
        text = f"names {tagged}, and there is no log: it was lost, or somebody else made the tag"
        cure = (
            "Restore the log from a copy that you trust. Where there is none, begin another, which says why, with a "
            "digest that the channel is to have: `inv rollback --new-log --to DIGEST --reason WHY`."
        )
        return (finding("log-lost", where, text, cure),)
    if tagged == before or (log.current.action == "begin" and len(log.entries) == 1):
        # The tag is moved last, and a tag that is put back looks the same: nothing else tells of it.
        text = (
            f"names {tagged or 'nothing'} still, and the log says {current}: a promotion or rollback was not finished, "
            "or the tag was moved back behind our back"
        )
        cure = "Put the log right first." if log.problems else _finishing(log.current, at.path.split("/")[-1], channel)
        return (finding("unfinished", where, text, cure),)
    text = f"names {tagged or 'nothing'}, and the log says {current or 'nothing'}: the tag was moved behind our back"
    cure = "Find out who did it, and put the channel right: `inv rollback --to` with a digest of the log."
    return (finding("drift", where, text, cure),)


def exchanged(entry: Entry | None, evidence: Evidence) -> tuple[Finding, ...]:
    """What speaks against a channel's evidence: it has to be that with which the log has its digest, and not what was
    attached before, however well that verifies."""
    if entry is None or entry.digest != evidence.digest or entry.evidence == evidence.bound:
        return ()
    text = f"is not what the log has since {entry.at}: other evidence for this digest was put in its place"
    cure = f"Promote it to {entry.channel} again, which brings its evidence anew, and find out who did it."
    return (finding("evidence-exchanged", str(evidence.repository), text, cure),)


def _finishing(last: Entry, model: str, channel: str) -> str:
    """How the log's last entry is completed, which puts a tag that was moved back right as well."""
    promoted = f"inv promote --model {model} --to {channel} --digest {last.digest}"
    put_back = f"inv rollback --model {model} --channel {channel} --to {last.digest} --reason WHY"
    again = f"{promoted}` or, where that is not allowed any more, `{put_back}" if last.action == "promote" else put_back
    return (
        f"Either way `{again}` makes the tag name what the log says. If nobody's run broke off at {last.at}, when "
        f"{last.by} wrote that entry, find out who moved the tag."
    )
