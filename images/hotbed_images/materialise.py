"""A manifest written out as a plain folder: for hosts that can mount neither EROFS nor FUSE, and for exports.

Everything is made with `openat`-style calls inside descriptors of folders this module made itself, exclusively and without
following links, so neither the manifest nor another process that swaps a folder for a link can lead a write outside.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hotbed_images.digest import to_text
from hotbed_images.manifest import CHUNK_BYTES, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, Manifest
from hotbed_images.paths import shown
from hotbed_images.xattrs import write_xattrs
from hotbed_proto.errors import InvalidError

GetBlob = Callable[[str], bytes]
"""The plain bytes of `sha256:<hex>`; raises if they cannot be had."""

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPARSE_STEP_BYTES: Final = 64 * 1024
_ZEROS: Final = bytes(_SPARSE_STEP_BYTES)


def materialise(
    manifest: Manifest, get_blob: GetBlob, target: Path, *, owners: bool | None = None, id_shift: int = 0
) -> list[bytes]:
    """Write a manifest into an empty folder: contents (checked against their digests), modes, owners, times, attributes,
    hard links; long runs of zeros become holes.

    Args:
        target: Made if it is missing; must be empty.
        owners: Set owners; None does so if this process is root.
        id_shift: Added to every uid and gid, for a container in a user namespace.

    Returns: Names of extended attributes that could not be set here, each once.

    Raises:
        InvalidError: The target is not empty, or a blob has other bytes than its digest says; names the entry.
        OSError: The disk is full or the like; the target then holds a part of the tree.
    """
    target.mkdir(parents=True, exist_ok=True)
    root = os.open(target, _FOLDER_FLAGS & ~os.O_NOFOLLOW)
    try:
        if os.listdir(root):
            raise InvalidError(f"{target} is not empty", fix="name a new folder to write the image to")
    except BaseException:
        os.close(root)
        raise
    writer = _Writer(get_blob, root, os.geteuid() == 0 if owners is None else owners, id_shift)
    try:
        for entry in manifest.entries:
            writer.write(entry)
    finally:
        writer.close()
    return sorted(writer.refused_xattrs)


class _Writer:
    def __init__(self, get_blob: GetBlob, root: int, owners: bool, id_shift: int) -> None:
        self._get_blob, self._root, self._owners, self._id_shift = get_blob, root, owners, id_shift
        self._open: list[tuple[bytes, int, Entry | None]] = []
        """(path + "/", descriptor, entry) of the folders from the root to where the walk is."""
        self.refused_xattrs: set[bytes] = set()

    def write(self, entry: Entry) -> None:
        if not entry.path:
            self._open.append((b"", self._root, entry))
            return
        while not entry.path.startswith(self._open[-1][0]):
            self._finish_folder()
        prefix, folder, _ = self._open[-1]
        name = entry.path[len(prefix) :]
        if entry.kind == DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=folder)
            self._open.append((entry.path + b"/", os.open(name, _FOLDER_FLAGS, dir_fd=folder), entry))
        elif entry.kind == FILE:
            fd = os.open(name, _CREATE_FLAGS, 0o600, dir_fd=folder)
            try:
                self._fill(fd, entry)
                self._attributes(fd, entry)
            finally:
                os.close(fd)
        elif entry.kind == HARDLINK:
            self._link(entry, name, folder)
        else:
            if entry.kind == SYMLINK:
                os.symlink(entry.target, name, dir_fd=folder)
            else:
                assert entry.kind == FIFO
                os.mkfifo(name, 0o600, dir_fd=folder)
            self._named_attributes(entry, name, folder)

    def close(self) -> None:
        """Finish the folders still open, deepest first."""
        try:
            while self._open:
                self._finish_folder()
        finally:
            for _, fd, _ in self._open:
                os.close(fd)

    def _finish_folder(self) -> None:
        # A folder's mode and time come last: a read-only one could not be filled, and filling it changes its time.
        _, fd, entry = self._open.pop()
        try:
            if entry is not None:
                self._attributes(fd, entry)
        finally:
            os.close(fd)

    def _fill(self, fd: int, entry: Entry) -> None:
        if not entry.chunks:
            if entry.size:
                self._put(fd, 0, self._blob(entry, entry.digest, entry.size))
        else:
            for index, raw in enumerate(entry.chunks):
                start = index * CHUNK_BYTES
                if raw:
                    self._put(fd, start, self._blob(entry, raw, min(CHUNK_BYTES, entry.size - start)))
        os.ftruncate(fd, entry.size)

    def _blob(self, entry: Entry, raw: bytes, size: int) -> bytes:
        data = self._get_blob(to_text(raw))
        if len(data) != size or hashlib.sha256(data).digest() != raw:
            raise InvalidError(
                f"the content of {shown(entry.path)} is damaged", why=f"blob {to_text(raw)} came back with other bytes"
            )
        return data

    def _put(self, fd: int, start: int, data: bytes) -> None:
        for at in range(0, len(data), _SPARSE_STEP_BYTES):
            part = data[at : at + _SPARSE_STEP_BYTES]
            if part == _ZEROS:
                continue
            offset = start + at
            while part:
                written = os.pwrite(fd, part, offset)
                part, offset = part[written:], offset + written

    def _link(self, entry: Entry, name: bytes, folder: int) -> None:
        *parents, source = entry.target.split(b"/")
        fd = os.dup(self._root)
        try:
            for parent in parents:
                below = os.open(parent, _FOLDER_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = below
            os.link(source, name, src_dir_fd=fd, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(fd)

    def _attributes(self, fd: int, entry: Entry) -> None:
        # chown clears setuid and capabilities, so it comes first; the time comes last, since the others change it.
        if self._owners:
            os.fchown(fd, entry.uid + self._id_shift, entry.gid + self._id_shift)
        os.fchmod(fd, entry.mode)
        self.refused_xattrs.update(write_xattrs(fd, entry.xattrs))
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _named_attributes(self, entry: Entry, name: bytes, folder: int) -> None:
        if self._owners:
            uid, gid = entry.uid + self._id_shift, entry.gid + self._id_shift
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        if entry.kind == FIFO:
            os.chmod(name, entry.mode, dir_fd=folder)
        by_name = b"/proc/self/fd/%d/%s" % (folder, name)
        self.refused_xattrs.update(write_xattrs(by_name, entry.xattrs))
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
