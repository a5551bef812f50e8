"""Content-addressed bytes in any fsspec store, zstd-compressed, named by the sha256 of their plain bytes.

A blob is written under a temporary name and renamed, so a name never shows half a blob. Reading verifies both the declared
size (a decompression bomb ends there) and the digest. All methods block; the server calls them in threads. Memory: one
part (about 1 MiB) a transfer.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from typing import Any

import fsspec
import zstandard

from hotbed_proto.errors import DeserializationError, InvalidError, NotFoundError, RequestSizeError

PART_BYTES = 1024 * 1024
BLOB_BYTES_MAX = 64 * 2**30
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAGIC = b"hotbed1\n"
_HEADER_BYTES = len(_MAGIC) + 8


def check_digest(digest: str) -> str:
    """Return a well-formed "sha256:<64 hex digits>" unchanged.

    Raises:
        InvalidError: It is not one (and could be a path into the store).
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidError(f"not a blob digest: {digest[:80]!r}", fix="send 'sha256:' and 64 lower-case hex digits")
    return digest


class BlobStore:
    """Blobs under one URL.

    Args:
        url: Anything fsspec opens: a directory, "memory://name", "s3://bucket/prefix".
        size_max: Largest plain size of one blob.
    """

    def __init__(self, url: str, size_max: int = BLOB_BYTES_MAX) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._size_max = size_max
        self._fs.makedirs(f"{self._root}/partial", exist_ok=True)

    def _path(self, digest: str) -> str:
        name = check_digest(digest).removeprefix("sha256:")
        return f"{self._root}/{name[:2]}/{name[2:]}"

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return bool(self._fs.exists(self._path(digest)))

    def missing(self, digests: list[str]) -> list[str]:
        """Those that are not there, in order."""
        return [digest for digest in digests if not self.has(digest)]

    def writer(self, size_bytes: int, digest: str = "") -> BlobWriter:
        """Begin a blob of exactly `size_bytes` plain bytes; `digest`, where given, must come out.

        Raises:
            RequestSizeError: Over the limit.
        """
        if size_bytes > self._size_max:
            raise RequestSizeError(
                f"a blob of {size_bytes} bytes is over the limit of {self._size_max}", fix="split the data, or use a volume"
            )
        if digest:
            check_digest(digest)
        return BlobWriter(self, size_bytes, digest)

    def put(self, data: bytes) -> str:
        """Store bytes held in memory; returns the digest. Repeating it is free."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.has(digest):
            with self.writer(len(data), digest) as writer:
                for start in range(0, len(data), PART_BYTES):
                    writer.write(data[start : start + PART_BYTES])
        return digest

    def get(self, digest: str) -> bytes:
        """The whole blob in memory; see `parts`."""
        return b"".join(self.parts(digest))

    def parts(self, digest: str) -> Iterator[bytes]:
        """The blob in parts of at most 1 MiB. The last part is given only after size and digest were found right.

        Raises:
            NotFoundError: Not stored.
            DeserializationError: The stored bytes are damaged.
        """
        path = self._path(digest)
        try:
            file = self._fs.open(path, "rb")
        except FileNotFoundError:
            raise NotFoundError(f"no blob {digest}", fix="upload it again") from None
        with file:
            header = file.read(_HEADER_BYTES)
            size = int.from_bytes(header[len(_MAGIC) :], "little")
            if not header.startswith(_MAGIC) or len(header) != _HEADER_BYTES or size > self._size_max:
                raise _damaged(digest, "its header is not one of ours")
            yield from _verified(zstandard.ZstdDecompressor().stream_reader(file, closefd=False), size, digest)

    def size(self, digest: str) -> int:
        """Plain size in bytes as declared in the header. NotFoundError when not stored."""
        try:
            with self._fs.open(self._path(digest), "rb") as file:
                return int.from_bytes(file.read(_HEADER_BYTES)[len(_MAGIC) :], "little")
        except FileNotFoundError:
            raise NotFoundError(f"no blob {digest}", fix="upload it again") from None

    def delete(self, digest: str) -> None:
        """Remove it; no error when it is not there."""
        path = self._path(digest)
        if self._fs.exists(path):
            self._fs.rm(path)


def _damaged(digest: str, why: str) -> DeserializationError:
    return DeserializationError(f"the stored blob {digest} is damaged", why=why, fix="delete it and upload it again")


def _verified(reader: Any, size: int, digest: str) -> Iterator[bytes]:
    summed, left, held = hashlib.sha256(), size, b""
    try:
        while left:
            part = reader.read(min(PART_BYTES, left))
            if not part:
                raise _damaged(digest, f"{left} of {size} bytes are missing")
            left -= len(part)
            summed.update(part)
            if held:
                yield held
            held = part
        if reader.read(1):
            raise _damaged(digest, f"it unpacks to more than its {size} bytes")
    except zstandard.ZstdError as error:
        raise _damaged(digest, str(error)) from error
    if f"sha256:{summed.hexdigest()}" != digest:
        raise _damaged(digest, "its bytes do not have its sha256")
    if held:
        yield held


class BlobWriter:
    """One upload: `write` parts, then `commit`; leaving the `with` block by an exception discards it."""

    def __init__(self, store: BlobStore, size_bytes: int, digest: str) -> None:
        self._store = store
        self._fs = store._fs
        self._size, self._wanted = size_bytes, digest
        self._left = size_bytes
        self._sum = hashlib.sha256()
        self._temporary = f"{store._root}/partial/{secrets.token_hex(16)}"
        self._file: Any = self._fs.open(self._temporary, "wb")
        self._file.write(_MAGIC + size_bytes.to_bytes(8, "little"))
        self._pack = zstandard.ZstdCompressor(level=3).compressobj()
        self.size_bytes = size_bytes
        self.digest = ""
        """The blob's digest; set by `commit`."""

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None and not self.digest:
            self.commit()
        elif not self.digest:
            self.discard()

    def write(self, data: bytes) -> None:
        """Add a part. RequestSizeError when there is more than was declared."""
        self._left -= len(data)
        if self._left < 0:
            raise RequestSizeError(f"the blob has more bytes than the {self._size} declared")
        self._sum.update(data)
        self._file.write(self._pack.compress(data))

    def commit(self) -> str:
        """Give the blob its name; returns the digest. InvalidError when size or digest are not those declared."""
        digest = f"sha256:{self._sum.hexdigest()}"
        if self._left or (self._wanted and self._wanted != digest):
            self.discard()
            what = f"{self._left} bytes are missing" if self._left else f"its sha256 is {digest}"
            raise InvalidError("the blob is not what was declared", why=what, fix="send it again")
        self._file.write(self._pack.flush())
        self._file.close()
        path = self._store._path(digest)
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        self._fs.mv(self._temporary, path)
        self.digest = digest
        return digest

    def discard(self) -> None:
        """Drop what was written."""
        self._file.close()
        if self._fs.exists(self._temporary):
            self._fs.rm(self._temporary)
