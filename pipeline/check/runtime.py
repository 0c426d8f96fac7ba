"""What a runtime image says about itself: torch version, device, readable archives, operators, custom classes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.engine import Engine, Image
from pipeline.errors import CheckError

FACTS = "/opt/torchyard/runtime.json"
_CLASSES = "__torch__.torch.classes."


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """The facts of a runtime. `operators` maps `namespace::name` to its overloads ("" is the unnamed one) and
    those to their schemas; `classes` are `namespace.Name`; `archive_versions` the first and last readable one."""

    torch: str
    device: str
    archive_versions: tuple[int, int]
    operators: Mapping[str, Mapping[str, str]]
    classes: frozenset[str]

    def plus(self, schemas: Iterable[str]) -> "RuntimeFacts":
        """The facts once a library with these operators is loaded; it cannot replace one that the runtime has."""
        operators = dict(self.operators)
        for schema in schemas:
            name, overload = name_of(schema)
            operators[name] = {overload: schema, **operators.get(name, {})}
        return replace(self, operators=operators)


def parse(content: bytes) -> RuntimeFacts:
    """Reads the JSON that a runtime's build wrote into it.

    Raises:
        ValueError: it is not of that form.
    """
    try:
        facts: dict[str, Any] = json.loads(content)
        first, last = facts["archive_versions"]
        operators: dict[str, dict[str, str]] = {}
        for schema in facts["operators"]:
            name, overload = name_of(schema)
            operators.setdefault(name, {})[overload] = schema
        return RuntimeFacts(
            torch=str(facts["torch"]),
            device=str(facts["device"]),
            archive_versions=(int(first), int(last)),
            operators=operators,
            classes=frozenset(str(name).removeprefix(_CLASSES) for name in facts["classes"]),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def name_of(schema: str) -> tuple[str, str]:
    """`aten::add.Tensor(Tensor self, …) -> Tensor` -> ("aten::add", "Tensor")."""
    name, _, overload = schema.partition("(")[0].partition(".")
    return name, overload


def facts_of(reference: str, *, engine: Engine) -> tuple[Image, RuntimeFacts]:
    """The image that `reference` names, and its facts.

    Raises:
        CheckError: there is no such image, or it is no TorchScript runtime.
    """
    image = engine.find(reference)
    if image is None:
        raise CheckError(f"{reference}: there is no such image in the engine. Build it with `inv images`, or load it.")
    content = engine.read_file(image.digest, FACTS)
    if content is None:
        raise CheckError(
            f"{reference}: the image has no {FACTS}, so it is no TorchScript runtime that Torchyard built and nothing "
            "says what it can load. Name a torchscript-runtime image or a serving image made from one."
        )
    try:
        return image, parse(content)
    except ValueError as error:
        raise CheckError(
            f"{reference}: {FACTS} in the image is not what the runtime's build writes ({error}). "
            "Build the runtime again with `inv images`."
        ) from error
