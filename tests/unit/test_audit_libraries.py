"""The library of a model's own operators in an image: what it needs is there, and nothing else comes with it."""

import random
import tarfile

import pytest

from pipeline.audit import elf
from tests.unit.audit_layers import ELF, Member, layer, library, link
from tests.unit.test_audit import findings_of

TORCH = "libtorch_cpu.so"
OPS = "model/ops.so"


def _reason(*members: Member) -> dict[str, str]:
    return findings_of(layer(*members))


def _ops(content: bytes, mode: int = 0o444) -> Member:
    return Member(path=OPS, content=content, mode=mode)


@pytest.mark.parametrize(
    "members",
    [
        (_ops(library(TORCH, "ld-linux-x86-64.so.2")),),
        (_ops(library()),),
        (_ops(library("libfoo.so.1")), link("usr/lib/x86_64-linux-gnu/libfoo.so.1", "ld-linux-x86-64.so.2")),
    ],
)
def test_a_library_whose_needs_are_in_the_image_passes(members: tuple[Member, ...]) -> None:
    assert _reason(*members) == {}


@pytest.mark.parametrize(
    "members",
    [
        (_ops(library(TORCH, "libfoo.so.1")),),
        (_ops(library("libfoo.so.1")), Member(path="model/libfoo.so.1")),
        (_ops(library("libfoo.so.1")), link("usr/lib/libfoo.so.1", "nowhere")),
        (_ops(library("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")),),
        (_ops(library(search="/tmp/lib")),),
        (_ops(library(search="$ORIGIN")),),
        (_ops(library(), mode=0o555),),
        (_ops(ELF),),
        (_ops(b"text"),),
        (_ops(library()[:-40]),),
        (link("model/ops.so", "../opt/torchyard/lib/libtorch_cpu.so"),),
        (Member(path="model/ops.so", type=tarfile.LNKTYPE, target="opt/torchyard/lib/libtorch_cpu.so", mode=0o444),),
    ],
    ids=[
        *("missing", "beside", "dangling", "by path", "runpath", "origin", "mode", "no library", "text", "cut off"),
        *("symlink", "hardlink"),
    ],
)
def test_a_library_that_cannot_be_loaded_as_it_is_meant_is_found(members: tuple[Member, ...]) -> None:
    found = _reason(*members)
    found.pop("dangling-link (warning)", "")
    assert found == {"model-library": "/model/ops.so (layer 3)"}


def test_native_code_that_no_contract_names_is_found() -> None:
    assert _reason(Member(path="model/other.so", content=library())) == {"model-library": "/model/other.so (layer 3)"}


def test_a_library_that_became_setuid_is_found() -> None:
    found = _reason(_ops(library(), mode=0o4444))
    assert found == {"setuid": "/model/ops.so (layer 3)"}


def test_what_a_later_layer_replaces_is_not_loaded() -> None:
    assert findings_of(layer(_ops(library("libfoo.so.1"))), layer(_ops(library(TORCH)))) == {}


def test_needs_and_search_paths_are_read() -> None:
    assert elf.parse(library(TORCH, "libc.so.6", search="/a:/b")) == elf.Library(
        needed=(TORCH, "libc.so.6"), search=("/a", "/b")
    )


def test_no_damage_makes_the_reader_fail() -> None:
    whole, random_ = library(TORCH, search="/a"), random.Random(0)
    for _ in range(5000):
        damaged = bytearray(whole)
        for _ in range(random_.randint(1, 6)):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        elf.parse(bytes(damaged[: random_.randint(0, len(damaged))]))
