"""The lock of a channel: who has it, who takes it over, and what is no lock at all."""

import time
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from pipeline.errors import PromoteError
from pipeline.oci import Manifest
from pipeline.promote import lock, promote
from pipeline.promote.office import Office
from pipeline.signing import Key
from tests.unit.evidence_values import NOW
from tests.unit.fake_registry import FakeCosign, FakeRegistry
from tests.unit.promote.offices import lock_by, log_of, release, tagged


def test_whoever_loses_the_lock_while_he_signs_writes_nothing(office: Office) -> None:
    class Slow(FakeCosign):
        """Somebody else takes the lock while an entry of the log is signed."""

        def sign_bytes(self, content: bytes, *, key: Key) -> str:
            lock_by(office, holder="you@there", process="7", machine="there", nonce="1", until=str(time.time() + 60))
            return super().sign_bytes(content, key=key)

    release(office)
    assert isinstance(office.registry, FakeRegistry)
    slow = replace(office, cosign=Slow(office.registry))
    with pytest.raises(PromoteError, match=r"you@there \(process 7\) is promoting .* Nothing of yours was done"):
        promote("tiny", to="staging", now=NOW, office=slow)
    assert (log_of(office).entries, tagged(office, "staging")) == ((), "")
    # The lock is still the other's.
    with pytest.raises(PromoteError, match=r"you@there \(process 7\)"):
        promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize(
    "notes",
    [
        {"nonce": None},
        {"until": "soon"},
        {"process": "seven"},
        {"until": "inf"},
        {"until": "nan"},
        {"until": "7200"},
        {"holder": "me@here", "machine": "here", "process": "9" * 30},
    ],
)
def test_what_is_no_lock_holds_nobody_up(office: Office, notes: dict[str, Any]) -> None:
    release(office)
    whole = {"holder": "you@there", "process": "7", "machine": "there", "nonce": "1", "until": "60"} | notes
    if whole["until"].isdigit():
        whole["until"] = str(time.time() + int(whole["until"]))
    lock_by(office, **{name: value for name, value in whole.items() if value})
    assert promote("tiny", to="staging", now=NOW, office=office)


def test_a_manifest_that_is_none_holds_nobody_up(office: Office) -> None:
    release(office)
    nonsense = Manifest(media_type="text/plain", content=b"[]")
    office.registry.put_manifest(office.repository("staging", "tiny"), lock.TAG, nonsense)
    assert promote("tiny", to="staging", now=NOW, office=office)


@pytest.mark.parametrize(("machine", "taken"), [("here", True), ("there", False)])
def test_only_what_a_run_on_this_machine_left_is_taken_over(office: Office, machine: str, taken: bool) -> None:
    """A process of another machine with the same name says nothing of one here."""
    release(office)
    gone = str(2**22 + 1)
    lock_by(office, holder="me@here", process=gone, machine=machine, nonce="1", until=str(time.time() + 60))
    if taken:
        assert promote("tiny", to="staging", now=NOW, office=office)
        return
    with pytest.raises(PromoteError, match=r"me@here \(process \d+\) is promoting"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_who_holds_a_lock_is_no_terminals_command(office: Office) -> None:
    release(office)
    until = str(time.time() + 60)
    lock_by(office, holder="you\n\x1b[2K", process="7", machine="there", nonce="1", until=until)
    with pytest.raises(PromoteError, match=r"you\\n\\x1b\[2K \(process 7\) is promoting"):
        promote("tiny", to="staging", now=NOW, office=office)


def test_two_runs_that_call_themselves_the_same_are_two(office: Office) -> None:
    where = office.repository("staging", "tiny")
    with lock.hold(where, office.holder, registry=office.registry) as still:
        still()
        with lock.hold(where, office.holder, registry=office.registry), pytest.raises(PromoteError, match="me@here"):
            still()


def test_one_that_takes_longer_than_its_lock_is_told_so(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with lock.hold(office.repository("staging", "tiny"), office.holder, registry=office.registry) as still:
        still()
        monkeypatch.setattr(time, "time", lambda: now + 1801)
        with pytest.raises(PromoteError, match="this took longer than 30 minutes"):
            still()


def test_one_that_is_interrupted_while_it_settles_holds_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> NoReturn:
        raise KeyboardInterrupt

    where = office.repository("staging", "tiny")
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt), lock.hold(where, office.holder, registry=office.registry):
            pass
    other = replace(office.holder, name="you@there", machine="there")
    with lock.hold(where, other, registry=office.registry) as still:
        still()
