"""A folder on disk read into entries, without ever following a link in it.

Every folder is opened by name inside its parent's descriptor, so a tree that changes (or attacks) while it is read can make the
scan fail, but not leave the folder. Hashing runs in threads, one job a folder; hashlib and the store release the GIL.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from hotbed_images.chunking import EMPTY, Content, Pool, PutBlob, put_open_file
from hotbed_images.manifest import DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, Manifest
from hotbed_images.paths import DEPTH_MAX, check_path, join, shown
from hotbed_images.xattrs import Xattrs, read_xattrs
from hotbed_proto.errors import InvalidError

MtimePolicy = Literal["keep", "seconds", "zero"]
"""What a manifest says of times: all of it; whole seconds, as most tars do, so that a tree and its tar agree; or nothing."""

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BATCH_FILES: Final = 128


def policed_mtime_ns(mtime_ns: int, policy: MtimePolicy) -> int:
    """A time as the policy wants it in the manifest."""
    return mtime_ns if policy == "keep" else mtime_ns // 10**9 * 10**9 if policy == "seconds" else 0


@dataclass(slots=True)
class Found:
    """One thing a walk met. `entry` of a file is complete only after its content was read; see `Scan.finish`."""

    entry: Entry
    status: os.stat_result
    content: Content = EMPTY
    xattrs: Xattrs = ()


@dataclass(slots=True)
class _Folder:
    """Files of one folder waiting for a thread; holds a descriptor of the folder until they are read."""

    fd: int
    files: list[Found] = field(default_factory=list)


class Scan:
    """One pass over a folder. `walk` yields what it finds, in no promised order; contents are read in threads meanwhile.

    Args:
        root: The folder. It may be a link itself; nothing below is followed.
        put_blob: Stores contents; None only hashes them.
        threads: For hashing and storing. Two saturate two cores; more threads made writes slower where measured.
        entries_max: Refuse larger trees.
        keep_xattr: Which attributes to record.
    """

    def __init__(
        self,
        root: Path,
        put_blob: PutBlob | None,
        *,
        threads: int = 2,
        mtime: MtimePolicy = "keep",
        entries_max: int = 4_000_000,
        keep_xattr: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._root, self._put_blob, self._threads = root, put_blob, threads
        self._mtime: MtimePolicy = mtime
        self._entries_max, self._keep_xattr = entries_max, keep_xattr
        self._count = 0
        self._stop = threading.Event()

    def walk(self, skip: Callable[[bytes], bool] | None = None) -> Iterator[Found]:
        """Everything below the root and the root itself; a file's Found is filled once the iterator has ended.

        Args:
            skip: Paths to leave out, with all below them.

        Raises:
            InvalidError: Something that no image holds (a device other than overlay's whiteout, a socket), a limit, or a
                file that changed while it was read; names it.
            OSError: The tree cannot be read.
        """
        with Pool(self._threads) as pool:
            try:
                fd = os.open(self._root, _FOLDER_FLAGS & ~os.O_NOFOLLOW)
                yield from self._folder(fd, b"", 0, pool, skip)
                pool.drain()
            except BaseException:
                self._stop.set()
                raise

    def _folder(self, fd: int, path: bytes, depth: int, pool: Pool, skip: Callable[[bytes], bool] | None) -> Iterator[Found]:
        subfolders: list[bytes] = []
        waiting = _Folder(fd)
        try:
            if depth > DEPTH_MAX:
                raise _refusal(path, f"it lies more than {DEPTH_MAX} folders deep")
            yield self._found(path, os.fstat(fd), DIRECTORY, xattrs=self._xattrs(fd))
            with os.scandir(fd) as listing:
                names = sorted(os.fsencode(item.name) for item in listing)
            for name in names:
                child = join(path, name)
                if skip is not None and skip(child):
                    continue
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                kind = stat.S_IFMT(status.st_mode)
                if kind == stat.S_IFDIR:
                    subfolders.append(name)
                    continue
                found = self._other(fd, name, child, status, kind)
                yield found
                if kind == stat.S_IFREG and found.entry.kind == FILE:
                    waiting.files.append(found)
                    if len(waiting.files) >= _BATCH_FILES:
                        self._hash_later(waiting, pool)
                        waiting = _Folder(fd)
            self._hash_later(waiting, pool)
            for name in subfolders:
                try:
                    below = os.open(name, _FOLDER_FLAGS, dir_fd=fd)
                except OSError as error:
                    raise _refusal(join(path, name), f"it cannot be read: {error.strerror}") from error
                yield from self._folder(below, join(path, name), depth + 1, pool, skip)
        finally:
            os.close(fd)

    def _other(self, fd: int, name: bytes, path: bytes, status: os.stat_result, kind: int) -> Found:
        if kind == stat.S_IFREG:
            return self._found(path, status, FILE)
        # A link's own attributes have no descriptor to ask; the folder's descriptor keeps this path inside the tree.
        by_name = b"/proc/self/fd/%d/%s" % (fd, name)
        if kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=fd)
            return self._found(path, status, SYMLINK, target=target, xattrs=self._xattrs(by_name))
        if kind == stat.S_IFIFO:
            return self._found(path, status, FIFO, xattrs=self._xattrs(by_name))
        if kind == stat.S_IFCHR and status.st_rdev == 0:
            # Overlay's whiteout. `scan` refuses it; `change_from_upper` knows what it means.
            return self._found(path, status, FIFO)
        what = {stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device node", stat.S_IFBLK: "a device node"}.get(kind, "unknown")
        raise _refusal(path, f"it is {what}, which no image holds")

    def _found(self, path: bytes, status: os.stat_result, kind: int, *, target: bytes = b"", xattrs: Xattrs = ()) -> Found:
        self._count += 1
        if self._count > self._entries_max:
            raise _refusal(path, f"the tree has more than {self._entries_max} entries")
        check_path(path)
        mode = 0o777 if kind == SYMLINK else stat.S_IMODE(status.st_mode)
        mtime_ns = policed_mtime_ns(status.st_mtime_ns, self._mtime)
        entry = Entry(path, kind, mode, status.st_uid, status.st_gid, mtime_ns, target=target)
        return Found(entry, status, EMPTY, xattrs)

    def _xattrs(self, file: int | bytes) -> Xattrs:
        return read_xattrs(file) if self._keep_xattr is None else read_xattrs(file, keep=self._keep_xattr)

    def _hash_later(self, waiting: _Folder, pool: Pool) -> None:
        if waiting.files:
            job = _Folder(os.dup(waiting.fd), waiting.files)
            try:
                pool.submit(lambda: self._hash(job))
            except BaseException:
                os.close(job.fd)
                raise

    def _hash(self, job: _Folder) -> None:
        try:
            for found in job.files:
                if self._stop.is_set():
                    return
                self._read_file(job.fd, found)
        finally:
            os.close(job.fd)

    def _read_file(self, folder: int, found: Found) -> None:
        path, before = found.entry.path, found.status
        try:
            fd = os.open(path.rpartition(b"/")[2], _FILE_FLAGS, dir_fd=folder)
        except OSError as error:
            raise _refusal(path, f"it cannot be read: {error.strerror}") from error
        try:
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino, now.st_size) != (before.st_dev, before.st_ino, before.st_size):
                raise _refusal(path, "it changed while the tree was read")
            content = put_open_file(fd, before.st_size, self._put_blob)
            if content is None or os.fstat(fd).st_mtime_ns != before.st_mtime_ns:
                raise _refusal(path, "it changed while the tree was read")
            found.content = content
            found.xattrs = self._xattrs(fd)
        finally:
            os.close(fd)


def complete(found: Found) -> Entry:
    """The whole entry of something found, once the walk has ended."""
    return found.entry._replace(
        size=found.content.size, digest=found.content.digest, chunks=found.content.chunks, xattrs=found.xattrs
    )


class LinkGroups:
    """Paths of one walk that share an inode; the first found is the one that is read."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], bytes] = {}

    def first(self, found: Found) -> bytes:
        """The first path found with this inode; the found one's own if it is that."""
        status = found.status
        if status.st_nlink < 2 or found.entry.kind == DIRECTORY:
            return found.entry.path
        return self._first.setdefault((status.st_dev, status.st_ino), found.entry.path)


def scan(
    root: Path,
    put_blob: PutBlob | None = None,
    *,
    threads: int = 2,
    mtime: MtimePolicy = "keep",
    entries_max: int = 4_000_000,
    skip: Callable[[bytes], bool] | None = None,
) -> Manifest:
    """The manifest of a folder, its contents stored by `put_blob` (None: only hashed).

    Args:
        mtime: See MtimePolicy.
        skip: Paths to leave out, with all below them.

    Raises:
        InvalidError: Names the entry: a device, a socket, a limit, unreadable, or changed while it was read.
        OSError: The root cannot be opened. Cost: about 30 us a file and 2 ns a byte of CPU time.
    """
    links = LinkGroups()
    kept: list[Found] = []
    entries: list[Entry] = []
    reader = Scan(root, put_blob, threads=threads, mtime=mtime, entries_max=entries_max)
    for found in reader.walk(skip):
        if stat.S_ISCHR(found.status.st_mode):
            raise _refusal(found.entry.path, "it is a device node, which no image holds")
        owner = links.first(found)
        if owner == found.entry.path:
            kept.append(found)
        else:
            entries.append(Entry(found.entry.path, HARDLINK, target=owner))
    entries += map(complete, kept)
    return Manifest.build(entries)


def _refusal(path: bytes, why: str) -> InvalidError:
    return InvalidError(f"refused the entry {shown(path)}", why=why)
