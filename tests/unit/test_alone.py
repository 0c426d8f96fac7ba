"""Two commands that want the same folder: the second one waits, or is told."""

import threading
from pathlib import Path

import pytest

from pipeline.alone import alone
from pipeline.errors import ReleaseError


def test_the_second_one_waits_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def second() -> None:
        with alone(tmp_path / "resnet"):
            order.append("second")

    with alone(tmp_path / "resnet"), alone(tmp_path / "gate"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert "waiting for another command that works on resnet" in capsys.readouterr().out


def test_the_second_one_is_told_where_waiting_makes_no_sense(tmp_path: Path) -> None:
    busy = ReleaseError("just now")
    with alone(tmp_path), pytest.raises(ReleaseError, match="just now"), alone(tmp_path, busy=busy):
        pass
    with alone(tmp_path, busy=busy):
        pass
    assert list(tmp_path.iterdir()) == []
