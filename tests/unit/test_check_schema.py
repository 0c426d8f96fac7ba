"""Operator schemas as torch prints them, and which may stand in for which; the container tests ask torch itself."""

import json
from pathlib import Path

import pytest

from pipeline.check.schema import Argument, parse
from pipeline.check.standing_in import breaks, missing_defaults, takes

GOLDEN = Path(__file__).parents[1] / "golden"
F = "f(Tensor self, int n=1) -> Tensor"


def test_the_parts_of_a_schema() -> None:
    schema = parse(
        'a::f.out(Tensor(a -> *)[] x, Dict(str, t) d, Future(t) f, SymInt[2] n=[1, 2], *, str s="a\\", (b", '
        "ScalarType? t=None, Tensor(b!) out) -> (Tensor(b!) y, int)"
    )
    assert schema.name == "a::f.out"
    assert [(part.type, part.name, part.default, part.alias) for part in schema.arguments] == [
        ("Tensor[]", "x", None, "(a -> *)"),
        ("Dict(str, t)", "d", None, ""),
        ("Future(t)", "f", None, ""),
        ("int[2]", "n", "[1, 2]", ""),
        ("str", "s", '"a\\", (b"', ""),
        ("int?", "t", "None", ""),
        ("Tensor", "out", None, "(b!)"),
    ]
    assert [part.keyword_only for part in schema.arguments] == [False] * 4 + [True] * 3
    assert [part.is_out for part in schema.arguments] == [False] * 6 + [True]
    assert schema.returns == (
        Argument(type="Tensor", name="y", default=None, alias="(b!)", keyword_only=False),
        Argument(type="int", name="", default=None, alias="", keyword_only=False),
    )


def test_any_number_of_values() -> None:
    schema = parse("prim::f(str self, ...) -> ...")
    assert (schema.open_arguments, schema.open_returns) == (True, True)
    assert parse("prim::g() -> ()").returns == ()


def test_every_schema_of_the_kept_runtime_is_read_and_replaces_itself() -> None:
    for text in json.loads((GOLDEN / "runtime.json").read_bytes())["operators"]:
        assert breaks(parse(text), parse(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f",
        "f(",
        "f()",
        "f() ->",
        "f() -> (",
        "f(()) -> Tensor)(",
        "(Tensor x) -> Tensor",
        "f() -> (int) int",
        "x" * 9999,
    ],
)
def test_what_is_no_schema(text: str) -> None:
    with pytest.raises(ValueError, match="no operator schema"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["f" + "(" * 4000, "f(" + "," * 4000 + ") -> ()", 'f(str s="' + "\\" * 4000, "::" * 2000]
)
def test_hostile_schemas_end(text: str) -> None:
    with pytest.raises(ValueError, match="no operator schema") as refused:
        parse(text)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "new",
    [
        F,
        "f(Tensor self, int n=1, int m=2) -> Tensor",
        "f(Tensor self, int n=1, *, bool fast=False) -> Tensor",
        "f(Tensor? self, SymInt n=1) -> Tensor",
        "f(Tensor self, Scalar? n=1) -> Tensor",
        "f(Any self, int n=0x1) -> Tensor",
    ],
)
def test_what_may_stand_in(new: str) -> None:
    assert breaks(parse(F), parse(new)) is None


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("f(Tensor self) -> Tensor", "it lacks n"),
        ("f(Tensor self, int k=1) -> Tensor", "n became k"),
        ("f(Tensor self, int n=2) -> Tensor", "the default of n was 1 and is 2"),
        ("f(Tensor self, int n) -> Tensor", "the default of n was 1 and is gone"),
        ("f(Tensor self, str n=1) -> Tensor", "n was int and is str"),
        ("f(Tensor self, *, int n=1) -> Tensor", "n is taken by keyword only"),
        ("f(Tensor self, int n=1, int m) -> Tensor", "it asks for m as well"),
        ("f(Tensor(a!) self, int n=1) -> Tensor", "self was Tensor and is Tensor(a!)"),
        ("f(Tensor self, int n=1) -> (Tensor, Tensor)", "it returns 2 values instead of 1"),
        ("f(Tensor self, int n=1) -> Tensor?", "result 0 was Tensor and is Tensor?"),
        ("f(Tensor self, int n=1) -> Tensor y", "result 0 became y"),
        ("f(Tensor self, int n=1, ...) -> Tensor", "any number of values"),
    ],
)
def test_what_may_not_stand_in(new: str, reason: str) -> None:
    assert reason in (breaks(parse(F), parse(new)) or "")


def test_a_default_of_none_is_a_default() -> None:
    old, new = parse("f(int? n=None) -> ()"), parse("f(int? n) -> ()")
    assert breaks(old, new) == "the default of n was None and is gone"
    assert breaks(new, old) is None


def test_arguments_are_added_before_the_out_ones() -> None:
    old = parse("f.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)")
    assert breaks(old, parse("f.out(Tensor self, int n=1, *, Tensor(a!) out) -> Tensor(a!)")) is None
    assert breaks(old, parse("f.out(Tensor self, *, Tensor(a!) out, int n=1) -> Tensor(a!)")) is None
    assert breaks(old, parse("f.out(Tensor self, int n, *, Tensor(a!) out) -> Tensor(a!)")) == "it asks for n as well"


def test_a_list_of_fixed_size_is_a_type_of_its_own() -> None:
    """A call may give one number for `int[2]`."""
    assert breaks(parse("f(int[2] n) -> ()"), parse("f(int[] n) -> ()")) == "n was int[2] and is int[]"


def test_what_an_older_operator_can_do_without() -> None:
    new = parse("f(Tensor self, int n=1, *, bool fast=False) -> Tensor")
    assert missing_defaults(new, parse("f(Tensor self, int n=1) -> Tensor")) == ("fast",)
    assert missing_defaults(new, parse("f(Tensor self) -> Tensor")) == ("n", "fast")
    assert missing_defaults(new, parse("f(Tensor x) -> Tensor")) == ()
    assert missing_defaults(new, new) == ()
    assert missing_defaults(parse("f(Tensor self, int n) -> Tensor"), parse("f(Tensor self) -> Tensor")) == ()


@pytest.mark.parametrize(
    ("positional", "keywords", "fits"),
    [
        (1, [], True),
        (2, ["fast"], True),
        (1, ["n", "fast"], True),
        (0, ["self"], True),
        (0, [], False),
        (3, [], False),
        (1, ["slow"], False),
        (1, ["self"], False),
    ],
)
def test_which_calls_an_operator_takes(positional: int, keywords: list[str], fits: bool) -> None:
    schema = parse("f(Tensor self, int n=1, *, bool fast=False) -> Tensor")
    assert takes(schema, positional, keywords) is fits


def test_the_last_list_may_be_spread_and_open_arguments_take_anything() -> None:
    assert takes(parse("f(int[] size, *, int? t=None) -> Tensor"), 4, ["t"])
    assert takes(parse("f(str self, ...) -> str"), 9, [])
