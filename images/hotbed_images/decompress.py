"""Plain, gzip or zstd streams read as plain bytes, under limits that a decompression bomb meets before it costs memory.

Both formats are driven piece by piece: gzip by asking zlib for bounded output, zstd by walking its blocks, each of which holds
at most 128 KiB. The walk also tells a whole stream from one that was cut: zstd's own stream reader takes both for an end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import zstandard

from hotbed_proto.errors import InvalidError

_READ_BYTES: Final = 256 * 1024
_OUT_BYTES: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = 0xFD2FB528
_ZSTD_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK_BYTES_MAX: Final = 128 * 1024
_WINDOW_BYTES_MAX: Final = 128 << 20
"""What zstd --long=27 writes; a decoder needs that much memory."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How much a compressed stream may become.

    Attributes:
        plain_bytes_max: Refuse to unpack more than this.
        ratio_max: Refuse more plain bytes than this many times the compressed ones, once past `ratio_from_bytes`. Real layers
            stay under 20; gzip cannot pass 1032, zstd can pass 10,000.
        ratio_from_bytes: Small streams of zeros are harmless and common in tests.
    """

    plain_bytes_max: int = 256 << 30
    ratio_max: int = 200
    ratio_from_bytes: int = 256 << 20


class PlainStream:
    """Exact reads of the plain bytes of a source whose compression is told by its first bytes.

    Args:
        source: Read from its current position to its end.
        name: What error messages call it.
    """

    def __init__(self, source: BinaryIO, name: str, limits: StreamLimits | None = None) -> None:
        self._name, self._limits = name, limits or StreamLimits()
        self._source = _Source(source, name)
        self._plain_bytes = 0
        self._buffer = b""
        self._position = 0
        start = self._source.peek(4)
        if start[:2] == _GZIP:
            self._parts = self._gzip()
        elif len(start) == 4 and _is_zstd(struct.unpack("<I", start)[0]):
            self._parts = self._zstd()
        else:
            self._parts = self._uncompressed()

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end of the stream; `count` should be at most some MiB.

        Raises:
            InvalidError: The stream is damaged, cut, or beyond a limit.
        """
        have = len(self._buffer) - self._position
        if have >= count:
            data = self._buffer[self._position : self._position + count]
            self._position += count
            return data
        parts = [self._buffer[self._position :]]
        while have < count:
            part = next(self._parts, b"")
            if not part:
                break
            parts.append(part)
            have += len(part)
        whole = b"".join(parts)
        self._buffer, self._position = whole, min(count, len(whole))
        return whole[:count]

    def _counted(self, part: bytes) -> bytes:
        self._plain_bytes += len(part)
        limits = self._limits
        if self._plain_bytes > limits.plain_bytes_max:
            raise InvalidError(
                f"refused {self._name}: it unpacks to more than {limits.plain_bytes_max} bytes",
                why="it may be a decompression bomb",
            )
        if self._plain_bytes > limits.ratio_from_bytes and self._plain_bytes > limits.ratio_max * self._source.bytes_read:
            raise InvalidError(
                f"refused {self._name}: it unpacks to more than {limits.ratio_max} times its size",
                why="it may be a decompression bomb",
            )
        return part

    def _uncompressed(self) -> Iterator[bytes]:
        while part := self._source.some():
            yield self._counted(part)

    def _gzip(self) -> Iterator[bytes]:
        while self._source.peek(1):
            unpacker = zlib.decompressobj(wbits=31)
            data = b""
            while not unpacker.eof:
                data = data or self._source.some()
                if not data:
                    raise self._damaged("its gzip stream is cut")
                try:
                    part = unpacker.decompress(data, _OUT_BYTES)
                except zlib.error as error:
                    raise self._damaged(str(error)) from error
                data = unpacker.unconsumed_tail
                if part:
                    yield self._counted(part)
            self._source.give_back(unpacker.unused_data)
            # Some writers pad the last member with zeros, as gzip itself accepts.
            if self._source.peek(1) == b"\0":
                while part := self._source.some():
                    if part.strip(b"\0"):
                        raise self._damaged("bytes follow its gzip stream")

    def _zstd(self) -> Iterator[bytes]:
        while start := self._source.peek(4):
            magic = struct.unpack("<I", start)[0] if len(start) == 4 else 0
            if magic == _ZSTD:
                yield from self._zstd_frame()
            elif magic in _ZSTD_SKIPPABLE:
                _, missing = struct.unpack("<II", self._source.take(8))
                while missing:
                    missing -= len(self._source.take(min(missing, _READ_BYTES)))
            else:
                raise self._damaged("bytes follow its zstd frames")

    def _zstd_frame(self) -> Iterator[bytes]:
        take = self._source.take
        header = take(5)
        descriptor = header[4]
        single = bool(descriptor & 0x20)
        size_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        header += take((0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + size_bytes)
        unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX).decompressobj()
        unpack: Callable[[bytes], bytes] = unpacker.decompress
        try:
            part = unpack(header)
            last = False
            while not last:
                block_header = take(3)
                number = int.from_bytes(block_header, "little")
                last, kind, size = bool(number & 1), number >> 1 & 3, number >> 3
                if kind == 3 or size > _ZSTD_BLOCK_BYTES_MAX:
                    raise self._damaged("a zstd block has an unknown type or size")
                part = unpack(block_header + take(1 if kind == 1 else size))
                if part:
                    yield self._counted(part)
            if descriptor & 4:
                part = unpack(take(4))
                if part:
                    yield self._counted(part)
        except zstandard.ZstdError as error:
            raise self._damaged(str(error)) from error
        if not unpacker.eof:
            raise self._damaged("its zstd frame is not whole")

    def _damaged(self, why: str) -> InvalidError:
        return InvalidError(f"{self._name} is damaged", why=why, fix="fetch it again")


def _is_zstd(magic: int) -> bool:
    return magic == _ZSTD or magic in _ZSTD_SKIPPABLE


class _Source:
    """The compressed bytes: buffered, counted, with a look ahead."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._source, self._name = source, name
        self._buffer = b""
        self._position = 0
        self.bytes_read = 0

    def _fill(self, count: int) -> None:
        parts = [self._buffer[self._position :]]
        have = len(parts[0])
        while have < count:
            part = self._source.read(_READ_BYTES)
            if not part:
                break
            parts.append(part)
            have += len(part)
            self.bytes_read += len(part)
        self._buffer, self._position = b"".join(parts), 0

    def peek(self, count: int) -> bytes:
        if len(self._buffer) - self._position < count:
            self._fill(count)
        return self._buffer[self._position : self._position + count]

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises: InvalidError if the source ends before."""
        data = self.peek(count)
        if len(data) < count:
            raise InvalidError(f"{self._name} is damaged", why="it is cut", fix="fetch it again")
        self._position += count
        return data

    def some(self) -> bytes:
        """Whatever is at hand, at least a byte; empty at the end."""
        if self._position == len(self._buffer):
            self._fill(1)
        data = self._buffer[self._position :]
        self._buffer, self._position = b"", 0
        return data

    def give_back(self, data: bytes) -> None:
        self._buffer, self._position = data + self._buffer[self._position :], 0
