"""Runs beside torch: holds what the check says against torch itself, and prints a report."""

import json
from collections.abc import Iterator

import torch

from pipeline.check import schema
from pipeline.check.standing_in import breaks
from tests.containers.sound import false_findings

# Each changes a schema's text in a way that some torch did or could do.
_CHANGES = (
    ("Tensor other", "Tensor? other"),
    (") ->", ", int extra=1) ->"),
    (", *, ", ", int extra, *, "),
    (", *, ", ", "),
    ("int ", "float "),
    ("int ", "int? "),
    ("=False", "=True"),
    ("=None", ""),
    ("Tensor?", "Tensor"),
    ("Tensor[]", "Tensor"),
    ("(a!)", ""),
    (" self", " me"),
    ("-> Tensor", "-> (Tensor, Tensor)"),
    ("[2]", "[]"),
)


def main() -> None:
    """Prints how many schemas were read and compared, how many comparisons refused, and every disagreement.

    `false` is what was found in sound archives.
    """
    known = torch._C._jit_get_all_schemas()
    wrong = [str(own) for own in known if _shape(schema.parse(str(own))) != _torchs_shape(own)]
    compared = refused = 0
    for old, new in _pairs([str(own) for own in known]):
        theirs = torch._C.parse_schema(new).is_backward_compatible_with(torch._C.parse_schema(old))
        ours = breaks(schema.parse(old), schema.parse(new)) is None
        compared += 1
        refused += not ours
        if ours != theirs:
            wrong.append(f"{old} | {new}: torch says {theirs}")
    report = {"read": len(known), "compared": compared, "refused": refused, "wrong": wrong[:20]}
    print(json.dumps(report | {"false": false_findings()}))


def _pairs(texts: list[str]) -> Iterator[tuple[str, str]]:
    """Every fifth schema with one change, and each change with the schema."""
    for place, text in enumerate(texts[::5]):
        was, becomes = _CHANGES[place % len(_CHANGES)]
        for changed in {text.replace(was, becomes, 1), text.replace(*_CHANGES[1], 1)}:
            try:
                torch._C.parse_schema(changed)
            except RuntimeError:
                continue
            yield text, changed
            yield changed, text


def _shape(parsed: schema.Schema) -> list[tuple[str, bool, bool, bool]]:
    names = [(part.name, part.keyword_only, part.default is not None, part.is_out) for part in parsed.arguments]
    return [*names, (str(len(parsed.returns)), False, False, False)]


def _torchs_shape(own: torch._C.FunctionSchema) -> list[tuple[str, bool, bool, bool]]:
    names = [(part.name, part.kwarg_only, part.has_default_value(), part.is_out) for part in own.arguments]
    return [*names, (str(len(own.returns)), False, False, False)]


if __name__ == "__main__":
    main()
