"""What a file's or a setting's content gives away: private keys, tokens, passwords in URLs, certificates."""

import re
from dataclasses import dataclass
from typing import IO

# Every file is searched to its end, chunk by chunk, so that no size hides anything and memory stays flat. The
# overlap is longer than anything that is searched for.
_CHUNK = 2**20
_OVERLAP = 2**10
# As git does: a NUL near the start makes a file binary. Tokens are not searched for in those, because random bytes
# look like tokens; the header of a private key is long enough to be searched for everywhere.
_SNIFF = 8000

CERTIFICATE = "a PEM certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """What to look for. `hint` occurs in every match, literally: most content is passed over without the regex."""

    name: str
    hint: bytes
    regex: re.Pattern[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """The first four bytes of a content and the names of the patterns found in it, in the order of the table."""

    magic: bytes = b""
    names: tuple[str, ...] = ()


def _pattern(name: str, hint: bytes, regex: bytes) -> Pattern:
    return Pattern(name=name, hint=hint, regex=re.compile(regex))


# A header that a line break follows (or `\n` inside JSON): source code that only mentions the header is not a key.
_LINE_END = rb"-----(?:\r?\n|\\n)"
_PRIVATE_KEY = _pattern(
    "a private key", b"PRIVATE KEY", rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?" + _LINE_END
)
_PASSWORD = rb"(?:%[0-9A-Fa-f]{2}|[^\s/:@'\"`<>{}()\[\]$%*|\\])"
# Names that RFC 2606 reserves for examples; documentation uses them.
_NO_EXAMPLE = rb"(?!(?:[\w-]+\.)*(?:example(?:\.(?:com|net|org))?|invalid|test)\b)"

_PATTERNS = (
    _PRIVATE_KEY,
    _pattern(CERTIFICATE, b"CERTIFICATE", rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE" + _LINE_END),
    _pattern("an AWS access key", b"AKIA", rb"\bAKIA[0-9A-Z]{16}\b"),
    _pattern("a temporary AWS access key", b"ASIA", rb"\bASIA[0-9A-Z]{16}\b"),
    _pattern("an AWS secret key", b"aws_secret", rb"aws_secret_access_key['\"]?\s*[=:]\s*['\"]?[A-Za-z0-9/+]{40}"),
    _pattern("a Google API key", b"AIza", rb"\bAIza[0-9A-Za-z_-]{35}"),
    _pattern("an Azure storage key", b"AccountKey=", rb"AccountKey=[A-Za-z0-9+/]{64,}={0,2}"),
    _pattern("a GitHub token", b"gh", rb"\bgh[pousr]_[A-Za-z0-9]{36}"),
    _pattern("a GitHub token", b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    _pattern("a GitLab token", b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20}"),
    _pattern("a PyPI token", b"pypi-AgE", rb"\bpypi-AgE[A-Za-z0-9_-]{16,}"),
    _pattern("an npm token", b"npm_", rb"\bnpm_[A-Za-z0-9]{36}"),
    _pattern("an npm token", b"_authToken", rb"_authToken\s*=\s*[A-Za-z0-9_-]{8,}"),
    _pattern("a Hugging Face token", b"hf_", rb"\bhf_[A-Za-z0-9]{34}"),
    _pattern("a Slack token", b"xox", rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _pattern("a Slack webhook", b"hooks.slack.com", rb"hooks\.slack\.com/services/T\w+/B\w+/\w{16,}"),
    _pattern("a Stripe key", b"_live_", rb"\b[rs]k_live_[A-Za-z0-9]{16,}"),
    _pattern(
        "a password in a URL",
        b"://",
        rb"://[^\s/:@'\"`<>{}()\[\]$%*|\\]{1,64}:" + _PASSWORD + rb"{1,256}@" + _NO_EXAMPLE + rb"[A-Za-z0-9\[]",
    ),
)


def follow(content: IO[bytes]) -> Trail:
    """Reads `content` to its end."""
    chunk = content.read(_CHUNK)
    magic = chunk[:4]
    patterns = (_PRIVATE_KEY,) if b"\0" in chunk[:_SNIFF] else _PATTERNS
    found: set[str] = set()
    while chunk:
        found.update(_found(chunk, patterns))
        more = content.read(_CHUNK)
        chunk = chunk[-_OVERLAP:] + more if more else b""
    return Trail(magic=magic, names=_ordered(found))


def in_text(text: str) -> tuple[str, ...]:
    """The names of the patterns found in a setting, a label or a build argument."""
    return _ordered(_found(text.encode(errors="replace"), _PATTERNS))


def _found(content: bytes, patterns: tuple[Pattern, ...]) -> set[str]:
    return {pattern.name for pattern in patterns if pattern.hint in content and pattern.regex.search(content)}


def _ordered(found: set[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(pattern.name for pattern in _PATTERNS if pattern.name in found))
