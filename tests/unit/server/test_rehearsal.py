"""The first requests: what becomes of a server whose rehearsal is disturbed."""

import asyncio
from pathlib import Path

import pytest

from server import rehearsal
from server.model import contract
from tests.unit.server import models

INPUTS = [("FP32", (1, 3), bytes(12))]


class Stream:
    """Both ends of a connection to a server that answers every request in the same way."""

    def __init__(self, answer: bytes) -> None:
        self._reader = asyncio.StreamReader()
        self._answer = answer
        self.asked = 0

    async def open(self, *_: object) -> tuple[asyncio.StreamReader, "Stream"]:
        return self._reader, self

    def write(self, _: bytes) -> None:
        self.asked += 1
        self._reader.feed_data(self._answer)
        if not self._answer:
            self._reader.feed_eof()

    def close(self) -> None:
        """Nothing is open."""


def _rehearse(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> int:
    """How often was asked over each connection, on average."""

    async def work() -> int:
        streams: list[Stream] = []

        async def opened(*where: object) -> tuple[asyncio.StreamReader, Stream]:
            streams.append(Stream(answer))
            return await streams[-1].open(*where)

        monkeypatch.setattr(asyncio, "open_connection", opened)
        await rehearsal.rehearse(contract.read(models.write(folder)), INPUTS, 8080)
        return sum(each.asked for each in streams) // len(streams)

    return asyncio.run(work())


def test_several_clients_ask_several_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _rehearse(tmp_path, monkeypatch, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") > 1


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}"])
def test_a_rehearsal_that_is_disturbed_ends_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], answer: bytes
) -> None:
    assert _rehearse(tmp_path, monkeypatch, answer) == 1
    told = capfd.readouterr()
    assert (told.out + told.err).count("rehearsal-failed") == 4


def test_a_connection_that_is_refused_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def refused(*_: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", refused)
    asyncio.run(rehearsal.rehearse(contract.read(models.write(tmp_path)), INPUTS, 8080))
    told = capfd.readouterr()
    assert (told.out + told.err).count("rehearsal-failed") == 4
