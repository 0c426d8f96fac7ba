"""What is said of an archive without loading it: of good ones nothing, of each planted fault its own message."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Finding
from pipeline.check import inspect, zipped
from pipeline.check.runtime import RuntimeFacts, parse

GOLDEN = Path(__file__).parents[1] / "golden"
GOOD = ("traced", "scripted", "function")
FACTS = parse((GOLDEN / "runtime.json").read_bytes())


def _golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.pt").read_bytes()


def _inspect(content: bytes, facts: RuntimeFacts = FACTS) -> tuple[Finding, ...]:
    return inspect(io.BytesIO(content), facts)


def _entries(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _zip(entries: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def _with(name: str, content: bytes, *, source: str = "traced") -> bytes:
    """A golden archive with one entry replaced or added; `name` is without the folder."""
    entries = dict(_entries(_golden(source)))
    root = next(iter(entries)).partition("/")[0]
    return _zip((entries | {f"{root}/{name}": content}).items())


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_found_in_a_good_archive(name: str) -> None:
    assert _inspect(_golden(name)) == ()


@pytest.mark.parametrize("name", GOOD)
def test_each_operator_is_missed_when_a_runtime_lacks_it(name: str) -> None:
    code = b"".join(content for path, content in _entries(_golden(name)) if path.endswith(".py")).decode()
    used = [operator for operator in FACTS.operators if f"torch.{operator.partition('::')[2]}(" in code]
    assert used
    for operator in used:
        rest = {other: overloads for other, overloads in FACTS.operators.items() if other != operator}
        findings = _inspect(_golden(name), replace(FACTS, operators=rest))
        assert [f"no operator {operator}:" in finding.message for finding in findings] == [True]


def test_all_missing_operators_are_listed_with_their_lines() -> None:
    findings = _inspect(_golden("operators"))
    assert [finding.rule for finding in findings] == ["missing-operator", "missing-operator"]
    assert "torchvision::nms" in findings[0].message
    assert "code/__torch__.py:9: kept = ops.torchvision.nms(boxes, scores, 0.5)" in findings[0].where
    assert "acme::scale" in findings[1].message
    assert "acme" in findings[1].fix
    assert "Put its .cpp under model_src/<name>/ops/" in findings[1].fix


def test_operators_of_a_library_are_there_and_replace_none_of_the_runtimes() -> None:
    relu = FACTS.operators["aten::relu"]
    library = (
        "torchvision::nms(Tensor b, Tensor s) -> Tensor",
        "acme::scale(Tensor x) -> Tensor",
        "aten::relu(int n) -> int",
    )
    facts = FACTS.plus(library)
    assert _inspect(_golden("operators"), facts) == ()
    assert facts.operators["aten::relu"] == relu


def test_a_schema_of_the_contract_without_its_overload_in_the_runtime() -> None:
    relu = FACTS.operators["aten::relu"]
    facts = replace(FACTS, operators={**FACTS.operators, "aten::relu": {"out": relu["out"]}})
    (finding,) = _inspect(_golden("traced"), facts)
    assert finding.rule == "missing-overload"
    assert "aten::relu" in finding.message


def test_a_schema_of_the_contract_that_the_runtime_has_otherwise() -> None:
    facts = replace(
        FACTS, operators={**FACTS.operators, "aten::relu": {"": "aten::relu(Tensor self, int n) -> Tensor"}}
    )
    (finding,) = _inspect(_golden("traced"), facts)
    assert finding.rule == "changed-schema"
    assert "aten::relu(Tensor self) -> Tensor" in finding.message
    assert "int n" in finding.message


@pytest.mark.parametrize(
    ("number", "told"),
    [(b"99\n", "format 99; the runtime (torch 2.8.0) is older"), (b"0\n", "reads no older"), (b"x", "b'x'")],
)
def test_an_archive_of_another_age(number: bytes, told: str) -> None:
    (finding,) = _inspect(_with("version", number))
    assert finding.rule == "archive-version"
    assert told in finding.message


def test_the_second_place_of_the_version_number_goes_first() -> None:
    (finding,) = _inspect(_with(".data/version", b"11\n"))
    assert finding.rule == "archive-version"
    assert _inspect(_with(".data/version", b"10\n")) == ()


def test_an_archive_in_training_mode() -> None:
    (finding,) = _inspect(_golden("training"))
    assert finding.rule == "train-mode"
    assert "BatchNorm2d" in finding.message
    assert "model.eval()" in finding.fix


def test_training_mode_written_into_traced_code() -> None:
    findings = _inspect(_golden("baked-in"))
    assert {finding.rule for finding in findings} == {"train-mode"}
    told = "".join(finding.message for finding in findings)
    assert "aten::dropout was saved in training mode" in told
    assert "aten::batch_norm was saved in training mode" in told


def test_a_device_that_the_runtime_lacks_is_an_error_and_the_one_it_has_is_told() -> None:
    error, info = _inspect(_golden("placed"))
    assert (error.level, info.level) == ("error", "info")
    assert '"cuda:0"' in error.message
    assert "code/__torch__.py:8:" in error.where


def test_a_device_literal_of_the_cpu_in_a_runtime_for_gpus_is_a_warning() -> None:
    levels = [finding.level for finding in _inspect(_golden("placed"), replace(FACTS, device="cuda"))]
    assert levels == ["info", "warning"]


def test_a_custom_class_is_missed_in_code_and_in_attributes() -> None:
    code = b"class M(Module):\n  p : __torch__.torch.classes.acme.Packed\n"
    (finding,) = _inspect(_with("code/__torch__/more.py", code))
    assert finding.rule == "missing-class"
    assert "acme.Packed" in finding.message
    (finding,) = _inspect(_with("constants.pkl", b"\x80\x02c__torch__.torch.classes.acme\nPacked\n."))
    assert finding.where == "constants.pkl"
    assert _inspect(_with("code/__torch__/more.py", code), replace(FACTS, classes=frozenset({"acme.Packed"}))) == ()


def test_a_dict_with_a_key_named_training_is_no_training_mode() -> None:
    assert _inspect(_with("constants.pkl", pickle.dumps({"training": True}, protocol=2))) == ()


def test_a_pickle_that_torch_does_not_write() -> None:
    (finding,) = _inspect(_with("data.pkl", b"\x80\x02no pickle"))
    assert finding.rule == "bad-pickle"


def test_an_entry_larger_than_a_single_read() -> None:
    large = pickle.dumps("a" * 5 * 2**20, protocol=2)
    assert _inspect(_with("constants.pkl", large)) == ()


def test_a_contract_that_is_none() -> None:
    (finding,) = _inspect(_with("extra/contract.json", b"[1]"))
    assert finding.rule == "bad-contract"


@pytest.mark.parametrize("name", GOOD)
def test_a_flipped_byte_in_any_entry_is_found(name: str) -> None:
    content = _golden(name)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
    for info in infos:
        names, extra = struct.unpack_from("<HH", content, info.header_offset + 26)
        place = info.header_offset + 30 + names + extra + info.compress_size // 2
        flipped = bytearray(content)
        flipped[place] ^= 1
        (finding,) = _inspect(bytes(flipped))
        assert finding.rule == "damaged"
        assert finding.where in info.filename


def test_a_truncated_archive() -> None:
    content = _golden("traced")
    (finding,) = _inspect(content[: len(content) // 2])
    assert finding.rule == "truncated"
    assert f"{len(content) // 2} bytes" in finding.message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"not a zip at all", "no zip file"),
        (pickle.dumps({"a": 1}), "Python pickle"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), "before PyTorch 1.6"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_what_is_no_zip_file(content: bytes, told: str) -> None:
    (finding,) = _inspect(content)
    assert finding.rule == "not-an-archive"
    assert told in finding.message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (_golden("pickled"), "torch.save"),
        (_zip([("a/archive_format", b"pt2"), ("a/models/model.json", b"{}")]), "torch.export"),
        (_zip([("a/readme.txt", b"")]), "readme.txt"),
        (_zip([]), "without TorchScript code"),
    ],
)
def test_zip_files_that_are_not_torchscript(content: bytes, told: str) -> None:
    (finding,) = _inspect(content)
    assert finding.rule == "not-torchscript"
    assert told in finding.message


def _patched(flag: int = 0, method: int = 0) -> bytes:
    """An archive whose directory claims that its first entry is encrypted, or compressed in another way."""
    content = bytearray(_golden("traced"))
    place = content.index(b"PK\x01\x02")
    struct.pack_into("<HH", content, place + 8, flag, method)
    return bytes(content)


def _overlapping() -> bytes:
    """Two entries of the directory that share one local header."""
    content = bytearray(_zip([("model/code/a.py", b"x"), ("model/code/b.py", b"x")]))
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    struct.pack_into("<I", content, second + 42, 0)
    return bytes(content)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: _zip([*_entries(_golden("traced")), ("model/../../etc/passwd", b"")]), "leads out of the archive"),
        (lambda: _zip([*_entries(_golden("traced")), ("/model/code/a.py", b"")]), "leads out of the archive"),
        (lambda: _zip([*_entries(_golden("traced")), ("other/code/a.py", b"")]), "one folder"),
        (lambda: _zip([*_entries(_golden("traced"))[:1] * 2]), "two entries of this name"),
        (lambda: _patched(flag=1), "encrypted"),
        (lambda: _patched(method=12), "method 12"),
        (_overlapping, "overlaps"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_zip_files(make: Callable[[], bytes], told: str) -> None:
    findings = _inspect(make())
    assert {finding.rule for finding in findings} == {"hostile-zip"}
    assert any(told in finding.message for finding in findings)


def test_a_zip_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped, "FREE_EXPANSION", 2**20)
    (finding,) = _inspect(_zip([*_entries(_golden("traced")), ("model/zeros", bytes(2**21))], zipfile.ZIP_DEFLATED))
    assert finding.rule == "hostile-zip"
    assert "a zip bomb" in finding.message


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped, "MAX_ENTRIES", 5)
    (finding,) = _inspect(_golden("scripted"))
    assert finding.rule == "hostile-zip"
    assert "more than 5" in finding.message


def test_a_directory_too_large_to_be_honest_is_not_read() -> None:
    content = _zip([(f"model/{'n' * 60_000}{n}", b"") for n in range(80)])
    (finding,) = _inspect(content)
    assert "directory has more than" in finding.message


def test_more_code_than_is_read_is_told() -> None:
    (finding,) = _inspect(_with("code/__torch__/more.py", b"#" * (9 * 2**20)))
    assert finding.level == "warning"
    assert finding.rule == "not-read"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"torch": 1}', b"[" * 100_000])
def test_facts_that_no_runtime_wrote(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(content)


def test_facts_are_read() -> None:
    written = {
        "torch": "2.8.0",
        "device": "cpu",
        "archive_versions": [1, 10],
        "operators": ["a::b.c(int x) -> ()", "a::b() -> ()"],
        "classes": ["__torch__.torch.classes.a.C"],
    }
    facts = parse(json.dumps(written).encode())
    assert facts.operators == {"a::b": {"c": "a::b.c(int x) -> ()", "": "a::b() -> ()"}}
    assert facts.classes == {"a.C"}
