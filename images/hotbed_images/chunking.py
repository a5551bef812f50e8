"""Contents on their way into a store: whole below 1 MiB, in fixed 256 KiB chunks above.

Fixed chunks, because measured on three Python images content-defined ones saved 0.1 % over whole files: chunks are for
reading a large library lazily, not for finding more duplicates.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from hotbed_images.manifest import CHUNK_BYTES, CHUNKED_ABOVE_BYTES

ZERO_CHUNK: Final = bytes(CHUNK_BYTES)


class PutBlob(Protocol):
    """Stores plain bytes under their sha256 and returns `sha256:<hex>`; called from several threads at once."""

    def __call__(self, data: bytes, /) -> str: ...


class Content(NamedTuple):
    """What a manifest says of a file's bytes: plain size, raw digest (`b""` if empty) and chunk list."""

    size: int
    digest: bytes = b""
    chunks: tuple[bytes, ...] = ()


EMPTY: Final = Content(0)


def put_whole(data: bytes, put_blob: PutBlob | None) -> Content:
    """Content of a file of at most CHUNKED_ABOVE_BYTES, stored as one blob (or only hashed)."""
    if not data:
        return EMPTY
    digest = hashlib.sha256(data).digest()
    if put_blob is not None:
        put_blob(data)
    return Content(len(data), digest)


class ChunkedContent:
    """Gathers a large file given in order; feed CHUNK_BYTES at a time, the last may be shorter."""

    def __init__(self, put_blob: PutBlob | None) -> None:
        self._put_blob = put_blob
        self._whole = hashlib.sha256()
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        self._whole.update(chunk)
        self._size += len(chunk)
        if chunk == (ZERO_CHUNK if len(chunk) == CHUNK_BYTES else bytes(len(chunk))):
            # Decided by content, never by what a filesystem calls a hole: manifests must not depend on where a tree lay.
            self._chunks.append(b"")
            return
        self._chunks.append(hashlib.sha256(chunk).digest())
        if self._put_blob is not None:
            self._put_blob(chunk)

    def content(self) -> Content:
        assert self._size > CHUNKED_ABOVE_BYTES
        return Content(self._size, self._whole.digest(), tuple(self._chunks))


def put_open_file(fd: int, size: int, put_blob: PutBlob | None) -> Content | None:
    """Content of an open regular file of `size` bytes; None if it turned out shorter or longer. Holes are not read."""
    if size <= CHUNKED_ABOVE_BYTES:
        data = os.pread(fd, size + 1, 0)
        return put_whole(data, put_blob) if len(data) == size else None
    chunked = ChunkedContent(put_blob)
    data_from = 0
    for start in range(0, size, CHUNK_BYTES):
        length = min(CHUNK_BYTES, size - start)
        if data_from < start + length:
            data_from = _next_data(fd, start, size)
        if data_from >= start + length:
            chunked.feed(ZERO_CHUNK[:length])
            continue
        chunk = os.pread(fd, length, start)
        if len(chunk) != length:
            return None
        chunked.feed(chunk)
    return chunked.content() if os.fstat(fd).st_size == size else None


def _next_data(fd: int, start: int, size: int) -> int:
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError:
        # ENXIO: only hole up to the end. Anything else: a filesystem without holes, where all is data.
        return size if os.fstat(fd).st_size > start and _has_holes(fd) else start


def _has_holes(fd: int) -> bool:
    status = os.fstat(fd)
    return status.st_blocks * 512 < status.st_size


class Pool:
    """Threads for hashing and storing, with at most `waiting_max` jobs under way; the first failure comes out of `submit`
    or `drain`. A context manager: leaving it waits for all jobs, which on an error should end at once by themselves."""

    def __init__(self, threads: int, waiting_max: int = 64) -> None:
        self._executor = ThreadPoolExecutor(max(1, threads), thread_name_prefix="hotbed-ingest")
        self._waiting: deque[Future[None]] = deque()
        self._waiting_max = waiting_max

    def submit(self, job: Callable[[], None]) -> None:
        while len(self._waiting) >= self._waiting_max:
            self._waiting.popleft().result()
        self._waiting.append(self._executor.submit(job))

    def drain(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        # Not cancelled: a job may own a descriptor that only running it closes.
        self._executor.shutdown(wait=True)
