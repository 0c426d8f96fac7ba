"""Large JSON is parsed where it holds nobody up; here in a thread, and in a process in tests/containers."""

import asyncio
import json
import pickle
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.http import elsewhere
from server.http.elsewhere import Elsewhere
from server.model import contract
from server.model.answers import Answer
from server.protocol.request import Request, Requested
from server.protocol.response import Response
from server.refusal import Refusal
from tests.unit.server import models


class Pickling(ThreadPoolExecutor):
    """Hands over what a process could be handed over."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        sent = pickle.loads(pickle.dumps(work))
        return super().submit(lambda: pickle.loads(pickle.dumps(sent(*arguments, **named))))


class Broken(ThreadPoolExecutor):
    """Ends with its first work."""

    def submit(self, _: Any, /, *__: Any, **___: Any) -> Any:
        def fail() -> None:
            raise BrokenProcessPool

        return super().submit(fail)


def _parse(folder: Path, body: bytes, *executors: Executor) -> Request:
    waiting = iter(executors)
    parser = Elsewhere(contract.read(models.write(folder)), lambda: next(waiting))
    return asyncio.run(parser.parse(body, None))


def _body(**changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} | changes
    return json.dumps({"id": "7", "inputs": [tensor]}).encode()


def test_a_request_comes_back(tmp_path: Path) -> None:
    request = _parse(tmp_path, _body(), Pickling(1))
    ((datatype, shape, content),) = request.inputs
    assert (request.id, datatype, shape) == ("7", "FP32", (1, 3))
    assert np.frombuffer(content, np.float32).tolist() == [1, 2, 3]


def test_a_refusal_comes_back(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"data: shape \[1, 3\] takes 3 values, got 2") as refused:
        _parse(tmp_path, _body(data=[1, 2]), Pickling(1))
    assert refused.value.status == 400


def _render(
    folder: Path, content: bytes, shape: tuple[int, ...], *executors: Executor, binary: bool = False
) -> Response:
    described, waiting = contract.read(models.write(folder)), iter(executors)
    request = Request(id="7", parameters={}, inputs=(), outputs=(Requested(name="y", binary=binary),))
    answers = [Answer(tensor=described.outputs[0], shape=shape, content=memoryview(content))]
    return asyncio.run(Elsewhere(described, lambda: next(waiting)).render(request, answers, len(content)))


def test_an_answer_comes_back(tmp_path: Path) -> None:
    rendered = _render(tmp_path, np.array([[1, 2, 3]], np.float32).tobytes(), (1, 3), Pickling(1))
    answer = json.loads(rendered.body)
    assert (answer["id"], answer["outputs"][0]["data"]) == ("7", [1, 2, 3])
    assert rendered.header_length is None


def test_an_answer_that_json_cannot_say_is_a_406(tmp_path: Path) -> None:
    content = np.array([[1, np.nan, 3]], np.float32).tobytes()
    with pytest.raises(Refusal, match=r"outputs \(y.data\[1\]\): the model answered nan") as refused:
        _render(tmp_path, content, (1, 3), Pickling(1))
    assert refused.value.status == 406
    with pytest.raises(Refusal, match="as JSON they take more memory than this server has") as refused:
        _render(tmp_path, content, (1, 3), Broken(1))
    assert refused.value.status == 406


def test_what_is_large_does_not_wait_for_what_is_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "_LARGER", 150)
    held = Counting()
    waiting = iter([held, Pickling(1)])
    parser = Elsewhere(contract.read(models.write(tmp_path)), lambda: next(waiting))
    assert len(_body()) < 150

    async def both() -> Request:
        larger = asyncio.ensure_future(parser.parse(_body(padding="x" * 100), None))
        await asyncio.sleep(0.01)
        request = await asyncio.wait_for(parser.parse(_body(), None), 5)
        assert not larger.done()
        held.gate.set()
        await larger
        return request

    assert asyncio.run(both()).id == "7"


def test_too_little_memory_is_a_413(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Request:
        raise MemoryError

    monkeypatch.setattr(elsewhere, "parse", full)
    with pytest.raises(Refusal, match="takes more memory than this server has") as refused:
        _parse(tmp_path, _body(), ThreadPoolExecutor(1))
    assert refused.value.status == 413


class Gone(ThreadPoolExecutor):
    """Was ended while it had nothing to do, and takes no work."""

    def submit(self, _: Any, /, *__: Any, **___: Any) -> Any:
        raise BrokenProcessPool


def test_a_process_that_was_ended_while_it_was_idle_costs_nobody_anything(tmp_path: Path) -> None:
    assert _parse(tmp_path, _body(), Gone(1), Pickling(1)).id == "7"
    # Nor does it begin anew for ever.
    with pytest.raises(Refusal, match="takes more memory"):
        _parse(tmp_path, _body(), Gone(1), Gone(1))


def test_a_process_that_was_ended_is_replaced(tmp_path: Path) -> None:
    waiting = iter([Broken(1), Pickling(1)])
    parser = Elsewhere(contract.read(models.write(tmp_path)), lambda: next(waiting))

    async def twice() -> Request:
        with pytest.raises(Refusal, match="takes more memory"):
            await parser.parse(_body(), None)
        return await parser.parse(_body(), None)

    assert asyncio.run(twice()).id == "7"


class Counting(Pickling):
    """Counts the works that were handed over and not done yet."""

    def __init__(self) -> None:
        super().__init__(1)
        self.gate, self.most = threading.Event(), 0
        self.under_way = 0

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)

        def gated() -> Any:
            assert self.gate.wait(10)
            self.under_way -= 1
            return work(*arguments, **named)

        return ThreadPoolExecutor.submit(self, gated)


def test_bodies_of_clients_that_left_do_not_pile_up(tmp_path: Path) -> None:
    executor = Counting()
    parser = Elsewhere(contract.read(models.write(tmp_path)), lambda: executor)

    async def leave() -> Request:
        for _ in range(5):
            task = asyncio.ensure_future(parser.parse(_body(), None))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        executor.gate.set()
        return await parser.parse(_body(), None)

    assert asyncio.run(leave()).id == "7"
    assert executor.most == 1
