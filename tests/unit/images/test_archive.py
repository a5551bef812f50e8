"""Layers from strangers: what is read, what is refused and by which name, and that nothing is ever written."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import tarfile
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hotbed_images.archive import LayerLimits, read_layer
from hotbed_images.changes import EMPTY_MANIFEST, Change, apply
from hotbed_images.decompress import PlainStream, StreamLimits
from hotbed_images.digest import digest_of, to_text
from hotbed_images.manifest import CHUNK_BYTES, DIRECTORY, FILE, HARDLINK, SYMLINK, Manifest
from hotbed_proto.errors import InvalidError

Spec = tuple[str, bytes] | tuple[str, bytes, dict[str, object]]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "zstd": zstandard.ZstdCompressor(level=3, write_checksum=True).compress,
    "zstd frames": lambda data: b"".join(
        [
            zstandard.ZstdCompressor().compress(data[:700]),
            b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc",
            zstandard.ZstdCompressor(level=1, write_content_size=False).compress(data[700:]),
        ]
    ),
}


def a_tar(*members: Spec, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format, encoding="utf-8", errors="surrogateescape") as archive:
        for name, data, *fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in (fields[0] if fields else {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tree_of(data: bytes, base: Manifest = EMPTY_MANIFEST) -> Manifest:
    return apply(base, read_layer(io.BytesIO(data)))


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> dict[str, object]:
    return {"type": kind, "linkname": target}


def folder() -> dict[str, object]:
    return {"type": tarfile.DIRTYPE, "mode": 0o755}


LONG = "deep/" * 30 + "n" * 200


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_layer_is_read_whole(compressor: str, tar_format: int) -> None:
    blobs: dict[str, bytes] = {}

    def put(data: bytes, /) -> str:
        blobs[digest_of(data)] = data
        return digest_of(data)

    rng = random.Random(1)
    big = rng.randbytes(CHUNK_BYTES) + bytes(CHUNK_BYTES * 4) + rng.randbytes(77)
    data = a_tar(
        ("./", b"", folder()),
        ("usr/bin/", b"", folder()),
        ("usr/bin/tool", b"#!/bin/sh\n", {"mode": 0o4755, "uid": 3_000_000, "gid": 7, "mtime": 1_600_000_000}),
        ("bin", b"", link("usr/bin")),
        ("hard", b"", link("usr/bin/tool", tarfile.LNKTYPE)),
        (LONG, b"long", {"linkname": ""}),
        ("long-link", b"", link("../" * 50 + "target")),
        ("not-utf8-\udcff", b"bytes"),
        ("big", big),
        ("pipe", b"", {"type": tarfile.FIFOTYPE}),
        ("empty", b""),
        tar_format=tar_format,
    )
    change = read_layer(io.BytesIO(COMPRESSORS[compressor](data)), put)
    tree = apply(EMPTY_MANIFEST, change)
    # The first path of a hard-link group in canonical order is its file.
    tool = tree.get(b"usr/bin/tool")
    assert tool is not None
    assert (tool.path, tool.mode, tool.uid, tool.gid, tool.mtime_ns) == (b"hard", 0o4755, 3_000_000, 7, 1_600_000_000 * 10**9)
    assert blobs[to_text(tool.digest)] == b"#!/bin/sh\n"
    assert tree.by_path[b"usr/bin/tool"].kind == HARDLINK
    assert tree.by_path[LONG.encode()].size == 4
    assert tree.by_path[b"long-link"].target == b"../" * 50 + b"target"
    assert tree.by_path[b"not-utf8-\xff"].size == 5
    chunks = tree.by_path[b"big"].chunks
    assert b"".join(blobs[to_text(raw)] if raw else bytes(CHUNK_BYTES) for raw in chunks) == big
    assert chunks.count(b"") == 4
    assert Manifest.build(tree.entries) == tree


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("/etc/passwd", b"x")], "'/etc/passwd'.*absolute"),
        ([("../../etc/passwd", b"x")], r"'\.\./\.\./etc/passwd'.*upwards"),
        ([("a/../../b", b"x")], r"'a/\.\./\.\./b'.*upwards"),
        ([("h", b"", link("../../etc/shadow", tarfile.LNKTYPE))], r"'\.\./\.\./etc/shadow'.*upwards"),
        ([("h", b"", link("/etc/shadow", tarfile.LNKTYPE))], "'/etc/shadow'.*absolute"),
        ([("s", b"", link("/etc")), ("h", b"", link("s/shadow", tarfile.LNKTYPE))], "'h'.*no file of this image"),
        ([("h", b"", link("./", tarfile.LNKTYPE))], "'h'.*root"),
        ([("dev/null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})], "'dev/null'.*device node"),
        ([("sda", b"", {"type": tarfile.BLKTYPE, "devmajor": 8})], "'sda'.*device node"),
        ([("dev", b"", link("/proc/self"))], "'dev'.*must be folders"),
        ([("x", b"", link(".")), ("x/dev", b"", link("/etc"))], "'dev'.*must be folders"),
        ([("l", b"", link("l")), ("l/f", b"x")], "'l/f'.*circle"),
        ([("f", b"x"), ("f/below", b"x")], "'f/below'.*not a folder"),
        ([("a/" * 300 + "f", b"")], "deep"),
        ([("n" * 300, b"")], "255"),
        ([("d/.wh...", b"")], "whiteout names no file"),
        ([("d/.wh.", b"")], "whiteout names no file"),
        ([(".wh.x/y", b"")], "below a whiteout"),
        ([("weird", b"", {"type": b"Z"})], "type b'Z'"),
        ([(".", b"", link("/etc"))], "root must stay a folder"),
        ([("f", b"x", {"pax_headers": {"size": "-5"}})], "size"),
        ([("f", b"x", {"pax_headers": {"GNU.sparse.major": "1"}})], "'f'.*sparse"),
        ([("f", b"x", {"pax_headers": {"SCHILY.xattr.user.x": "v" * 70_000}})], "'f'.*xattr"),
        ([("f", b"x", {"pax_headers": {"comment": "v" * 2_000_000}})], "limit is 1048576"),
    ],
)
def test_hostile_members_are_refused_by_name(members: list[Spec], why: str) -> None:
    with pytest.raises(InvalidError, match=f"(?s){why}"):
        tree_of(a_tar(*members))


def test_a_symlinked_parent_is_followed_inside_the_tree_only() -> None:
    tree = tree_of(
        a_tar(("esc", b"", link("/../../..")), ("esc/etc/cron.d/x", b"evil"), ("up", b"", link("../..")), ("up/y", b""))
    )
    assert {b"etc/cron.d/x", b"y"} <= {entry.path for entry in tree}


def test_the_last_of_equal_paths_counts() -> None:
    tree = tree_of(
        a_tar(
            ("f", b"one"),
            ("f", b"three"),
            ("d", b"file"),
            ("d", b"", folder()),
            ("d/x", b""),
            ("s", b""),
            ("s", b"", link("f")),
        )
    )
    assert tree.by_path[b"f"].size == 5
    assert tree.by_path[b"d"].kind == DIRECTORY and tree.by_path[b"d/x"].kind == FILE
    assert tree.by_path[b"s"].kind == SYMLINK


def test_whiteouts_hide_lower_layers_only() -> None:
    base = tree_of(a_tar(("a/x", b"1"), ("a/y", b"2"), ("b/z", b"3"), ("c", b"4")))
    layer = a_tar(
        ("a/new", b"5"), ("a/.wh..wh..opq", b""), ("b/.wh.z", b""), ("b/z2", b""), (".wh.c", b""), (".wh..wh.plnk", b"")
    )
    assert [entry.path for entry in tree_of(layer, base)] == [b"", b"a", b"a/new", b"b", b"b/z2"]
    plain = read_layer(io.BytesIO(a_tar((".wh.c", b""))), whiteouts=False)
    assert [entry.path for entry in plain.entries] == [b".wh.c"]


def test_devices_of_a_system_archive_can_be_dropped_but_only_below_dev() -> None:
    null = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
    assert read_layer(io.BytesIO(a_tar(("./dev/null", b"", null))), devices="drop") == Change()
    with pytest.raises(InvalidError, match="'etc/null'"):
        read_layer(io.BytesIO(a_tar(("etc/null", b"", null))), devices="drop")


def test_too_many_entries_are_refused() -> None:
    data = a_tar(*[(f"f{index}", b"") for index in range(50)])
    with pytest.raises(InvalidError, match="more than 20 entries"):
        read_layer(io.BytesIO(data), limits=LayerLimits(entries_max=20))


@pytest.mark.parametrize("compressor", ["gzip", "zstd"])
def test_bombs_are_refused_before_they_cost_memory(compressor: str) -> None:
    bomb = COMPRESSORS[compressor](a_tar(("zeros", bytes(64 << 20))))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidError, match="times its size"):
            read_layer(io.BytesIO(bomb), limits=LayerLimits(stream=StreamLimits(ratio_from_bytes=16 << 20)))
        with pytest.raises(InvalidError, match="more than 1048576 bytes"):
            read_layer(io.BytesIO(bomb), limits=LayerLimits(stream=StreamLimits(plain_bytes_max=1 << 20)))
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_zstd_window_beyond_128_mib_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=29, write_content_size=False)
    data = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = data.compress(a_tar(("f", b"x"))) + data.flush()
    with pytest.raises(InvalidError, match="is damaged"):
        read_layer(io.BytesIO(frame))


def _sample() -> bytes:
    rng = random.Random(3)
    return a_tar(
        ("usr/", b"", folder()),
        ("usr/a", rng.randbytes(3000), {"pax_headers": {"SCHILY.xattr.user.k": "v", "mtime": "1600000000.25"}}),
        ("usr/" + "l" * 150, b"long"),
        ("hard", b"", link("usr/a", tarfile.LNKTYPE)),
        ("lib", b"", link("usr")),
        (".wh.gone", b""),
        ("é", b"name"),
    )


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_cut_is_refused(compressor: str) -> None:
    plain = _sample()
    data = COMPRESSORS[compressor](plain)
    # A plain tar says that it ended by its first zero block; what follows is padding that may be missing.
    ends_at = len(plain.rstrip(b"\0")) // 512 * 512 + 1024 if compressor == "plain" else len(data)
    for end in [*range(0, ends_at, 61), ends_at - 1]:
        with pytest.raises(InvalidError):
            read_layer(io.BytesIO(data[:end]))


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_flipped_bits_are_refused_or_give_a_well_formed_change(compressor: str) -> None:
    data = COMPRESSORS[compressor](_sample())
    expected = read_layer(io.BytesIO(data))
    rng = random.Random(compressor)
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 20))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            change = read_layer(io.BytesIO(bytes(broken)), threads=1)
            tree = apply(EMPTY_MANIFEST, change)
        except InvalidError:
            refused += 1
            continue
        assert Manifest.build(tree.entries) == tree
        if compressor in ("gzip", "zstd"):
            assert change == expected, "a checksum covers the content"
    assert refused > 20


def test_mutated_headers_with_right_checksums_are_refused_or_give_a_well_formed_tree() -> None:
    """Checksums stop accidents, not attackers: mutate headers and seal them again."""
    data = _sample()
    rng = random.Random(11)
    for _ in range(1500):
        broken = bytearray(data)
        start = 512 * rng.randrange(len(data) // 512)
        for _ in range(rng.choice((1, 2, 6))):
            broken[start + rng.randrange(512)] = rng.choice((0, 0x2F, 0x2E, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.3:
            broken[start + 156] = rng.choice(b"0123456xgLKSVM7\0")
        block = broken[start : start + 512]
        block[148:156] = b" " * 8
        broken[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        with contextlib.suppress(InvalidError):
            tree = apply(EMPTY_MANIFEST, read_layer(io.BytesIO(bytes(broken)), threads=1))
            assert Manifest.build(tree.entries) == tree


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["a", "a/b", "a/b/c", "l", "l/x", "./a//d", "..", "a/../x", "/abs", ".wh.a", "a/.wh..wh..opq", "dev", "é/ü"]
            ),
            st.sampled_from(
                [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
            ),
            st.sampled_from(["a", "..", "/", "a/b", "l", "../../x", "/etc/passwd", "."]),
        ),
        max_size=8,
    )
)
def test_any_sequence_of_members_is_refused_by_name_or_gives_a_well_formed_tree(members: list[tuple[str, bytes, str]]) -> None:
    data = a_tar(*[(name, b"", {"type": kind, "linkname": target}) for name, kind, target in members])
    try:
        tree = tree_of(data)
    except InvalidError as error:
        said = str(error)
    else:
        said = "refused the entry: no"
        assert Manifest.build(tree.entries) == tree
        assert all(b".." not in entry.path.split(b"/") for entry in tree)
    assert said.startswith("refused the entry")


def test_numbers_past_octal_and_times_before_1970() -> None:
    data = a_tar(("f", b"", {"uid": 2_500_000_000, "mtime": -5}), tar_format=tarfile.GNU_FORMAT)
    entry = tree_of(data).by_path[b"f"]
    assert (entry.uid, entry.mtime_ns) == (2_500_000_000, -5 * 10**9)
    entry = tree_of(a_tar(("f", b"", {"pax_headers": {"mtime": "-1.5"}}))).by_path[b"f"]
    assert entry.mtime_ns == -1_500_000_000


def test_reading_in_odd_pieces_gives_the_same_bytes() -> None:
    plain = random.Random(2).randbytes(5000) * 300
    for compress in COMPRESSORS.values():
        if compress is bytes:
            continue
        stream = PlainStream(io.BytesIO(compress(plain)), "it")
        pieces = [stream.read(count) for count in (1, 511, 70_000, 3, 0, 2_000_000)]
        assert b"".join(pieces) == plain and stream.read(1) == b""
