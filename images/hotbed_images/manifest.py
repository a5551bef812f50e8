"""The merged index of one image: what lies at each path, and which bytes it holds.

A manifest is a plain value. Its entries stand in one canonical order, hard links point at the first path of their group and
holes of large files follow from the content alone, so that the same tree has the same digest on every machine and filesystem.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from hotbed_images.digest import RAW_BYTES
from hotbed_images.paths import TARGET_BYTES_MAX, check_path, parent_of, shown, sort_key
from hotbed_proto.errors import InvalidError

FILE: Final = 0
DIRECTORY: Final = 1
SYMLINK: Final = 2
FIFO: Final = 3
HARDLINK: Final = 4
KINDS: Final = ("file", "directory", "symlink", "fifo", "hard link")

CHUNK_BYTES: Final = 256 * 1024
"""Unit of laziness in large files: at 64 KiB a torch start reads 20 % less but asks three times as often."""
CHUNKED_ABOVE_BYTES: Final = 1024 * 1024
"""Files above this are stored as chunks. Below, one object a file: the few bytes saved do not pay for the extra requests."""

XATTR_NAME_BYTES_MAX: Final = 255
XATTR_VALUE_BYTES_MAX: Final = 65535
XATTRS_PER_ENTRY_MAX: Final = 64
XATTR_BYTES_PER_ENTRY_MAX: Final = 128 * 1024
FILE_BYTES_MAX: Final = 1 << 40
ID_MAX: Final = 0xFFFFFFFE
"""0xffffffff is "no id" to chown, so no file can be owned by it."""
MTIME_NS_MAX: Final = (1 << 63) - 1


class Entry(NamedTuple):
    """One path of an image. Comparable, hashable and cheap: images have 100,000 of them.

    Attributes:
        path: Without leading slash; `b""` is the root folder.
        kind: FILE, DIRECTORY, SYMLINK, FIFO or HARDLINK.
        mode: Permission bits with setuid, setgid and sticky (0 to 0o7777); 0 for hard links.
        mtime_ns: Nanoseconds since 1970, may be negative.
        size: Plain bytes of a FILE, else 0.
        target: Where a SYMLINK points; the path a HARDLINK shares its inode with.
        digest: 32 raw bytes of sha256 of a FILE's content; `b""` if it is empty.
        chunks: For a FILE above CHUNKED_ABOVE_BYTES, the raw digest of each CHUNK_BYTES of it (the last may be shorter),
            where `b""` is a chunk of zeros only. Else empty.
        xattrs: (name, value) pairs sorted by name.
    """

    path: bytes
    kind: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    digest: bytes = b""
    chunks: tuple[bytes, ...] = ()
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


ROOT: Final = Entry(b"", DIRECTORY, 0o755)


def chunk_count(size: int) -> int:
    """How many chunks a file of this many bytes has; 0 if it is kept whole."""
    return 0 if size <= CHUNKED_ABOVE_BYTES else -(-size // CHUNK_BYTES)


class Manifest:
    """The entries of one image in canonical order; never changed after it is made.

    Make one with `Manifest.build` (checks and sorts) or by reading; the constructor trusts its caller.
    """

    __slots__ = ("_by_path", "entries")

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self._by_path: dict[bytes, Entry] | None = None

    @classmethod
    def build(cls, entries: Iterable[Entry]) -> Manifest:
        """Check and sort entries given in any order, and choose the first path of every hard-link group as its file.

        A missing root is added (0755, root, mtime 0); any other missing parent is refused.

        Raises:
            InvalidError: Names the entry: bad path or field, a duplicate, a parent that is missing or no folder, or a hard
                link to nothing, to a folder or in a circle. Cost: about 2 us an entry.
        """
        by_path: dict[bytes, Entry] = {}
        for entry in entries:
            check_entry(entry)
            if entry.path in by_path:
                raise _refusal(entry.path, "the path appears twice")
            by_path[entry.path] = entry
        by_path.setdefault(b"", ROOT)
        folders = {path for path, entry in by_path.items() if entry.kind == DIRECTORY}
        if b"" not in folders:
            raise _refusal(b"", "the root is not a folder")
        for path in by_path:
            if path and parent_of(path) not in folders:
                raise _refusal(path, "its parent is missing or is not a folder")
        if any(entry.kind == HARDLINK for entry in by_path.values()):
            _choose_first_links(by_path)
        return cls(tuple(by_path[path] for path in sorted(by_path, key=sort_key)))

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"Manifest({len(self.entries)} entries)"

    @property
    def by_path(self) -> dict[bytes, Entry]:
        """Entries by path; made on first use. Read only."""
        if self._by_path is None:
            self._by_path = {entry.path: entry for entry in self.entries}
        return self._by_path

    def get(self, path: bytes) -> Entry | None:
        """The entry at a path, hard links followed to the entry that has their content."""
        entry = self.by_path.get(path)
        return self.by_path[entry.target] if entry is not None and entry.kind == HARDLINK else entry

    def blobs(self) -> Iterator[bytes]:
        """Raw digests of all stored blobs an image needs, in first-use order, each once: whole files and chunks."""
        seen: set[bytes] = set()
        for entry in self.entries:
            for raw in entry.chunks or (entry.digest,):
                if raw and raw not in seen:
                    seen.add(raw)
                    yield raw

    @property
    def content_bytes(self) -> int:
        """Plain bytes of all files, hard links counted once."""
        return sum(entry.size for entry in self.entries)


def check_entry(entry: Entry) -> None:
    """Refuse an entry that is not well-formed by itself.

    Raises:
        InvalidError: Names the entry and the field.
    """
    path, kind, mode, uid, gid, mtime_ns, size, target, digest, chunks, xattrs = entry
    check_path(path)
    if kind not in (FILE, DIRECTORY, SYMLINK, FIFO, HARDLINK):
        raise _refusal(path, f"its kind {kind} is unknown")
    if not (0 <= mode <= 0o7777 and 0 <= uid <= ID_MAX and 0 <= gid <= ID_MAX and -MTIME_NS_MAX <= mtime_ns <= MTIME_NS_MAX):
        raise _refusal(path, f"mode {mode:o}, owner {uid}:{gid} or mtime {mtime_ns} ns is out of range")
    if kind == FILE:
        if not 0 <= size <= FILE_BYTES_MAX:
            raise _refusal(path, f"its size {size} is out of range (at most {FILE_BYTES_MAX} bytes)")
        if target or len(digest) != (RAW_BYTES if size else 0):
            raise _refusal(path, "a file needs a digest if it has bytes, and no target")
        if len(chunks) != chunk_count(size) or any(len(raw) not in (0, RAW_BYTES) for raw in chunks):
            raise _refusal(path, "its chunk list does not fit its size")
    else:
        if size or digest or chunks:
            raise _refusal(path, f"a {KINDS[kind]} has no content")
        if (kind in (SYMLINK, HARDLINK)) != bool(target) or len(target) > TARGET_BYTES_MAX or b"\0" in target:
            raise _refusal(path, "its target is missing, too long or holds a NUL byte")
        if kind == HARDLINK and (mode or uid or gid or mtime_ns or xattrs):
            raise _refusal(path, "a hard link carries only its target")
    if xattrs:
        _check_xattrs(entry)


def _check_xattrs(entry: Entry) -> None:
    names = [name for name, _ in entry.xattrs]
    if len(names) > XATTRS_PER_ENTRY_MAX or names != sorted(set(names)):
        raise _refusal(entry.path, f"its xattrs are more than {XATTRS_PER_ENTRY_MAX}, not sorted or repeated")
    total = 0
    for name, value in entry.xattrs:
        total += len(name) + len(value)
        if not 0 < len(name) <= XATTR_NAME_BYTES_MAX or b"\0" in name or len(value) > XATTR_VALUE_BYTES_MAX:
            raise _refusal(entry.path, f"its xattr {shown(name)} is too long or has a bad name")
    if total > XATTR_BYTES_PER_ENTRY_MAX:
        raise _refusal(entry.path, f"its xattrs have {total} bytes, the limit is {XATTR_BYTES_PER_ENTRY_MAX}")


def _choose_first_links(by_path: dict[bytes, Entry]) -> None:
    """Give each hard-link group's attributes to its first path in canonical order; the others point there."""
    groups: dict[bytes, list[bytes]] = {}
    for path, entry in by_path.items():
        if entry.kind == HARDLINK:
            target = by_path.get(entry.target)
            if target is None or target.kind in (DIRECTORY, HARDLINK):
                raise _refusal(path, f"it is a hard link to {shown(entry.target)}, which is no file of this image")
            groups.setdefault(entry.target, [entry.target]).append(path)
    for owner, members in groups.items():
        first, *others = sorted(members, key=sort_key)
        by_path[first] = by_path[owner]._replace(path=first)
        for path in others:
            by_path[path] = Entry(path, HARDLINK, target=first)


def _refusal(path: bytes, why: str) -> InvalidError:
    return InvalidError(f"refused the entry {shown(path)}", why=why)
