"""Archives that are broken with knowledge of their parts: zip records, pickle opcodes, lines of code, contracts."""

import io
import json
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable, Sequence

_SIGNATURES = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
# Where a number starts in each kind of record behind its signature, and how many bytes it has.
_FIELDS = {
    b"PK\x01\x02": ((4, 2), (6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)),
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}
_NUMBERS = (0, 1, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
# Bytes that steer zip and pickle readers: ends of ranges, signatures, opcodes with a length behind them.
_TOKENS = (b"\x00", b"\xff", b"\xff\xff\xff\xff", *_SIGNATURES, b"PK\x06\x06", b"(", b"\x8b\xff\xff\xff\x7f", b"X")
_OPCODES: tuple[bytes, ...] = (
    b"(",
    b"}",
    b"]",
    b")",
    b"u",
    b"t",
    b"l",
    b"b",
    b"\x81",
    b"\x88",
    b"0",
    b"2",
    b"Q",
    b".",
    b"h\xff",
)
_OPCODES += (b"ca\nb\n", b"X\xff\xff\xff\x7f", b"\x8a\xff", b"r\xff\xff\xff\xff", b"c__torch__.torch.classes.a\nB\n")
_CODE: tuple[str, ...] = (
    "torch.relu(",
    "ops.acme.x(x)",
    "torch.div(1, *x)",
    "torch.full(**x)",
    '"',
    "'''",
    "\\",
    "(" * 300,
    ")",
    "\0",
)
_CODE += (
    "-" * 3000,
    "\x85",
    "  def f(x:",
    "    _0 = __torch__.torch.nn.functional.dropout",
    "_0(x, 0.5, True, )",
    "\ud800",
)
_CODE += ("__torch__.torch.classes.a.B", 'torch.device("' + "c" * 500 + '")', "torch" + ".a" * 200 + "()", "9" * 5000)
_VALUES: tuple[object, ...] = (None, True, -1, 1e308, "", [], {}, [[]], ["aten::relu(Tensor self"], "\ud800", [1])


def mutant(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the many ways to break an archive; `others` are archives to take parts from."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: _scratched(content, rng),
        lambda: _claiming(content, rng),
        lambda: content[: rng.choice(_borders(content, rng))],
        lambda: _spliced(content, rng.choice(others), rng),
        lambda: _mixed(content, rng.choice(others), rng),
        lambda: _rewritten(content, "", _scratched, rng),
        lambda: _rewritten(content, ".pkl", _unpickled, rng),
        lambda: _rewritten(content, ".py", _uncoded, rng),
        lambda: _rewritten(content, "contract.json", _uncontracted, rng),
    )
    return rng.choice(kinds)()


def _scratched(content: bytes, rng: random.Random) -> bytes:
    """One to four changes: bytes flipped, written over, cut out, put in or repeated."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not made:
            break
        # Half of the changes hit the directory at the end, where every claim of a zip file is.
        place = rng.randrange(len(made)) if rng.random() < 0.5 else rng.randrange(len(made) * 3 // 4, len(made))
        length = rng.choice((1, 2, 4, 64))
        token = rng.choice(_TOKENS)
        match rng.randrange(5):
            case 0:
                made[place] ^= 1 << rng.randrange(8)
            case 1:
                made[place : place + len(token)] = token
            case 2:
                del made[place : place + length]
            case 3:
                made[place:place] = token
            case 4:
                made[place:place] = made[place : place + length]
    return bytes(made)


def _claiming(content: bytes, rng: random.Random) -> bytes:
    """Numbers of the zip's own records written over with ones that steer its reader."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        signature = rng.choice(_SIGNATURES)
        record = rng.choice(_places(content, signature))
        place, size = rng.choice(_FIELDS[signature])
        number = rng.choice((*_NUMBERS, len(content), rng.randrange(len(content))))
        if record + place + size <= len(made):
            struct.pack_into("<H" if size == 2 else "<I", made, record + place, number % (1 << 8 * size))
    return bytes(made)


def _places(content: bytes, signature: bytes) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(signature), content)] or [0]


def _borders(content: bytes, rng: random.Random) -> list[int]:
    """Places to end at: between the records, and anywhere."""
    near = [place + rng.randint(-2, 50) for signature in _SIGNATURES for place in _places(content, signature)]
    return [max(0, place) for place in (*near, *(rng.randrange(len(content)) for _ in range(4)))]


def _spliced(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one archive and the end of another."""
    return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


def _mixed(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A sound zip file of entries of both, in disorder."""
    entries = list((_read(other) | _read(content)).items())
    return _written(dict(rng.sample(entries, rng.randint(1, len(entries)))))


def _rewritten(content: bytes, end: str, change: Callable[[bytes, random.Random], bytes], rng: random.Random) -> bytes:
    """A sound zip file with one entry changed whose name ends in `end`; an archive without one is scratched."""
    entries = _read(content)
    names = [name for name in entries if name.endswith(end) and entries[name]]
    if not names:
        return _scratched(content, rng)
    name = rng.choice(names)
    return _written(entries | {name: change(entries[name], rng)})


def _unpickled(pickle: bytes, rng: random.Random) -> bytes:
    """A pickle with whole opcodes left out, doubled, moved or put in."""
    starts = [place for _, _, place in pickletools.genops(pickle) if place is not None]
    parts = [pickle[start:end] for start, end in zip(starts, [*starts[1:], len(pickle)], strict=True)]
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(parts))
        match rng.randrange(4):
            case 0 if len(parts) > 1:
                del parts[place]
            case 1:
                parts[place:place] = [parts[place]] * rng.choice((1, 2, 1000))
            case 2:
                parts[place:place] = [rng.choice(_OPCODES)] * rng.choice((1, 1, 2, 10_000))
            case _:
                other = rng.randrange(len(parts))
                parts[place], parts[other] = parts[other], parts[place]
    return b"".join(parts)


def _uncoded(source: bytes, rng: random.Random) -> bytes:
    """Code with lines doubled, cut, joined or full of what a parser trips over."""
    lines = source.decode("utf-8", "replace").split("\n")
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(lines))
        cut = rng.randint(0, len(lines[place]))
        match rng.randrange(5):
            case 0:
                lines[place] = lines[place][:cut] + rng.choice(_CODE) + lines[place][cut:]
            case 1:
                lines[place] = lines[place][:cut]
            case 2:
                lines[place:place] = [lines[place]] * rng.choice((1, 100))
            case 3:
                lines[place] = lines[place].replace("(", rng.choice(("", "((", "(*", "(**", '("', "(x=")))
            case 4:
                lines[place : place + 2] = ["".join(lines[place : place + 2])]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _uncontracted(contract: bytes, rng: random.Random) -> bytes:
    """A contract with a value of another kind, with a broken schema, or that is no JSON."""
    parsed = json.loads(contract)
    match rng.randrange(3):
        case 0:
            parsed[rng.choice(list(parsed))] = rng.choice(_VALUES)
        case 1:
            schema = rng.choice(parsed["operators"])
            parsed["operators"].append(_scratched(schema.encode(), rng).decode("latin-1"))
        case 2:
            return _scratched(contract, rng)
    return json.dumps(parsed).encode()


def _read(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _written(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()
