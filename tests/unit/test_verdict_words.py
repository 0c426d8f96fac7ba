"""What a person reads: torch's words turned into a construct and an advice, and findings in a stable order."""

import pytest

from pipeline.inside.verdict.constructs import construct
from pipeline.inside.verdict.findings import MOST, finding, listed, shown
from pipeline.inside.verdict.sources import Sources

HERE = __file__


@pytest.mark.parametrize(
    ("words", "what", "instead"),
    [
        ("try blocks aren't supported", "`try`", "`if`"),
        ("Compiled functions can't take variable number of arguments or use keyword-only", "`**kwargs`", "Name"),
        ("keyword-arg expansion is not supported", "`**` in a call", "by name"),
        ("Lambda aren't supported", "`lambda`", "top of model.py"),
        ("function definitions aren't supported", "a function inside a function", "top of model.py"),
        ("Yield aren't supported", "`yield`", "list"),
        ("Match aren't supported", "`match`", "`elif`"),
        ("NamedExpr aren't supported", "`:=`", "a line of its own"),
        ("global variables aren't supported", "`global`", "Pass the value in"),
        (
            "python value of type 'float' cannot be used as a value. Perhaps it is a closed over global",
            "global",
            "__init__",
        ),
        ("Don't support formatting in JoinedStr", "f-string", "format code"),
        ("Comprehension ifs are not supported yet", "a comprehension", "loop"),
        ("getattr's second argument must be a string literal", "`getattr`", "ModuleDict"),
        ("Unable to extract string literal index. ModuleDict", "modules chosen by a variable", "Loop"),
        ("Expected type hint for result of tolist()", "tolist()", "Annotate"),
        ("'Tensor (inferred)' object has no attribute or method 'numpy'.", "numpy", "torch"),
        ("Variable 'y' previously had type NoneType but is now Tensor", "None", "Annotate"),
        ("Tried to set nonexistent attribute: zz.", "after __init__", "__init__"),
        ("Could not export Python function call '_Straight'.", "autograd.Function", "formula"),
        ("Could not export Python function call 'doubled'.", "back into Python", "compiled"),
        ("y is not defined in the false branch", "only one way sets", "before the branch"),
        ("Type mismatch: y is set to type int in the true branch", "several types", "one type"),
        ("Inferred 'n' to be of type 'Tensor' because it was not annotated", "without a type", "n: int"),
        ("Python builtin <built-in function time> is currently not supported", "does not compile", "torch"),
        ("unsupported kind of augmented assignment", "this kind of Python", "plain"),
        ("something never heard of", "what torch names below", "simpler"),
    ],
)
def test_torchs_words_become_a_construct_and_an_advice(words: str, what: str, instead: str) -> None:
    found = construct(words, Sources())
    assert what in found.what
    assert instead in found.instead


def test_the_guilty_line_is_the_first_one_in_the_models_own_code() -> None:
    words = (
        "Comprehension ifs are not supported yet:\n"
        '  File "/opt/venv/lib/python3.13/site-packages/torch/nn/functional.py", line 2\n'
        f'  File "{HERE}", line 1\n        lambda yield <--- HERE\n'
        f'  File "{HERE}", line 3\n'
    )
    found = construct(words, Sources())
    assert (found.where, found.what.split(" ")[1]) == ("test_verdict_words.py:1", "comprehension")
    assert str(found).startswith('test_verdict_words.py:1: `"""What a person reads')


def test_findings_are_listed_once_gravest_first_then_by_line() -> None:
    late, early = (finding("state", "info", f"model.py:{line}", "m", "f") for line in (10, 9))
    grave = finding("random", "error", "z.py:1", "m", "f")
    assert listed([late, early, grave, late]) == [grave, early, late]


def test_more_findings_than_a_person_reads_are_counted() -> None:
    many = [finding("state", "info", f"model.py:{line}", "m", "f") for line in range(MOST + 5)]
    assert len(listed(many)) == MOST
    assert listed(many)[-1]["message"] == "and 6 more findings"
    assert shown(many, 2).splitlines()[-1] == f"  and {MOST + 3} more"


def test_files_are_named_alike_on_every_machine() -> None:
    sources = Sources("/work/model")
    assert sources.name("/work/model/parts/gate.py") == "parts/gate.py"
    assert sources.name("/opt/x/site-packages/torchvision/ops/misc.py") == "torchvision/ops/misc.py"
    assert sources.name("/elsewhere/gate.py") == "gate.py"
