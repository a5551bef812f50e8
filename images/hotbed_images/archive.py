"""One OCI layer (or any tar: plain, gzip or zstd) as a change of a tree.

Nothing is written but contents, through `put_blob`; names only ever become entries of a manifest. What a hostile layer can
do is therefore to be refused, by `InvalidError` naming the entry: here for what the archive alone shows, and in
`changes.apply` for what depends on the tree below it (symlinked parents, hard links, /dev).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal

from hotbed_images import tar
from hotbed_images.changes import Change
from hotbed_images.chunking import EMPTY, ChunkedContent, Content, Pool, PutBlob, put_whole
from hotbed_images.decompress import PlainStream, StreamLimits
from hotbed_images.manifest import (
    CHUNK_BYTES,
    CHUNKED_ABOVE_BYTES,
    DIRECTORY,
    FIFO,
    FILE,
    HARDLINK,
    SYMLINK,
    Entry,
    check_entry,
)
from hotbed_images.paths import from_member, join, parent_of, shown
from hotbed_images.tree import MtimePolicy, policed_mtime_ns
from hotbed_images.xattrs import is_kept
from hotbed_proto.errors import InvalidError

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."
_BATCH_BYTES: Final = 1024 * 1024
_BATCH_FILES: Final = 64
_KINDS: Final = {tar.REGULAR: FILE, tar.LINK: HARDLINK, tar.SYMLINK: SYMLINK, tar.DIRECTORY: DIRECTORY, tar.FIFO: FIFO}


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """What one archive may hold. Attributes: members of it; see StreamLimits for its bytes."""

    entries_max: int = 1_000_000
    stream: StreamLimits = field(default_factory=StreamLimits)


def read_layer(
    source: BinaryIO,
    put_blob: PutBlob | None = None,
    *,
    name: str = "the layer",
    limits: LayerLimits | None = None,
    whiteouts: bool = True,
    devices: Literal["refuse", "drop"] = "refuse",
    mtime: MtimePolicy = "keep",
    threads: int = 2,
) -> Change:
    """Read an archive as a stream, in one pass, holding at most some MiB of contents at a time.

    Args:
        source: Binary stream at the archive's start.
        put_blob: Stores contents; None only hashes them.
        name: What error messages call the archive.
        whiteouts: Whether `.wh.` names hide paths of the layers below, as in OCI layers; else they are plain names.
        devices: "drop" leaves out device nodes below dev/, which archives of whole systems have and every container gets
            anew; elsewhere they are refused always.
        threads: For hashing and storing.

    Raises:
        InvalidError: Names the entry: a path that is absolute, leads upwards or is too long, a device, an unknown type, too
            many entries, a bomb, a stream that is cut or damaged. Cost: about 15 us an entry and 2 ns a byte on each thread.
    """
    limits = limits or LayerLimits()
    reader = tar.TarReader(PlainStream(source, name, limits.stream), name, members_max=limits.entries_max)
    layer = _Layer(whiteouts, devices, mtime)
    with Pool(threads, waiting_max=8) as pool:
        contents = _Contents(reader, put_blob, pool)
        for member in reader:
            entry = layer.entry(member)
            if entry is not None:
                if entry.kind == FILE:
                    contents.read(len(layer.entries), entry.path, member.size)
                layer.entries.append(entry)
        contents.flush()
        pool.drain()
    for index, content in contents.results.items():
        entry = layer.entries[index]._replace(size=content.size, digest=content.digest, chunks=content.chunks)
        layer.entries[index] = entry
    return Change(tuple(layer.entries), tuple(layer.removed), tuple(layer.opaque))


class _Layer:
    def __init__(self, whiteouts: bool, devices: Literal["refuse", "drop"], mtime: MtimePolicy) -> None:
        self._whiteouts, self._devices = whiteouts, devices
        self._mtime: MtimePolicy = mtime
        self.entries: list[Entry] = []
        self.removed: list[bytes] = []
        self.opaque: list[bytes] = []

    def entry(self, member: tar.Member) -> Entry | None:
        """The entry a member stands for, contents still missing; None if it is no entry of the tree."""
        path = from_member(member.name)
        kind = _KINDS.get(member.kind)
        if kind is None:
            if member.kind in (tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE):
                if self._devices == "drop" and path.startswith(b"dev/"):
                    return None
                raise _refusal(path, "it is a device node, which no image holds")
            raise _refusal(path, f"its type {member.kind!r} is unknown or not supported")
        if self._whiteouts and self._whiteout(path):
            return None
        if not path and kind != DIRECTORY:
            raise _refusal(path, "the root must stay a folder")
        if kind == HARDLINK:
            target = from_member(member.link)
            if not target:
                raise _refusal(path, "it is a hard link to the root")
            return Entry(path, HARDLINK, target=target)
        mode = 0o777 if kind == SYMLINK else member.mode
        target = member.link if kind == SYMLINK else b""
        xattrs = tuple(sorted((key, value) for key, value in member.xattrs.items() if is_kept(key)))
        mtime_ns = policed_mtime_ns(member.mtime_ns, self._mtime)
        entry = Entry(path, kind, mode, member.uid, member.gid, mtime_ns, target=target, xattrs=xattrs)
        check_entry(entry)
        return entry

    def _whiteout(self, path: bytes) -> bool:
        parent, last = parent_of(path), path.rpartition(b"/")[2]
        if not last.startswith(_WHITEOUT):
            if any(part.startswith(_WHITEOUT) for part in parent.split(b"/")):
                raise _refusal(path, "it lies below a whiteout")
            return False
        hidden = last[len(_WHITEOUT) :]
        if last == _OPAQUE:
            self.opaque.append(parent)
        elif last.startswith(_AUFS):
            # Bookkeeping that AUFS left in old layers (.wh..wh.plnk, .wh..wh.aufs): no meaning outside it.
            pass
        elif hidden in (b"", b".", b".."):
            raise _refusal(path, "its whiteout names no file")
        else:
            self.removed.append(join(parent, hidden))
        return True


class _Contents:
    """Reads data in stream order and has it hashed and stored in threads, small files in batches."""

    def __init__(self, reader: tar.TarReader, put_blob: PutBlob | None, pool: Pool) -> None:
        self._reader, self._put_blob, self._pool = reader, put_blob, pool
        self._batch: list[tuple[int, bytes]] = []
        self._batch_bytes = 0
        self.results: dict[int, Content] = {}

    def read(self, index: int, path: bytes, size: int) -> None:
        if size > CHUNKED_ABOVE_BYTES:
            self.results[index] = self._read_chunked(size)
            return
        data = self._reader.read(size)
        if not data:
            self.results[index] = EMPTY
            return
        self._batch.append((index, data))
        self._batch_bytes += size
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_FILES:
            self.flush()

    def flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            self._pool.submit(self._job(batch))

    def _job(self, batch: list[tuple[int, bytes]]) -> Callable[[], None]:
        def job() -> None:
            for index, data in batch:
                self.results[index] = put_whole(data, self._put_blob)

        return job

    def _read_chunked(self, size: int) -> Content:
        chunked = ChunkedContent(None if self._put_blob is None else self._put_later)
        while chunk := self._reader.read(CHUNK_BYTES):
            chunked.feed(chunk)
        content = chunked.content()
        assert content.size == size
        return content

    def _put_later(self, data: bytes, /) -> str:
        put_blob = self._put_blob
        assert put_blob is not None

        def job() -> None:
            put_blob(data)

        self._pool.submit(job)
        return ""


def _refusal(path: bytes, why: str) -> InvalidError:
    return InvalidError(f"refused the entry {shown(path)}", why=why)
