"""A mapping of a YAML file, read key by key: what is wrong is noted with its key path, and reading goes on."""

import difflib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import yaml

_ANY_TEXT = re.compile(r"(?s)\s*\S.*")
_MEMORY = re.compile(r"(?P<number>[1-9]\d*) ?(?P<unit>MiB|GiB)")
_MILLISECONDS = re.compile(r"(?P<number>\d{1,4}(\.\d+)?) ?ms")
_MIB = {"MiB": 1, "GiB": 1024}


class Section:
    """One mapping. Every method that takes a key returns a usable value, whatever the file says.

    Mistakes of all sections of a file go into one list, ready for people: `training.epochs: is 0, and has to be …`.
    """

    def __init__(self, content: Mapping[str, Any], path: str, mistakes: list[str]) -> None:
        self._content = content
        self._path = path
        self._known: list[str] = []
        self.mistakes = mistakes

    @classmethod
    def parse(cls, text: str) -> Self:
        """The top of a YAML document; one that is not YAML, or not a mapping, is an empty section with a mistake."""
        mistakes: list[str] = []
        try:
            content = _loader(text, mistakes).get_single_data()
        except (yaml.YAMLError, ValueError) as error:
            # ValueError: what looks like a number or a date, and is none.
            return cls({}, "", [f"is not YAML: {' '.join(str(error).split())}"])
        if not isinstance(content, dict):
            return cls({}, "", [f"is {shown(content)}, and has to be a mapping of names to values"])
        return cls(_named(content), "", mistakes)

    def wrong(self, key: str, message: str) -> None:
        """Notes a mistake."""
        self.mistakes.append(f"{self.path_of(key)}: {message}")

    def path_of(self, key: str) -> str:
        """Where a key is in the file, such as `training.limits.memory`."""
        return f"{self._path}.{key}" if self._path else key

    def has(self, key: str) -> bool:
        """Whether the key is there with a value."""
        self._known.append(key)
        return self._content.get(key) is not None

    def plain(self, key: str) -> dict[str, Any]:
        """The mapping under a key, handed on as it is: any keys, and values that JSON knows as well."""
        content = dict(self.section(key).items())
        try:
            json.dumps(content, allow_nan=False)
        except (TypeError, ValueError) as error:
            self.wrong(key, f"holds what JSON cannot ({error}); put dates and the like in quotes")
            return {}
        return content

    def items(self) -> Iterator[tuple[str, Any]]:
        """All keys with their values, for sections whose keys are free."""
        self._known.extend(self._content)
        return iter(self._content.items())

    def section(self, key: str, *, required: str = "") -> "Section":
        """The mapping under a key; without the key an empty one. `required` says what has to be in it at least."""
        value = self._content[key] if self.has(key) else {}
        if not isinstance(value, dict):
            self.wrong(key, f"is {shown(value)}, and has to be a mapping of names to values")
            value = {}
        elif required and not value:
            self.wrong(key, f"is missing or empty; {required}")
        return Section(_named(value), self.path_of(key), self.mistakes)

    def text(self, key: str, rule: str = "text", *, fits: re.Pattern[str] = _ANY_TEXT) -> str:
        """The text under a key that has to be there; `rule` says to people what `fits` asks for."""
        if not self.has(key):
            self.wrong(key, f"is missing; it has to be {rule}")
            return ""
        value = self._content[key]
        if not isinstance(value, str) or not fits.fullmatch(value):
            self.wrong(key, f"is {shown(value)}, and has to be {rule}")
            return ""
        return value.strip()

    def optional(self, key: str, rule: str = "text", *, fits: re.Pattern[str] = _ANY_TEXT) -> str:
        """The text under a key, or an empty one."""
        return self.text(key, rule, fits=fits) if self.has(key) and self._content[key] != "" else ""

    def number(self, key: str, default: float, *, least: float) -> float:
        """A finite number of at least `least`."""
        value = self._content[key] if self.has(key) else default
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= sys.float_info.max:
            self.wrong(key, f"is {shown(value)}, and has to be a number of at least {least:g}")
            return default
        # A record gives floats back; 2 and 2.0 must not make two digests.
        return float(value)

    def whole(self, key: str, default: int, *, least: int) -> int:
        """A whole number of at least `least`."""
        value = self._content[key] if self.has(key) else default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.wrong(key, f"is {shown(value)}, and has to be a whole number of at least {least}")
            return default
        return value

    def memory(self, key: str, default: int) -> int:
        """A size in MiB, written with its unit."""
        if not self.has(key):
            return default
        value = self._content[key]
        match = _MEMORY.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.wrong(key, f"is {shown(value)}, and has to be a size such as 512MiB or 4GiB")
            return default
        return int(match["number"]) * _MIB[match["unit"]]

    def is_mapping(self, key: str) -> bool:
        """Whether there is a mapping under a key."""
        return self.has(key) and isinstance(self._content[key], dict)

    def milliseconds(self, key: str, default: float) -> float:
        """A time in milliseconds, written with its unit."""
        if not self.has(key):
            return default
        value = self._content[key]
        match = _MILLISECONDS.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.wrong(key, f"is {shown(value)}, and has to be a time such as 2ms, of at most 9999ms")
            return default
        return float(match["number"])

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        """One of the choices."""
        value = self._content[key] if self.has(key) else default
        known = tuple(choices)
        # PyYAML knows YAML 1.1, in which off is false.
        value = "off" if value is False and "off" in known else value
        if value in known:
            return str(value)
        self.wrong(key, f"is {shown(value)}, and has to be one of {', '.join(known)}{meant(str(value), known)}")
        return default

    def refuse_unknown(self) -> None:
        """Notes every key of the file that nobody asked for."""
        for key in self._content:
            if key not in self._known:
                known = ", ".join(dict.fromkeys(self._known))
                self.wrong(key, f"is not known here{meant(key, self._known) or f'; known are {known}'}")


def meant(word: str, known: Iterable[str]) -> str:
    """`; perhaps you meant …` when a known word looks like it, else nothing."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; perhaps you meant {by_lower[close[0]]}" if close else ""


def shown(value: object) -> str:
    """A value as people know it from the file, cut short."""
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(content: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in content.items()}


def _loader(text: str, mistakes: list[str]) -> yaml.SafeLoader:
    """A safe loader that notes duplicate keys, which YAML forbids and PyYAML passes over."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    mistakes.append(f"{key.value}: is there twice, again in line {key.start_mark.line + 1}")
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    # PyYAML knows YAML 1.1, in which 1e-4 is text; https://yaml.org/spec/1.2.2/#1032-tag-resolution has it a number.
    number = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader(text)
