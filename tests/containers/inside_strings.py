"""Runs in the training image: what a model may take and return, and how strings are kept and compared."""

import re
from collections.abc import Callable
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from pipeline.inside import parity
from pipeline.inside.deviation import Deviation
from pipeline.inside.freezing import freeze
from pipeline.inside.order import Refused
from pipeline.inside.samples import Sample, named, outputs_of, read, take
from pipeline.inside.strings import serialized, strings

WORDS = ["", "good film", "Æther", "日本", "a\0b", "\U0001f600"]
CONTRACT: dict[str, Any] = {
    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "length", "datatype": "INT64", "shape": [-1]},
    ],
}
NAMES = ["label", "length"]
EXACT = {"absolute": 0.0, "relative": 0.0}


class Lengths(nn.Module):  # type: ignore[misc]
    def forward(self, text: Any) -> Any:
        assert isinstance(text, list), "TorchScript takes a list only"
        return {"length": torch.tensor([len(each) for each in text]), "label": text}


def _strings_are_kept() -> None:
    for values in (WORDS, [], [""]):
        kept = serialized(values, what="the test")
        assert (kept.dtype, kept.dim()) == (torch.uint8, 1)
        assert strings(kept) == values
    assert serialized(["é", ""], what="the test").tolist() == [2, 0, 0, 0, 0xC3, 0xA9, 0, 0, 0, 0]


def _samples_hold_strings() -> None:
    held_out = [(word, 0) for word in WORDS * 2]
    samples = take(Lengths(), held_out, CONTRACT, collate=torch.utils.data.default_collate)
    assert [len(sample.inputs[0]) for sample in samples] == [1, 1, 1, 1, 1, 2, 3]
    kept = named(samples, CONTRACT)
    assert kept["6/input/text"].dtype == kept["6/output/label"].dtype == torch.uint8
    for number, sample in enumerate(samples):
        back = read(kept, CONTRACT, number)
        assert back.inputs == sample.inputs
        assert back.outputs[0] == sample.outputs[0] == sample.inputs[0]
        assert torch.equal(back.outputs[1], sample.outputs[1])


class Vocabulary(nn.Module):  # type: ignore[misc]
    def __init__(self, words: int) -> None:
        super().__init__()
        self.number = {f"word{number}": number for number in range(words)}
        self.linear = nn.Linear(1, 1)

    def forward(self, text: list[str]) -> torch.Tensor:
        known = [float(self.number[each]) for each in text]
        return self.linear(torch.tensor(known).reshape(-1, 1))


class Nested(nn.Module):  # type: ignore[misc]
    def __init__(self, words: int) -> None:
        super().__init__()
        self.inner = Vocabulary(words)

    def forward(self, text: list[str]) -> torch.Tensor:
        return self.inner(text)


def _large_vocabularies_are_no_literals() -> None:
    for words, kept in ((50, False), (2000, True)):
        model = Nested(words).eval()
        raw = BytesIO()
        torch.jit.save(freeze(torch.jit.script(model)), raw)
        loaded = torch.jit.load(raw := BytesIO(raw.getvalue()))
        code = b"".join(map(ZipFile(raw).read, (name for name in ZipFile(raw).namelist() if name.endswith(".py"))))
        assert (b"word49" in code) != kept
        assert (len(code) < 2000) or not kept
        assert torch.equal(loaded(["word49", "word0"]), model(["word49", "word0"]))
        assert not [name for name, _ in loaded.named_parameters()]


def _forward_may_return() -> None:
    one, two = torch.ones(1), torch.ones(2)
    for result, outputs in (
        (one, (one,)),
        ((one, two), (one, two)),
        ([one, two], (one, two)),
        (["a", "b"], (["a", "b"],)),
        ([], ([],)),
        ("a", (["a"],)),
        ((["a"], one), (["a"], one)),
        (("a", "b"), (["a"], ["b"])),
        ({"length": two, "label": one}, (one, two)),
        ({"length": ["a"], "label": []}, ([], ["a"])),
    ):
        found = outputs_of(result, NAMES[: len(outputs)])
        assert len(found) == len(outputs), result
        for got, wanted in zip(found, outputs, strict=True):
            assert torch.equal(got, wanted) if isinstance(wanted, torch.Tensor) else got == wanted, result


class Halves(nn.Module):  # type: ignore[misc]
    def forward(self, text: list[str]) -> list[str]:
        return [each[:1] for each in text]


def _halves_of_characters() -> None:
    sample = Sample(inputs=(["a", "é"],), outputs=(["a", "é"],))
    parity._run(torch.jit.script(Halves()), sample, ["y"], what="frozen, sample 3")


def _answer(*outputs: Any) -> Callable[[], object]:
    class Constant(nn.Module):  # type: ignore[misc]
        def forward(self, _: Any) -> Any:
            return outputs

    return lambda: take(Constant(), [("a", 0)], CONTRACT, collate=torch.utils.data.default_collate)


def _given(*item: Any) -> Callable[[], object]:
    return lambda: take(Lengths(), [item], CONTRACT, collate=torch.utils.data.default_collate)


LONG = torch.zeros(1, dtype=torch.int64)
REFUSED: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: outputs_of({"label": LONG}, NAMES), r"a dict of `label`; .* outputs `label`, `length`\. Give both"),
    (lambda: outputs_of({}, ["y"]), r"a dict of nothing; model\.yaml declares the outputs `y`"),
    (lambda: outputs_of({1: LONG}, ["y"]), r"a dict of `1`"),
    (lambda: outputs_of({"y": 1}, ["y"]), r"returned a int\. Return tensors and lists of strings"),
    (lambda: outputs_of([["a", LONG]], ["y"]), r"returned a list\. Return"),
    (lambda: outputs_of(None, ["y"]), r"returned a NoneType"),
    (
        _halves_of_characters,
        r"sample 3: the archive answers with a string that is not UTF-8 .*: cut them between ASCII",
    ),
    (lambda: serialized(["a", "\ud800"], what="0/input/text"), r"String 1 of 0/input/text is '\\ud800', which is not"),
    (_answer(["a", "b"], LONG, LONG), r"gives 3 outputs; model\.yaml declares 2: `label`, `length`"),
    (_answer(LONG, LONG), r"gives the output `label` as INT64 \[1\]; model\.yaml declares BYTES \[-1\]"),
    (_answer(["a"], ["b"]), r"gives the output `length` as BYTES \[1\]; model\.yaml declares INT64 \[-1\]"),
    (_given(LONG, 0), r"split gives the input `text` as INT64 \[1, 1\]; model\.yaml declares BYTES \[-1\]"),
    (_given(b"bytes", 0), r"gives the input `text` as tuple; model\.yaml declares BYTES"),
    (_given("a"), r"not \(\*inputs, target\)"),
    (lambda: Deviation().add(["a"], ["b"], EXACT, what="y"), r"y is \['a'\] where the trained model gave \['b'\]"),
    (lambda: Deviation().add(["a"], ["a", "b"], EXACT, what="y"), r"y is \['a'\] where the trained model gave"),
    (lambda: Deviation().add(LONG, ["a"], EXACT, what="y"), r"y is a Tensor where the trained model gave a list"),
)


def _refuses() -> None:
    for number, (action, told) in enumerate(REFUSED):
        said = ""
        try:
            action()
        except Refused as refusal:
            said = str(refusal)
        assert re.search(told, said, re.DOTALL), f"{number}: should have said {told!r}, not {said!r}"


def main() -> None:
    _strings_are_kept()
    _samples_hold_strings()
    _large_vocabularies_are_no_literals()
    _forward_may_return()
    _refuses()
    same = Deviation()
    same.add(WORDS, list(WORDS), EXACT, what="y")
    assert same.found() == {"absolute": 0.0, "relative": 0.0, "equal": True, "agreement": None}
    sample = Sample(inputs=(WORDS,), outputs=(WORDS, torch.zeros(6, dtype=torch.int64)))
    assert read(named([sample], CONTRACT), CONTRACT, 0).inputs == (WORDS,)
    print("held")


if __name__ == "__main__":
    main()
