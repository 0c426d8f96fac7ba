"""Every kind of error has an exit code of its own, which no other program's convention claims."""

from pipeline.errors import PipelineError

KINDS = PipelineError.__subclasses__()


def test_no_two_exit_codes_agree() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(KINDS) > 10


def test_exit_codes_leave_room_for_bugs_usage_and_shells() -> None:
    assert all(2 < kind.exit_code < 64 for kind in KINDS)
