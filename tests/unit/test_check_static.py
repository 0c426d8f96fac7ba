"""What is said of an archive without loading it: of good ones nothing, of each planted fault its own message."""

import io
import json
import pickle
import re
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


def _with(name: str, content: bytes, *, source: str = "traced", version: bytes | None = None) -> bytes:
    """A golden archive with one entry replaced or added; `name` is without the folder."""
    entries = dict(_entries(_golden(source)))
    root = next(iter(entries)).partition("/")[0]
    number = {f"{root}/version": version} if version else {}
    return _zip((entries | number | {f"{root}/{name}": content}).items())


def _contracted(schema: str, *, torch: str = "2.8.0", code: bytes = b"") -> bytes:
    """A golden archive whose contract names one operator, with more code if asked for."""
    contract = json.dumps({"operators": [schema], "producer": {"torch": torch}}).encode()
    archive = dict(_entries(_with("code/__torch__/more.py", code)))
    root = next(iter(archive)).partition("/")[0]
    return _zip((archive | {f"{root}/extra/contract.json": contract}).items())


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


@pytest.mark.parametrize("path", sorted((GOLDEN / "others").glob("*.pt")), ids=lambda path: path.stem)
def test_what_is_said_of_the_archives_of_other_torches(path: Path) -> None:
    """Whatever is not named here is sound; that the runtime agrees is shown with the runtime."""
    told = {
        "torch-1.5.1-changed": [
            f"upgraded-operator aten::{name}" for name in ("div", "full", "gelu", "linspace", "logspace")
        ],
        "torch-2.13.0-newer": ["missing-operator aten::hash_tensor"],
        "torch-2.13.0-argument": ["changed-schema aten::rand_like"],
    }
    findings = _inspect(path.read_bytes())
    named = sorted(f"{finding.rule} {re.findall(r'[a-z]+::[a-z_]+', finding.message)[0]}" for finding in findings)
    assert named == told.get(path.stem, [])
    assert all(finding.where.startswith("code/__torch__") for finding in findings)


def _old(name: str = "changed") -> bytes:
    return (GOLDEN / "others" / f"torch-1.5.1-{name}.pt").read_bytes()


def test_an_upgrader_that_the_runtime_lacks_is_an_error_with_the_line() -> None:
    upgraders = {name: steps for name, steps in FACTS.upgraders.items() if not name.startswith("aten::gelu")}
    errors = [found for found in _inspect(_old(), replace(FACTS, upgraders=upgraders)) if found.level == "error"]
    (finding,) = errors
    assert finding.rule == "needs-upgrader"
    assert "aten::gelu changed with archive format 10, and the archive has format 2" in finding.message
    assert finding.where == "code/__torch__/torch/nn/functional.py:2: return torch.gelu(input)"
    assert "export the model again with a current one" in finding.fix


def test_a_division_of_numbers_needs_no_upgrader() -> None:
    assert _inspect(_old("whole"), replace(FACTS, upgraders={})) == ()


def test_a_call_is_held_against_what_the_operator_was() -> None:
    """`steps` of linspace could be left out until format 8."""
    code = b"def f(x: Tensor) -> Tensor:\n  return torch.linspace(0., 1., None, dtype=None)\n"
    short = code.replace(b", None, dtype=None", b"")
    assert [found.level for found in _inspect(_with("code/__torch__/more.py", short, version=b"7"))] == ["info"]
    (finding,) = _inspect(_with("code/__torch__/more.py", short, version=b"8"))
    assert finding.rule == "changed-schema"
    assert "linspace(0., 1.)" in finding.where


@pytest.mark.parametrize(
    ("exported", "present", "reason"),
    [
        ("(Tensor self, int n=1) -> Tensor", "(Tensor self, float n=1) -> Tensor", "n was int and is float"),
        ("(Tensor self, *, int n=1) -> Tensor", "(Tensor self, *, int n=2) -> Tensor", "default of n was 1 and is 2"),
        ("(Tensor self) -> Tensor", "(Tensor(a!) self) -> Tensor(a!)", "result 0 was Tensor and is Tensor(a!)"),
        ("(Tensor self) -> Tensor", "(Tensor input) -> Tensor", "self became input"),
        ("(Tensor self) -> Tensor", "(Tensor self) -> (Tensor, Tensor)", "it returns 2 values instead of 1"),
    ],
)
def test_a_changed_schema_says_what_changed_and_where_it_is_called(exported: str, present: str, reason: str) -> None:
    facts = replace(FACTS, operators={**FACTS.operators, "aten::relu": {"": f"aten::relu{present}"}})
    (finding,) = _inspect(_contracted(f"aten::relu{exported}"), facts)
    assert finding.rule == "changed-schema"
    assert reason in finding.message
    assert "code/__torch__" in finding.where
    assert "torch.relu(input)" in finding.where


def test_a_schema_that_only_grew_is_fine_either_way() -> None:
    """The runtime is newer; or older, and no call gives the argument that it lacks."""
    grown = "aten::relu(Tensor self, *, bool fast=False) -> Tensor"
    facts = replace(FACTS, operators={**FACTS.operators, "aten::relu": {"": grown}})
    assert _inspect(_golden("traced"), facts) == ()
    assert _inspect(_contracted(grown)) == ()


def test_an_argument_that_the_runtime_lacks_and_a_call_gives() -> None:
    (finding,) = _inspect(_with("code/__torch__/more.py", b"  y = torch.relu(x, fast=True)\n"))
    assert finding.rule == "changed-schema"
    assert finding.where == "code/__torch__/more.py:1: y = torch.relu(x, fast=True)"
    assert "none of its overloads" in finding.message


def test_the_torch_that_exported_an_archive_is_told_apart_from_the_runtimes() -> None:
    newer = _contracted("aten::relu.fast(Tensor self) -> Tensor", torch="2.13.0+cpu")
    (finding,) = _inspect(newer)
    assert "exported with torch 2.13.0+cpu, which is newer than the runtime's" in finding.message
    assert "serve with a runtime of torch 2.13.0+cpu" in finding.fix
    older = _contracted("aten::relu.fast(Tensor self) -> Tensor", torch="1.13.1")
    assert "which is older than the runtime's" in _inspect(older)[0].message


def test_a_custom_operator_in_contract_and_code_is_told_of_once_with_its_cure() -> None:
    schema = "acme::scale(Tensor x, float by) -> Tensor"
    archive = _contracted(schema, code=b"  y = ops.acme.scale(x, 2.)\n")
    (finding,) = _inspect(archive)
    assert finding.rule == "missing-operator"
    assert "has no operator acme::scale" in finding.message
    assert finding.where == "code/__torch__/more.py:1: y = ops.acme.scale(x, 2.)"
    assert "model_src/<name>/ops/" in finding.fix
    assert _inspect(archive, FACTS.plus([schema])) == ()


def test_a_custom_operator_with_another_schema_is_cured_by_the_same_library() -> None:
    facts = FACTS.plus(["acme::scale(Tensor x, Tensor by) -> Tensor"])
    (finding,) = _inspect(_contracted("acme::scale(Tensor x, float by) -> Tensor"), facts)
    assert "by was float and is Tensor" in finding.message
    assert "same version of the library registering `acme`" in finding.fix


def test_all_missing_operators_are_listed_with_their_lines() -> None:
    findings = _inspect(_golden("operators"))
    assert [finding.rule for finding in findings] == ["missing-operator", "missing-operator"]
    assert "torchvision::nms" in findings[0].message
    assert "code/__torch__.py:9: kept = ops.torchvision.nms(boxes, scores, 0.5)" in findings[0].where
    assert "acme::scale" in findings[1].message
    assert "acme" in findings[1].fix


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


def test_a_device_that_is_written_as_a_method() -> None:
    (finding,) = _inspect(_golden("moved"))
    assert finding.rule == "device-literal"
    assert finding.where == "code/__torch__.py:8: return torch.relu(torch.cuda(x))"


def test_dropout_whose_flag_is_a_default_and_attention_that_drops() -> None:
    findings = _inspect(_golden("driven"))
    assert [finding.rule for finding in findings] == ["train-mode", "train-mode"]
    assert [finding.where.partition(":")[2].partition(":")[0] for finding in findings] == ["9", "10"]
    assert "torch.nn.functional.dropout" in findings[0].message
    assert "aten::scaled_dot_product_attention" in findings[1].message


def test_an_archive_that_was_optimised_before_it_was_saved() -> None:
    (finding,) = _inspect(_golden("optimized"))
    assert finding.rule == "optimized-archive"
    assert "without optimize_for_inference" in finding.fix


def test_an_archive_of_the_first_format() -> None:
    (finding,) = _inspect(_zip([("model/model.json", b"{}"), ("model/version", b"1"), ("model/code/model.py", b"")]))
    assert finding.rule == "legacy-archive"
    assert "save it again" in finding.fix


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


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"operators": 1}',
        b'{"operators": "aten::relu(Tensor self) -> Tensor"}',
        b'{"operators": [1]}',
        b'{"operators": ["aten::relu"]}',
        b'{"operators": ["aten::relu(Tensor self"]}',
        b'{"operators": ["aten::relu(Tensor self) -> Tensor", "' + b"(" * 3_000 + b'"]}',
    ],
)
def test_a_contract_that_is_none(content: bytes) -> None:
    (finding,) = _inspect(_with("extra/contract.json", content))
    assert finding.rule == "bad-contract"
    assert finding.where == "extra/contract.json"


def test_a_contract_from_elsewhere_may_lack_what_is_not_needed() -> None:
    assert _inspect(_with("extra/contract.json", b'{"operators": [], "producer": [7]}')) == ()


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


def _commented(content: bytes) -> bytes:
    """A zip file with a comment, in which another end record could be."""
    return content[:-2] + b"\x04\x00" + b"note"


def _ending(content: bytes, place: int, form: str, *numbers: int) -> bytes:
    """Numbers of the end record written over."""
    ending = bytearray(content)
    struct.pack_into(form, ending, len(content) - 22 + place, *numbers)
    return bytes(ending)


def _in_64(offset: int = 0) -> bytes:
    """An archive with the longer end records that torch itself writes; the locator is off by `offset`."""
    content = _golden("function")
    _, _, _, _, count, length, start, _ = struct.unpack("<4s4H2LH", content[-22:])
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + length + offset, 1)
    return _ending(content[:-22] + end + locator + content[-22:], 16, "<L", 0xFFFFFFFF)


def test_the_longer_end_records_are_read() -> None:
    assert _inspect(_in_64()) == ()


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
        (lambda: _zip([*_entries(_golden("function")), ("model/code/__TORCH__.py", b"")]), "two entries of this name"),
        (lambda: _zip([*_entries(_golden("function")), ("model/CODE/more.py", b"")]), "does not tell upper case"),
        (lambda: _zip([*_entries(_golden("function")), ("model/code/more.PY", b"")]), "does not tell upper case"),
        (lambda: _golden("placed") + _golden("function"), "another reader finds another archive"),
        (lambda: _commented(_golden("function")), "something follows the directory's end record"),
        (lambda: _ending(_golden("function"), 8, "<HH", 3, 3), "claims 3 entries"),
        (lambda: _ending(_golden("function"), 4, "<HH", 1, 1), "another disk"),
        (lambda: _in_64(offset=1), "not where its locator says"),
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
        "upgraders": [[9, "a::b(float x) -> ()"], [4, "a::b(str x) -> ()"]],
    }
    facts = parse(json.dumps(written).encode())
    assert facts.operators == {"a::b": {"c": "a::b.c(int x) -> ()", "": "a::b() -> ()"}}
    assert facts.classes == {"a.C"}
    assert facts.upgraders == {"a::b": ((4, "a::b(str x) -> ()"), (9, "a::b(float x) -> ()"))}
