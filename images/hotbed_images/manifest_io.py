"""Manifests as bytes: a canonical plain encoding, its digest, and a zstd file around it.

    plain  = "hbmanif1" u32 chunk_bytes | block... | u32 0 | u64 entries | sha256 of all before
    block  = u32 entries (1 to 4096) | u32 length of each column | columns
    file   = "HBMF" u16 version u16 0 | one zstd frame of plain, with checksum

Every number is little-endian. Columns hold one field of all entries of a block, so that packing costs a few C calls a block.
Paths are (depth, name): in canonical order the parent is the last entry one level up, so a name can neither be absolute nor
lead upwards nor lack its parent. A writer always fills blocks to 4096: one tree has exactly one encoding, and its digest names
the image. Readers trust nothing: every count and length is bounded before memory is taken.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from typing import BinaryIO, Final

import zstandard

from hotbed_images.decompress import PlainStream, StreamLimits
from hotbed_images.digest import RAW_BYTES, to_text
from hotbed_images.manifest import (
    CHUNK_BYTES,
    DIRECTORY,
    FILE,
    FILE_BYTES_MAX,
    HARDLINK,
    Entry,
    Manifest,
    check_entry,
    chunk_count,
)
from hotbed_images.paths import DEPTH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, shown
from hotbed_proto.errors import InvalidError

ENTRIES_MAX: Final = 4_000_000
PLAIN_BYTES_MAX: Final = 2 << 30
_MAGIC: Final = b"hbmanif1"
_FILE_HEADER: Final = struct.Struct("<4sHH")
_FILE_MAGIC: Final = b"HBMF"
_VERSION: Final = 1
_BLOCK_ENTRIES: Final = 4096
_BLOCK_BYTES_MAX: Final = 512 * 1024 * 1024
"""A block of 4096 files of 1 TiB each would be larger; a writer refuses it, as a reader does."""
_ZSTD_LEVEL: Final = 3
_FIXED: Final = ("B", "H", "I", "I", "q", "Q", "H", "H", "H", "B")
"""kind, mode, uid, gid, mtime_ns, size, depth, name length, target length, xattr count; then the five variable columns:
names, targets, digests, chunks (a flag byte a chunk, then the digests of those that are not holes), xattrs."""
_COLUMNS: Final = len(_FIXED) + 5
_WIDTHS: Final = tuple(struct.calcsize("<" + code) for code in _FIXED)
_XATTR: Final = struct.Struct("<BH")


def manifest_digest(manifest: Manifest) -> str:
    """`sha256:...` of the canonical plain encoding: the name of the image. Cost: about 0.2 s for 100,000 entries."""
    digest = hashlib.sha256()
    for part in _plain_parts(manifest.entries):
        digest.update(part)
    return to_text(digest.digest())


def write_manifest(manifest: Manifest, out: BinaryIO) -> str:
    """Write a manifest file as a stream and return the manifest's digest."""
    out.write(_FILE_HEADER.pack(_FILE_MAGIC, _VERSION, 0))
    digest = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
    with compressor.stream_writer(out, closefd=False) as writer:
        for part in _plain_parts(manifest.entries):
            digest.update(part)
            writer.write(part)
        writer.write(digest.digest())
    return to_text(digest.digest())


def dump_manifest(manifest: Manifest) -> bytes:
    """A manifest file as bytes."""
    out = io.BytesIO()
    write_manifest(manifest, out)
    return out.getvalue()


def read_manifest(source: BinaryIO, *, expected_digest: str = "") -> Manifest:
    """Read a manifest file; nothing in it is trusted.

    Raises:
        InvalidError: Not a manifest, of another version, damaged, truncated, beyond a limit, not canonical, or (if given) not
            the one that `expected_digest` names. Cost: about 0.4 s for 100,000 entries.
    """
    plain = _PlainReader(source)
    entries = tuple(_entries(plain))
    if expected_digest and to_text(plain.digest) != expected_digest:
        raise InvalidError(
            "this is another manifest than the one asked for", why=f"it is {to_text(plain.digest)}, not {expected_digest}"
        )
    return Manifest(entries)


def load_manifest(data: bytes, *, expected_digest: str = "") -> Manifest:
    """`read_manifest` of bytes."""
    return read_manifest(io.BytesIO(data), expected_digest=expected_digest)


def iter_manifest(source: BinaryIO) -> Iterator[Entry]:
    """Entries of a manifest file as they come. The digest is known good only when the iterator ends without an error."""
    return _entries(_PlainReader(source))


# Writing


def _plain_parts(entries: Iterable[Entry]) -> Iterator[bytes]:
    yield _MAGIC + struct.pack("<I", CHUNK_BYTES)
    rows = iter(entries)
    count = 0
    while block := list(islice(rows, _BLOCK_ENTRIES)):
        count += len(block)
        yield _encode_block(block)
    yield struct.pack("<IQ", 0, count)


def _encode_block(block: list[Entry]) -> bytes:
    paths, kinds, modes, uids, gids, mtimes, sizes, targets, digests, chunks, xattrs = zip(*block, strict=True)
    names = [path.rpartition(b"/")[2] for path in paths]
    depths = [path.count(b"/") + 1 if path else 0 for path in paths]
    fixed = (kinds, modes, uids, gids, mtimes, sizes, depths, [*map(len, names)], [*map(len, targets)], [*map(len, xattrs)])
    count = len(block)
    columns = [struct.pack(f"<{count}{code}", *column) for code, column in zip(_FIXED, fixed, strict=True)]
    columns += [b"".join(names), b"".join(targets), b"".join(digests)]
    columns.append(b"".join(bytes(map(bool, part)) + b"".join(part) for part in chunks if part))
    columns.append(b"".join(_XATTR.pack(len(k), len(v)) + k + v for part in xattrs if part for k, v in part))
    encoded = struct.pack(f"<{1 + _COLUMNS}I", count, *map(len, columns)) + b"".join(columns)
    if len(encoded) > _BLOCK_BYTES_MAX:
        raise InvalidError(
            f"the image is too large to index near {shown(paths[0])}", why="4096 neighbouring files have over 4 TiB of chunks"
        )
    return encoded


# Reading


class _PlainReader:
    """Exact reads of the plain encoding under limits, hashing what passes."""

    def __init__(self, source: BinaryIO) -> None:
        header = source.read(_FILE_HEADER.size)
        if len(header) < _FILE_HEADER.size:
            raise _damaged("it is truncated")
        magic, version, reserved = _FILE_HEADER.unpack(header)
        if magic != _FILE_MAGIC or reserved:
            raise _damaged("it does not begin like one")
        if version != _VERSION:
            raise InvalidError(
                f"a manifest of version {version} cannot be read", why=f"this hotbed reads {_VERSION}", fix="update hotbed"
            )
        self._stream = PlainStream(source, "the manifest", StreamLimits(PLAIN_BYTES_MAX))
        self._hash = hashlib.sha256()
        self.digest = b""

    def take(self, count: int) -> bytes:
        parts: list[bytes] = []
        missing = count
        while missing:
            # Small steps: a lying length meets the end of the stream before it has cost memory.
            part = self._stream.read(min(missing, 1 << 20))
            if not part:
                raise _damaged("it is truncated")
            parts.append(part)
            missing -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._hash.update(data)
        return data

    def finish(self) -> None:
        self.digest = self._hash.digest()
        if self.take(RAW_BYTES) != self.digest:
            raise _damaged("its bytes do not have the digest it ends with")
        # Asking for more also has the frame's end and checksum verified.
        if self._stream.read(1):
            raise _damaged("bytes follow its end")


def _entries(plain: _PlainReader) -> Iterator[Entry]:
    if plain.take(len(_MAGIC)) != _MAGIC or plain.take(4) != struct.pack("<I", CHUNK_BYTES):
        raise _damaged("its inner header or chunk size is unknown")
    tree = _TreeRules()
    total, last_count = 0, _BLOCK_ENTRIES
    while True:
        (count,) = struct.unpack("<I", plain.take(4))
        if count == 0:
            break
        total += count
        if count > _BLOCK_ENTRIES or last_count != _BLOCK_ENTRIES or total > ENTRIES_MAX:
            raise _damaged(f"a block claims {count} entries out of turn, or there are more than {ENTRIES_MAX} in all")
        last_count = count
        yield from _decode_block(plain, count, tree)
    if struct.unpack("<Q", plain.take(8)) != (total,) or total == 0:
        raise _damaged("its entry count is wrong")
    plain.finish()


def _decode_block(plain: _PlainReader, count: int, tree: _TreeRules) -> Iterator[Entry]:
    lengths = struct.unpack(f"<{_COLUMNS}I", plain.take(4 * _COLUMNS))
    if sum(lengths) > _BLOCK_BYTES_MAX or any(n != w * count for n, w in zip(lengths, _WIDTHS, strict=False)):
        raise _damaged("the lengths of a block's columns do not fit")
    columns = [plain.take(length) for length in lengths]
    fixed = [struct.unpack(f"<{count}{code}", data) for code, data in zip(_FIXED, columns, strict=False)]
    kinds, modes, uids, gids, mtimes, sizes, depths, name_lengths, target_lengths, xattr_counts = fixed
    names_column, targets_column, digests_column, chunks_column, xattrs_column = columns[len(_FIXED) :]
    if max(kinds) > HARDLINK or max(sizes) > FILE_BYTES_MAX:
        raise _damaged("a kind or size is out of range")
    digest_lengths = [RAW_BYTES if kind == FILE and size else 0 for kind, size in zip(kinds, sizes, strict=True)]
    digests = _split(digests_column, digest_lengths)
    targets = _split(targets_column, target_lengths)
    names = _split(names_column, name_lengths)
    paths = tree.paths(depths, names, kinds)
    chunks = _chunk_lists(chunks_column, kinds, sizes)
    xattrs = _xattr_lists(xattrs_column, xattr_counts)
    rows = zip(paths, kinds, modes, uids, gids, mtimes, sizes, targets, digests, chunks, xattrs, strict=True)
    for entry in map(Entry._make, rows):
        # Paths were proven by the tree's rules; a plain file or folder has no more to check than its columns' ranges.
        check_entry(entry)
        if entry.kind == HARDLINK:
            tree.check_link(entry)
        elif entry.kind != DIRECTORY:
            tree.linkable.add(entry.path)
        yield entry


def _split(data: bytes, lengths: Iterable[int]) -> list[bytes]:
    ends = [*accumulate(lengths)]
    if (ends[-1] if ends else 0) != len(data):
        raise _damaged("a column is shorter or longer than its lengths say")
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class _TreeRules:
    """Rebuilds paths from (depth, name) and holds the stream to canonical order."""

    def __init__(self) -> None:
        self._prefixes: list[bytes] = []
        self._last_names: list[bytes] = []
        self.linkable: set[bytes] = set()

    def paths(self, depths: tuple[int, ...], names: list[bytes], kinds: tuple[int, ...]) -> list[bytes]:
        prefixes, last_names = self._prefixes, self._last_names
        paths: list[bytes] = []
        for depth, name, kind in zip(depths, names, kinds, strict=True):
            if depth == 0:
                if prefixes or name or kind != DIRECTORY:
                    raise _damaged("its root is missing, repeated or not a folder")
                prefixes.append(b"")
                paths.append(b"")
                continue
            # prefixes[d] is what children at depth d+1 begin with; a deeper depth than that has no parent folder.
            if depth > len(prefixes) or depth > DEPTH_MAX:
                raise _damaged(f"the entry {shown(name)} has no parent folder or lies too deep")
            if not name or len(name) > NAME_BYTES_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
                raise _damaged(f"the name {shown(name)} is not one a file can have")
            if depth <= len(last_names):
                if last_names[depth - 1] >= name:
                    raise _damaged(f"the entry {shown(name)} is out of order or repeated")
                del last_names[depth:]
                last_names[depth - 1] = name
            else:
                last_names.append(name)
            del prefixes[depth:]
            path = prefixes[depth - 1] + name
            if len(path) > PATH_BYTES_MAX:
                raise _damaged(f"the path {shown(path)} is too long")
            if kind == DIRECTORY:
                prefixes.append(path + b"/")
            paths.append(path)
        return paths

    def check_link(self, entry: Entry) -> None:
        if entry.target not in self.linkable:
            raise _damaged(f"the hard link {shown(entry.path)} does not lead to an earlier file")


def _chunk_lists(data: bytes, kinds: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[bytes, ...]]:
    lists: list[tuple[bytes, ...]] = [()] * len(kinds)
    position = 0
    for index, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        count = chunk_count(size) if kind == FILE else 0
        if not count:
            continue
        flags = data[position : position + count]
        position += count
        if len(flags) != count or flags.count(0) + flags.count(1) != count:
            raise _damaged("a chunk list is truncated or has unknown flags")
        end = position + RAW_BYTES * flags.count(1)
        if end > len(data):
            raise _damaged("a chunk list is truncated")
        digests = iter([data[at : at + RAW_BYTES] for at in range(position, end, RAW_BYTES)])
        lists[index] = tuple(next(digests) if flag else b"" for flag in flags)
        position = end
    if position != len(data):
        raise _damaged("bytes follow the chunk lists")
    return lists


def _xattr_lists(data: bytes, counts: tuple[int, ...]) -> list[tuple[tuple[bytes, bytes], ...]]:
    lists: list[tuple[tuple[bytes, bytes], ...]] = [()] * len(counts)
    position = 0
    if any(counts):
        for index, count in enumerate(counts):
            pairs: list[tuple[bytes, bytes]] = []
            for _ in range(count):
                if position + _XATTR.size > len(data):
                    raise _damaged("its xattrs are truncated")
                name_length, value_length = _XATTR.unpack_from(data, position)
                middle = position + _XATTR.size + name_length
                pairs.append((data[position + _XATTR.size : middle], data[middle : middle + value_length]))
                position = middle + value_length
            lists[index] = tuple(pairs)
    if position != len(data):
        raise _damaged("its xattrs are truncated or bytes follow them")
    return lists


def _damaged(why: str) -> InvalidError:
    return InvalidError("this is not a whole manifest", why=why, fix="fetch it again, or rebuild the image")
