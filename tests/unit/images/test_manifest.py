"""Manifests: canonical order, one encoding, one digest, and a reader that trusts nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import time

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hotbed_images.manifest import CHUNK_BYTES, DIRECTORY, FIFO, FILE, HARDLINK, ROOT, SYMLINK, Entry, Manifest, chunk_count
from hotbed_images.manifest_io import dump_manifest, iter_manifest, load_manifest, manifest_digest
from hotbed_images.paths import sort_key
from hotbed_proto.errors import InvalidError

RESERVED = (b".", b"..", b"dev", b"proc", b"sys")  # the last three only as folders: see changes.apply
NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & set(b"/\0") and name not in RESERVED)
ATTRIBUTES = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.sampled_from([0, 1000, 0xFFFFFFFE]),
        "gid": st.integers(0, 70000),
        "mtime_ns": st.integers(-(10**18), 2 * 10**18),
        "xattrs": st.dictionaries(st.sampled_from([b"user.a", b"user.b", b"security.capability"]), st.binary(max_size=5)).map(
            lambda found: tuple(sorted(found.items()))
        ),
    }
)


def a_file(path: bytes, size: int = 5, seed: bytes = b"", **fields: object) -> Entry:
    raw = hashlib.sha256(path + seed).digest()
    chunks = tuple(
        b"" if index % 3 == 1 else hashlib.sha256(raw + bytes([index])).digest() for index in range(chunk_count(size))
    )
    return Entry(path, FILE, size=size, digest=raw if size else b"", chunks=chunks)._replace(**{"mode": 0o644, **fields})


@st.composite
def trees(draw: st.DrawFn) -> Manifest:
    entries: dict[bytes, Entry] = {b"": ROOT._replace(**draw(ATTRIBUTES))}
    folders, files = [b""], []
    for _ in range(draw(st.integers(0, 14))):
        parent = draw(st.sampled_from(folders))
        name = draw(st.one_of(st.sampled_from([b"a", b"b", b"a-", b"\xff\xfe"]), NAMES))
        path = parent + b"/" + name if parent else name
        if path in entries:
            continue
        kind = draw(st.sampled_from([FILE, FILE, DIRECTORY, DIRECTORY, SYMLINK, FIFO, HARDLINK]))
        if kind == HARDLINK:
            if files:
                entries[path] = Entry(path, HARDLINK, target=draw(st.sampled_from(files)))
            continue
        fields = draw(ATTRIBUTES)
        if kind == FILE:
            size = draw(st.sampled_from([0, 1, 4096, 1 << 20, (1 << 20) + 1, 5 * CHUNK_BYTES + 7]))
            entries[path] = a_file(path, size, draw(st.sampled_from([b"", b"x"])), **fields)
        else:
            entries[path] = Entry(path, kind, target=b"../x" if kind == SYMLINK else b"", **fields)
        (folders if kind == DIRECTORY else files).append(path)
    return Manifest.build(entries.values())


@settings(max_examples=150, deadline=None)
@given(trees(), st.randoms())
def test_a_tree_has_one_encoding_and_comes_back_equal(tree: Manifest, rng: random.Random) -> None:
    shuffled = list(tree.entries)
    rng.shuffle(shuffled)
    assert Manifest.build(shuffled) == tree
    data = dump_manifest(tree)
    assert load_manifest(data, expected_digest=manifest_digest(tree)) == tree
    assert tuple(iter_manifest(io.BytesIO(data))) == tree.entries


def test_order_is_depth_first_with_siblings_bytewise() -> None:
    tree = Manifest.build(
        [Entry(path, DIRECTORY) for path in (b"a", b"a/z", b"a/z/q", b"a-", b"a.b", b"\xff")]
        + [a_file(b"a/\x01"), a_file(b"B")]
    )
    assert [entry.path for entry in tree] == [b"", b"B", b"a", b"a/\x01", b"a/z", b"a/z/q", b"a-", b"a.b", b"\xff"]
    assert [entry.path for entry in tree] == sorted((entry.path for entry in tree), key=sort_key)


def test_the_first_path_of_a_hard_link_group_is_its_file_whichever_was_read_first() -> None:
    one = Manifest.build([a_file(b"b", 5, b"-")._replace(digest=bytes(32)), Entry(b"a", HARDLINK, target=b"b")])
    other = Manifest.build([a_file(b"a")._replace(digest=bytes(32)), Entry(b"b", HARDLINK, target=b"a")])
    assert one == other
    assert manifest_digest(one) == manifest_digest(other)
    assert one.get(b"b") == one.by_path[b"a"]


def test_the_digest_is_pinned() -> None:
    """A change of the encoding makes every stored image another one: that must be a decision."""
    tree = Manifest.build(
        [a_file(b"etc-passwd", 1 << 21), Entry(b"bin", SYMLINK, 0o777, target=b"usr/bin"), Entry(b"usr", DIRECTORY)]
    )
    assert manifest_digest(tree) == "sha256:4ae01b3bbc99b647e73ce82154d7489a66d18aab78f8314ed8fd38cda2b4677e"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([Entry(b"a/b", DIRECTORY)], "parent is missing"),
        ([a_file(b"a"), Entry(b"a/b", DIRECTORY)], "parent is missing"),
        ([a_file(b"a"), a_file(b"a")], "twice"),
        ([Entry(b"../a", DIRECTORY)], r"\.\."),
        ([Entry(b"/a", DIRECTORY)], "empty component"),
        ([Entry(b"a\0", DIRECTORY)], "NUL"),
        ([Entry(b"x" * 256, DIRECTORY)], "255"),
        ([Entry(b"l", SYMLINK)], "target"),
        ([Entry(b"l", HARDLINK, target=b"gone")], "hard link to 'gone'"),
        ([Entry(b"d", DIRECTORY), Entry(b"l", HARDLINK, target=b"d")], "hard link to 'd'"),
        ([Entry(b"k", HARDLINK, target=b"l"), Entry(b"l", HARDLINK, target=b"k")], "hard link to"),
        ([a_file(b"f", 1 << 21)._replace(chunks=())], "chunk list"),
        ([a_file(b"f")._replace(digest=b"short")], "digest"),
        ([a_file(b"f", xattrs=((b"b", b""), (b"a", b"")))], "not sorted"),
        ([a_file(b"f", uid=0xFFFFFFFF)], "owner"),
        ([a_file(b"")], "root is not a folder"),
    ],
)
def test_what_no_image_may_hold_is_refused_by_name(entries: list[Entry], why: str) -> None:
    with pytest.raises(InvalidError, match=why) as caught:
        Manifest.build(entries)
    assert "refused the entry" in str(caught.value)


def _sample() -> Manifest:
    entries = [Entry(b"d%02d" % index, DIRECTORY, 0o755) for index in range(20)]
    entries += [a_file(b"d%02d/f%d" % (index % 20, index), index * 7, xattrs=((b"user.k", b"v"),)) for index in range(200)]
    entries += [a_file(b"big", 3 << 20), Entry(b"zz", HARDLINK, target=b"big"), Entry(b"s", SYMLINK, target=b"big")]
    return Manifest.build(entries)


def test_every_cut_of_a_manifest_file_is_refused() -> None:
    data = dump_manifest(_sample())
    for end in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(InvalidError):
            load_manifest(data[:end])


def test_bit_flips_in_the_file_and_in_the_plain_bytes_are_refused_or_harmless() -> None:
    tree = _sample()
    data = dump_manifest(tree)
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data[8:])
    compress = zstandard.ZstdCompressor(level=1).compress
    rng = random.Random(5)
    for _ in range(250):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with contextlib.suppress(InvalidError):
            # zstd's frame header has a bit without meaning: then the tree is the same.
            assert load_manifest(bytes(broken)) == tree
    for _ in range(400):
        body = bytearray(plain[:-32])
        for _ in range(rng.choice((1, 1, 4))):
            body[rng.randrange(len(body))] = rng.randrange(256)
        sealed = bytes(body) + hashlib.sha256(body).digest()  # an attacker can compute the digest
        try:
            found = load_manifest(data[:8] + compress(sealed))
        except InvalidError:
            continue
        assert Manifest.build(found.entries) == found, "an accepted manifest keeps every rule"


def test_lying_lengths_cost_no_memory_and_bombs_are_refused() -> None:
    head = dump_manifest(_sample())[:8]
    lie = b"hbmanif1" + CHUNK_BYTES.to_bytes(4, "little") + (4096).to_bytes(4, "little") + b"\xff\xff\xff\xff" * 15
    for plain in (lie, b"\0" * (64 << 20), b"hbmanif1" + CHUNK_BYTES.to_bytes(4, "little") + bytes(64 << 20)):
        with pytest.raises(InvalidError):
            load_manifest(head + zstandard.ZstdCompressor().compress(plain))


def test_another_digest_or_version_is_refused() -> None:
    data = dump_manifest(_sample())
    with pytest.raises(InvalidError, match="another manifest"):
        load_manifest(data, expected_digest="sha256:" + "0" * 64)
    with pytest.raises(InvalidError, match="version 2"):
        load_manifest(data[:4] + b"\x02" + data[5:])


def test_a_hundred_thousand_files_take_seconds() -> None:
    entries = [Entry(b"d%03d" % index, DIRECTORY, 0o755) for index in range(300)]
    entries += [a_file(b"d%03d/file-%d" % (index % 300, index), index) for index in range(100_000)]
    begin_s = time.perf_counter()
    tree = Manifest.build(entries)
    assert load_manifest(dump_manifest(tree)) == tree
    assert time.perf_counter() - begin_s < 10  # about 1.2 s alone; the bound is for a busy machine
