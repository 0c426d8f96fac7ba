"""What every engine must do, real or fake; also run inside the runtime image, where there is no pytest.

`folder` holds the archives that `ARCHIVES` of the fake engine names, made for the engine that is tested, and two
libraries: `library` registers acme::scale, and `unbound` needs a symbol that is nowhere.
"""

import threading
from array import array
from collections.abc import Callable
from pathlib import Path

from server.model import strings
from server.model.engine import Engine, Input, Model, Output

# Empty, plain, several bytes a character, an embedded NUL, and beyond the basic plane.
_TEXTS = ["", "good film", "Æther", "日本", "a\0b\0", "\U0001f600"]
_X = array("f", [1.0, -2.5, 3.0, 0.5, 0.0, 1e30])


def hold(engine: Engine, folder: Path) -> None:
    """Fails unless the engine behaves as the server relies on."""
    for promise in (
        _doubles,
        _takes_any_offset,
        _gives_tuples_in_order,
        _gives_dicts_by_name,
        _gives_scalars,
        _takes_nothing,
        _carries_every_datatype,
        _reads_strings,
        _writes_strings,
        _mixes_strings_and_tensors,
        _keeps_strings_apart_from_inputs,
        _blames_strings_that_end_wrongly,
        _keeps_answers_apart_from_inputs,
        _blames_the_input,
        _blames_the_model,
        _blames_the_archive,
        _loads_operators_before_what_calls_them,
        _keeps_threads,
        _serves_from_any_thread,
        _answers_together,
        _answers_strings_together,
        _answers_one_as_it_is,
        _blames_what_does_not_fit_together,
        _fuses,
    ):
        promise(engine, folder)


def _load(engine: Engine, folder: Path, name: str) -> Model:
    return engine.load(str(folder / name), optimize=True)


def _input(shape: tuple[int, ...] = (2, 3)) -> Input:
    return "FP32", shape, memoryview(_X).cast("B")


def _floats(output: Output) -> list[float]:
    return [float(value) for value in memoryview(output).cast("f")]


def _doubles(engine: Engine, folder: Path) -> None:
    for optimize in (False, True):
        model = engine.load(str(folder / "double"), optimize=optimize)
        assert "forward" in model.methods
        (y,) = model.forward([_input()])
        assert (y.name, y.datatype, tuple(y.shape)) == (None, "FP32", (2, 3))
        assert _floats(y) == array("f", [2 * x for x in _X]).tolist()
        assert memoryview(y).readonly
        assert memoryview(y).nbytes == 24


def _takes_any_offset(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "double")
    for offset in range(9):
        content = memoryview(b"\xff" * offset + _X.tobytes())[offset:]
        (y,) = model.forward([("FP32", (6,), content)])
        assert _floats(y)[1] == -5.0


def _gives_tuples_in_order(engine: Engine, folder: Path) -> None:
    same, double = _load(engine, folder, "pair").forward([_input()])
    assert (same.name, double.name) == (None, None)
    assert _floats(same) == _X.tolist()
    assert _floats(double)[1] == -5.0


def _gives_dicts_by_name(engine: Engine, folder: Path) -> None:
    outputs = {output.name: output for output in _load(engine, folder, "dictionary").forward([_input()])}
    assert set(outputs) == {"same", "double"}
    assert _floats(outputs["double"])[1] == -5.0


def _gives_scalars(engine: Engine, folder: Path) -> None:
    (rows,) = _load(engine, folder, "rows").forward([_input()])
    assert (rows.datatype, tuple(rows.shape)) == ("INT64", ())
    assert memoryview(rows).cast("q").tolist() == [2]


def _takes_nothing(engine: Engine, folder: Path) -> None:
    (y,) = _load(engine, folder, "double").forward([("FP32", (0, 3), b"")])
    assert tuple(y.shape) == (0, 3)
    assert memoryview(y).nbytes == 0


def _carries_every_datatype(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "pair")
    sizes = {"INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "UINT8": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8}
    for datatype, size in sizes.items():
        same, double = model.forward([(datatype, (2,), bytes(2 * size))])
        assert same.datatype == double.datatype == datatype
        assert bytes(memoryview(double)) == bytes(2 * size)


def _strings(*texts: str) -> Input:
    return "BYTES", (len(texts),), strings.encode(texts)


def _reads_strings(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "lengths")
    for texts in (_TEXTS, [], ["", ""], ["x" * 100_000]):
        (y,) = model.forward([_strings(*texts)])
        assert (y.datatype, tuple(y.shape)) == ("INT64", (len(texts),))
        assert memoryview(y).cast("q").tolist() == [len(text.encode()) for text in texts]


def _writes_strings(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "echo")
    for texts in (_TEXTS, [], [""]):
        (y,) = model.forward([_strings(*texts)])
        assert (y.name, y.datatype, tuple(y.shape)) == (None, "BYTES", (len(texts),))
        assert strings.decode(memoryview(y)) == texts
        assert memoryview(y).readonly
    (half,) = _load(engine, folder, "halves").forward([_strings("é")])
    assert bytes(memoryview(half)) == b"\1\0\0\0\xc3"


def _mixes_strings_and_tensors(engine: Engine, folder: Path) -> None:
    loud, lengths, alone = _load(engine, folder, "loud").forward([_strings(*_TEXTS)])
    assert strings.decode(memoryview(loud)) == [text + "!" for text in _TEXTS]
    assert memoryview(lengths).cast("q").tolist() == [len(text.encode()) for text in _TEXTS]
    assert (alone.datatype, tuple(alone.shape), strings.decode(memoryview(alone))) == ("BYTES", (1,), ["done"])


def _keeps_strings_apart_from_inputs(engine: Engine, folder: Path) -> None:
    content = strings.encode(["abc"])
    (y,) = _load(engine, folder, "echo").forward([("BYTES", (1,), content)])
    content[:] = bytes(len(content))
    assert strings.decode(memoryview(y)) == ["abc"]


def _blames_strings_that_end_wrongly(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "echo")
    content = bytes(strings.encode(["a", "bc"]))
    for shape, wrong, told in (
        ((2,), content[:-1], "string 1: it takes 2 bytes, and 1 are left"),
        ((2,), content[:8], "string 1: its length takes 4 bytes, and 3 are left"),
        ((2,), content[:5], "string 1: its length takes 4 bytes, and 0 are left"),
        ((2**62,), content, "string 2: its length takes 4 bytes, and 0 are left"),
        ((2,), content + b"\0", "1 bytes are left after 2 strings"),
        ((0,), b"\0", "1 bytes are left after 0 strings"),
        ((1,), b"\xff\xff\xff\xff", "string 0: it takes 4294967295 bytes, and 0 are left"),
        ((1, 2), content, "BYTES [1, 2]: strings are a list"),
        ((), content, "BYTES []: strings are a list"),
        ((-1,), content, "BYTES [-1]: strings are a list"),
    ):
        _refused(lambda shape=shape, wrong=wrong: model.forward([("BYTES", shape, wrong)]), engine.InputError, told)  # type: ignore[misc]
    _refused(lambda: model.forward([_input()]), engine.ModelError, "forward() Expected a value of")
    _refused(lambda: _load(engine, folder, "double").forward([_strings("a")]), engine.ModelError, "forward()")


def _keeps_answers_apart_from_inputs(engine: Engine, folder: Path) -> None:
    content = bytearray(_X.tobytes())
    same, _ = _load(engine, folder, "pair").forward([("FP32", (6,), content)])
    content[:] = bytes(len(content))
    assert _floats(same) == _X.tolist()


def _blames_the_input(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "double")
    for wrong, told in (
        (("FP32", (2, 3), b"1234"), "takes 24 bytes, and 4 came"),
        (("FP32", (-2, -3), _X.tobytes()), "negative"),
        (("FP32", (2**31, 2**31, 2**31), b""), "no memory"),
        (("FP8", (2,), b"12"), "FP8"),
    ):
        _refused(lambda wrong=wrong: model.forward([wrong]), engine.InputError, told)  # type: ignore[misc]


def _blames_the_model(engine: Engine, folder: Path) -> None:
    _refused(lambda: _load(engine, folder, "fails").forward([_input()]), engine.ModelError, "out of cheese")
    _refused(lambda: _load(engine, folder, "number").forward([_input()]), engine.ModelError, "returned a int")
    _refused(lambda: _load(engine, folder, "double").forward([]), engine.ModelError, "forward()")


def _blames_the_archive(engine: Engine, folder: Path) -> None:
    for name in ("broken", "nowhere"):
        _refused(lambda name=name: _load(engine, folder, name), engine.LoadError, "failed")  # type: ignore[misc]


def _loads_operators_before_what_calls_them(engine: Engine, folder: Path) -> None:
    _refused(lambda: _load(engine, folder, "scaled"), engine.LoadError, "acme::scale")
    for name, told in (("unbound", "undefined symbol"), ("nowhere", "cannot open shared object file")):
        _refused(lambda name=name: engine.load_library(str(folder / name)), engine.LoadError, told)  # type: ignore[misc]
    assert engine.load_library(str(folder / "library")) == ["acme::scale(Tensor x, float by) -> Tensor"]
    assert engine.load_library(str(folder / "library")) == []
    (y,) = _load(engine, folder, "scaled").forward([_input()])
    assert _floats(y)[1] == -5.0


def _keeps_threads(engine: Engine, _: Path) -> None:
    for count in (2, 1):
        engine.set_threads(count)
        assert engine.threads() == count


def _serves_from_any_thread(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "double")
    answers: list[list[float]] = []

    def serve() -> None:
        engine.set_threads(1)
        answers.extend(_floats(model.forward([_input()])[0]) for _ in range(20))

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [array("f", [2 * x for x in _X]).tolist()] * 60


def _answers_together(engine: Engine, folder: Path) -> None:
    model = _load(engine, folder, "pair")
    one, two = array("f", [1.0, -2.5, 3.0]), _X
    requests: list[list[Input]] = [[("FP32", (len(x) // 3, 3), memoryview(x).cast("B"))] for x in (one, two, one)]
    # From any byte on, since JSON comes before binary tensors; and a request may have no rows.
    requests.append([("FP32", (1, 3), memoryview(b"\xff" + one.tobytes())[1:])])
    requests.append([("FP32", (0, 3), b"")])
    (same, double), *times = model.forward_together(requests)
    assert len(times) == 2
    assert all(time >= 0 for time in times)
    rows = [*one, *two, *one, *one]
    assert tuple(same.shape) == tuple(double.shape) == (5, 3)
    assert _floats(same) == rows
    assert _floats(double) == array("f", [2 * value for value in rows]).tolist()
    outputs, *_ = _load(engine, folder, "dictionary").forward_together(requests)
    assert {output.name for output in outputs} == {"same", "double"}


def _answers_strings_together(engine: Engine, folder: Path) -> None:
    parts: list[list[str]] = [_TEXTS, [], ["", "a"]]
    (echoed,), *_ = _load(engine, folder, "echo").forward_together([[_strings(*texts)] for texts in parts])
    assert tuple(echoed.shape) == (len(_TEXTS) + 2,)
    assert strings.decode(memoryview(echoed)) == [*_TEXTS, "", "a"]


def _answers_one_as_it_is(engine: Engine, folder: Path) -> None:
    (rows,), *_ = _load(engine, folder, "rows").forward_together([[_input()]])
    assert tuple(rows.shape) == ()
    # Without a first dimension, too.
    (y,), *_ = _load(engine, folder, "double").forward_together([[("FP32", (), array("f", [1.5]).tobytes())]])
    assert (tuple(y.shape), _floats(y)) == ((), [3.0])


def _blames_what_does_not_fit_together(engine: Engine, folder: Path) -> None:
    double, pair = (_load(engine, folder, name) for name in ("double", "pair"))
    wide: Input = ("FP32", (1, 6), memoryview(_X).cast("B"))
    integers: Input = ("INT32", (2, 3), memoryview(_X).cast("B"))
    for requests, told in (
        ([[_input()], [wide]], "differ in more than their rows"),
        ([[_input()], [integers]], "differ in more than their rows"),
        ([[_input()], [_input(), _input()]], "the same number of inputs"),
        ([[_input()], [("FP32", (), b"1234")]], "the same number of rows"),
        ([[_input(), wide], [_input(), wide]], "the same number of rows"),
    ):
        _refused(lambda requests=requests: pair.forward_together(requests), engine.InputError, told)  # type: ignore[misc]
    _refused(lambda: double.forward_together([[], []]), engine.InputError, "the same number of rows")
    (y,), *_ = double.forward_together([[_input()], [_input()]])
    assert _floats(y) == [2 * value for value in [*_X, *_X]]


def _fuses(engine: Engine, folder: Path) -> None:
    model, failing, echo = (_load(engine, folder, name) for name in ("double", "fails", "echo"))
    model.unfuse()
    model.fuse([_input()])
    model.fuse([_input()])
    for shape in ((2, 3), (3, 2), (6,), (2, 3)):
        (y,) = model.forward([_input(shape)])
        assert (tuple(y.shape), _floats(y)) == (shape, [2 * value for value in _X])
    answers: list[list[float]] = []
    threads = [threading.Thread(target=lambda: answers.append(_floats(model.forward([_input()])[0]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[2 * value for value in _X]] * 8
    model.unfuse()
    (y,) = model.forward([_input()])
    assert _floats(y) == [2 * value for value in _X]
    _refused(lambda: echo.fuse([_strings("a")]), engine.InputError, "only a program of tensors")
    _refused(lambda: failing.fuse([_input()]), engine.ModelError, "out of cheese")
    _refused(lambda: model.fuse([_input(), _input()]), engine.ModelError, "argument")
    engine.trim()


def _refused(action: Callable[[], object], kind: type[Exception], told: str) -> None:
    said = ""
    try:
        action()
    except kind as error:
        said = str(error)
    assert told in said, f"{kind.__name__} should have said {told!r}, not {said!r}"
