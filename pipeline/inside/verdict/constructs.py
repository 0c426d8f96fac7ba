"""Which Python construct torch.jit.script stumbled over, where it stands, and what to write instead."""

import re
from dataclasses import dataclass

from pipeline.inside.verdict.sources import Sources, is_open

# What torch 2.8 says, what that is in Python, and what to write instead. The first match counts.
_KNOWN = (
    (r"try blocks aren't", "`try`", "Test for the condition with `if` instead"),
    (r"variable number of arguments", "`*args`, `**kwargs` or `*, x=default`", "Name and type each argument"),
    (r"keyword-arg expansion", "`**` in a call", "Write each argument by name"),
    (r"[Ll]ambda|Expected a single top-level function", "`lambda`", "Define a function at the top of model.py"),
    (r"function definitions aren't", "a function inside a function", "Define it at the top of model.py"),
    (r"class definitions aren't", "a class inside a function", "Define it at the top of model.py"),
    (r"import statements aren't", "`import` inside a function", "Import at the top of model.py"),
    (r"Yield", "`yield`", "Build a list and return it"),
    (r"Match aren't", "`match`", "Write `if` and `elif`"),
    (r"NamedExpr", "`:=`", "Assign on a line of its own"),
    (r"else branches of (for|while) loops|incompatible constructor arguments", "`else` after a loop", "Use a flag"),
    (r"global variables aren't|Nonlocal|Global", "`global` or `nonlocal`", "Pass the value in and return it"),
    (r"closed over global", "a global or closed-over value", "Set it in __init__ (self.x = ...)"),
    (r"Set(Comp)? aren't", "a set", "Use a list, or a dict with True values"),
    (r"formatting in JoinedStr", "a format code in an f-string", "Leave the format code out, or the text"),
    (r"Comprehension ifs|single generator", "a comprehension with `if` or two `for`", "Write out the loop"),
    (
        r"GeneratorExp|Expected a value of type 'Tensor' for argument 'self' but instead found type 'List",
        "a generator or list given to sum()",
        "Write out the loop, or use torch.stack(...).sum(0)",
    ),
    (
        r"getattr's second|hasattr's second",
        "`getattr` with a computed name",
        "Use nn.ModuleDict, or `if` over the names",
    ),
    (
        r"literal index|integer literal for index|key.*literal",
        "modules chosen by a variable",
        "Loop over them and compare the index",
    ),
    (r"Cannot index into a Tuple", "a tuple of several types, indexed by a variable", "Use a list of one type"),
    (r"type hint for result of tolist", "tolist() without a type", "Annotate it: values: list[float] = x.tolist()"),
    (r"numpy|ndarray", "numpy", "Compute it with torch"),
    (
        r"NoneType|Optional\[",
        "a value that can be None",
        "Annotate it with `| None`, and test it for None right before its use",
    ),
    (r"Tried to set nonexistent attribute", "an attribute made after __init__", "Set it in __init__ first"),
    (
        r"Wrong type for attribute",
        "an attribute of another type than in __init__",
        "Give it one type, and annotate it there",
    ),
    (r"Python function call '(?!_?[a-z])", "a custom autograd.Function", "Use the formula of its forward() directly"),
    (
        r"Could not export Python function call",
        "a call back into Python (torch.jit.ignore, a decorator)",
        "Let it be compiled, or move it out of forward()",
    ),
    (
        r"not defined in the (false|true) branch|undefined value",
        "a variable that only one way sets",
        "Set it before the branch",
    ),
    (
        r"Type mismatch|previously had type|Previous return|if-expression's",
        "a value of several types",
        "Give it one type on every way, and annotate it",
    ),
    (
        r"must be ints, found Tensor|to be of type 'Tensor' because it was not annotated",
        "an argument without a type, which torch takes for a Tensor",
        "Annotate it, such as n: int",
    ),
    (
        r"Unknown type name",
        "a type that TorchScript does not have",
        "Annotate with Tensor, numbers, str, list, dict, tuple",
    ),
    (
        r"Failed to get source|[Cc]an't get source|could not get source",
        "code without source",
        "Write it out in model.py",
    ),
    (
        r"failed to convert Python type",
        "an attribute that is no tensor, number, text or module",
        "Make it a function or a module",
    ),
    (
        r"has no attribute",
        "an attribute or method that TorchScript does not see",
        "Set it in __init__; write out inherited calls",
    ),
    (
        r"Python builtin|cannot be used as a value|attribute lookup|Unknown builtin|Python value",
        "Python that torch does not compile",
        "Use torch's own function, or compute it in __init__",
    ),
    (
        r"[Uu]nsupported|aren't supported|not supported|Unknown Constant",
        "this kind of Python",
        "Use plain statements on tensors, numbers, lists, dicts",
    ),
)
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Construct:
    """What could not be compiled: `where` is empty when torch did not say."""

    what: str
    where: str
    line: str
    instead: str

    def __str__(self) -> str:
        at = f"{self.where}: `{self.line}`: " if self.where else ""
        return f"{at}{self.what} cannot be scripted. {self.instead}."


def construct(words: str, sources: Sources, failure: BaseException | None = None) -> Construct:
    """Reads torch's words. Their first place in the model's code is the guilty one; the others called it."""
    places = [(file, int(line)) for file, line in _PLACE.findall(words)]
    own = [place for place in places if is_open(place[0])] or places[:1]
    where, line = "", ""
    if own:
        where, line = sources.where(*own[0]), sources.line(*own[0])
    # What torch shows of the code is no part of what it says.
    said = "\n".join(each for each in words.splitlines() if not each.startswith((" ", "\t")) and "HERE" not in each)
    for pattern, what, instead in _KNOWN:
        if re.search(pattern, said) or (failure is not None and re.search(pattern, type(failure).__name__)):
            return Construct(what=what, where=where, line=line, instead=instead)
    return Construct(what="what torch names below", where=where, line=line, instead="Write it with simpler Python")
