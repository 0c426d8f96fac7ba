"""Reading a docker-archive: both layouts, compressed and shared layers, and archives that are not what they claim."""

import gzip
import io
import json
import tarfile
import tracemalloc

import pytest

from pipeline.audit import archive, judge
from pipeline.errors import AuditError
from tests.unit.audit_layers import ROOT, SERVER, Member, classic, layer, oci, program, saved

SHELL = layer(program("usr/bin/sh"))
LAYERS = (ROOT, SERVER, SHELL)


def shells(stream: io.BytesIO) -> list[str]:
    return [finding.where for finding in judge(archive.read(stream, name="image")) if finding.rule == "shell"]


def refusal(stream: io.BytesIO) -> str:
    with pytest.raises(AuditError) as error:
        archive.read(stream, name="model:1-cpu")
    return str(error.value)


@pytest.mark.parametrize("members", [classic(LAYERS), oci(LAYERS)], ids=["classic", "oci"])
@pytest.mark.parametrize("backwards", [False, True], ids=["manifest last", "manifest first"])
def test_both_layouts_are_read_in_any_order(members: dict[str, bytes], backwards: bool) -> None:
    ordered = dict(reversed(members.items())) if backwards else members

    assert shells(saved(ordered)) == ["/usr/bin/sh (layer 3)"]


def test_gzip_layers_are_read() -> None:
    assert shells(saved(oci(tuple(gzip.compress(content) for content in LAYERS)))) == ["/usr/bin/sh (layer 3)"]


def test_a_layer_stored_once_and_linked_counts_as_often_as_it_is_used() -> None:
    members = classic((ROOT, SHELL, SHELL))
    again = f"{2:064x}/layer.tar"
    del members[again]

    assert shells(saved(members, links={again: f"../{1:064x}/layer.tar"})) == [
        "/usr/bin/sh (layer 2)",
        "/usr/bin/sh (layer 3)",
    ]


def test_an_empty_layer_is_a_layer() -> None:
    assert shells(saved(classic((ROOT, bytes(1024), SHELL)))) == ["/usr/bin/sh (layer 3)"]


def test_zstd_layers_are_refused_with_a_cure() -> None:
    message = refusal(saved(oci((ROOT, b"\x28\xb5\x2f\xfd" + bytes(100)))))

    assert message.startswith("model:1-cpu: its layer blobs/sha256/0")
    assert "compressed with zstd" in message
    assert "gzip" in message


@pytest.mark.parametrize("cut", [0, 100, 20_000, 2**20])
def test_a_save_that_was_cut_off_is_refused(cut: int) -> None:
    message = refusal(io.BytesIO(saved(classic(LAYERS)).getvalue()[:cut]))

    assert message.startswith("model:1-cpu: what the engine saved cannot be read as an image")


def test_a_cut_off_gzip_layer_is_refused() -> None:
    assert "cannot be read" in refusal(saved(oci((gzip.compress(ROOT)[:-200],))))


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("manifest.json", b"[]", "not enough values"),
        ("manifest.json", b"{", "JSONDecodeError"),
        (f"{0:064x}/layer.tar", b"not a tar", "is missing or is not a tar file"),
        ("f" * 64 + ".json", json.dumps({"rootfs": {"diff_ids": []}}).encode(), "there are 3 layers"),
        ("f" * 64 + ".json", b"{}", "KeyError"),
    ],
)
def test_an_archive_that_contradicts_itself_is_refused(path: str, content: bytes, reason: str) -> None:
    assert reason in refusal(saved(classic(LAYERS) | {path: content}))


def test_a_damaged_header_does_not_hide_what_follows() -> None:
    damaged = bytearray(layer(Member(path="etc/a"), program("usr/bin/sh")))
    damaged[512 + 148] ^= 1

    assert "a header in it is damaged" in refusal(saved(classic((bytes(damaged),))))


def test_a_global_header_does_not_rename_what_follows() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "etc/harmless"}) as tar:
        tar.addfile(tarfile.TarInfo("usr/bin/sh"))

    assert "it has global headers (path)" in refusal(saved(classic((out.getvalue(),))))


def test_memory_does_not_grow_with_the_files() -> None:
    stream = saved(classic((layer(Member(path="model/model.pt", content=bytes(2**26))),)))
    tracemalloc.start()
    try:
        archive.read(stream, name="image")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
