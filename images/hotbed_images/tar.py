"""Tar streams as a sequence of members: ustar, pax and GNU long names, with names as bytes.

Not the standard library's `tarfile`: that reads a header's claimed gigabytes at once, decodes names, and was not made for
input that wants to do harm. Here a member is a value, its data is read in pieces, and nothing is ever written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from hotbed_images.decompress import PlainStream
from hotbed_images.manifest import FILE_BYTES_MAX
from hotbed_images.paths import PATH_BYTES_MAX, shown
from hotbed_proto.errors import InvalidError

REGULAR: Final = b"0"
LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER_DEVICE: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"

_BLOCK: Final = 512
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_PAX_BYTES_MAX: Final = 1024 * 1024
_LONG_NAME_BYTES_MAX: Final = PATH_BYTES_MAX + _BLOCK
_EXTENSIONS_MAX: Final = 16
"""Headers in a row that describe the next member; real ones come in twos."""
_XATTR_RECORD: Final = b"SCHILY.xattr."


@dataclass(slots=True)
class Member:
    """One member of a tar. `kind` is its type byte; a regular file's data must be read (or skipped) before the next."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class TarReader:
    """Members of a tar stream, in order.

    Args:
        stream: The plain bytes; read to their end, so that a compressed stream's own check takes place.
        name: What error messages call the archive.
        members_max: Refuse archives with more.
    """

    def __init__(self, stream: PlainStream, name: str, *, members_max: int = 1_000_000) -> None:
        self._stream, self._name, self._members_max = stream, name, members_max
        self._data_left = 0
        self._padding = 0
        self._current = b""

    def __iter__(self) -> Iterator[Member]:
        """Raises: InvalidError, naming the member, for a stream that is cut, damaged, or beyond a limit."""
        count = 0
        global_records: dict[bytes, bytes] = {}
        while (member := self._next(global_records)) is not None:
            count += 1
            if count > self._members_max:
                raise self._damaged(f"it has more than {self._members_max} entries")
            self._current = member.name
            yield member
            while self.read(1 << 20):
                pass
            self._skip_padding()
        # What follows the end mark is padding; reading it out makes gzip and zstd verify their checksums.
        while self._stream.read(1 << 20):
            pass

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of the current member's data, fewer only at its end."""
        count = min(count, self._data_left)
        if not count:
            return b""
        data = self._stream.read(count)
        if len(data) != count:
            raise self._damaged("it is cut")
        self._data_left -= count
        return data

    def _next(self, global_records: dict[bytes, bytes]) -> Member | None:
        local: dict[bytes, bytes] = {}
        long_name = long_link = None
        for _ in range(_EXTENSIONS_MAX):
            block = self._stream.read(_BLOCK)
            if len(block) != _BLOCK:
                raise self._damaged("it is cut: it has no end mark")
            if block.count(0) == _BLOCK:
                if local or long_name or long_link:
                    raise self._damaged("it ends after a header that describes a further entry")
                return None
            member, prefix = self._header(block)
            if member.kind in b"xg":
                records = self._pax_records(self._extension(member, _PAX_BYTES_MAX))
                (global_records if member.kind == b"g" else local).update(records)
            elif member.kind == b"L":
                long_name = self._extension(member, _LONG_NAME_BYTES_MAX).rstrip(b"\0")
            elif member.kind == b"K":
                long_link = self._extension(member, _LONG_NAME_BYTES_MAX).rstrip(b"\0")
            else:
                if prefix:
                    member.name = prefix + b"/" + member.name
                member.name = long_name if long_name is not None else member.name
                member.link = long_link if long_link is not None else member.link
                self._apply_records(member, {**global_records, **local})
                return self._begin(member)
        raise self._damaged(f"more than {_EXTENSIONS_MAX} headers describe one entry")

    def _header(self, block: bytes) -> tuple[Member, bytes]:
        stored = self._number(block[148:156], "checksum")
        unsigned = sum(block) - sum(block[148:156]) + 8 * 32
        if stored != unsigned and stored != _signed_sum(block):
            raise self._damaged(f"the header after {shown(self._current)} has a wrong checksum")
        name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, _, major, minor, prefix = _HEADER.unpack(block)
        name = _text(name)
        self._current = name
        member = Member(
            name,
            REGULAR if kind in b"\x007" else kind,
            self._number(mode, "mode") & 0o7777,
            self._number(uid, "uid"),
            self._number(gid, "gid"),
            self._number(size, "size"),
            self._number(mtime, "mtime") * 10**9,
            _text(link),
        )
        if kind in (CHARACTER_DEVICE, BLOCK_DEVICE):
            member.device = (self._number(major, "device"), self._number(minor, "device"))
        # GNU's own format keeps times where ustar has the prefix.
        return member, _text(prefix) if magic == b"ustar\0" else b""

    def _begin(self, member: Member) -> Member:
        self._current = member.name
        if member.kind == REGULAR and member.name.endswith(b"/"):
            # Old tars have no type for folders.
            member.kind = DIRECTORY
        if member.kind != REGULAR:
            # As GNU tar and Go do: a size in these headers says nothing about data that follows.
            member.size = 0
        if not 0 <= member.size <= FILE_BYTES_MAX:
            raise self._damaged(f"the size {member.size} of {shown(member.name)} is out of range")
        self._data_left = member.size
        self._padding = -member.size % _BLOCK
        return member

    def _extension(self, member: Member, bytes_max: int) -> bytes:
        if not 0 <= member.size <= bytes_max:
            raise self._damaged(f"the header {shown(member.name)} claims {member.size} bytes, the limit is {bytes_max}")
        self._data_left, self._padding = member.size, -member.size % _BLOCK
        data = self.read(member.size)
        self._skip_padding()
        return data

    def _skip_padding(self) -> None:
        if len(self._stream.read(self._padding)) != self._padding:
            raise self._damaged("it is cut")
        self._padding = 0

    def _pax_records(self, data: bytes) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 20)
            digits = data[position:space] if space > 0 else b""
            end = position + int(digits) if digits.isdigit() else 0
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
                raise self._damaged("a pax header is malformed")
            records[key] = value
            position = end
        return records

    def _apply_records(self, member: Member, records: dict[bytes, bytes]) -> None:
        for key, value in records.items():
            if key == b"path":
                member.name = value
            elif key == b"linkpath":
                member.link = value
            elif key in (b"size", b"uid", b"gid"):
                if not value.isdigit() or len(value) > 19:
                    raise self._damaged(f"a pax header of {shown(member.name)} has the {key.decode()} {shown(value)}")
                setattr(member, key.decode(), int(value))
            elif key == b"mtime":
                member.mtime_ns = self._time_ns(value)
            elif key.startswith(_XATTR_RECORD):
                member.xattrs[key[len(_XATTR_RECORD) :]] = value
            elif key.startswith(b"GNU.sparse."):
                raise InvalidError(
                    f"refused the entry {shown(member.name)}",
                    why="it is stored in GNU tar's sparse format, which OCI layers do not use",
                    fix="pack the archive again without --sparse",
                )

    def _number(self, field_bytes: bytes, what: str) -> int:
        if field_bytes[0] in (0x80, 0xFF):
            # Base 256: GNU's way past the octal digits; 0xff begins a negative number.
            number = int.from_bytes(field_bytes[1:], "big")
            return number if field_bytes[0] == 0x80 else number - (1 << 8 * (len(field_bytes) - 1))
        digits = field_bytes.partition(b"\0")[0].strip(b" ")
        if digits and digits.strip(b"01234567"):
            raise self._damaged(f"the {what} of {shown(self._current)} is not a number")
        return int(digits, 8) if digits else 0

    def _time_ns(self, value: bytes) -> int:
        whole, _, fraction = value.partition(b".")
        digits = whole.removeprefix(b"-")
        if not digits.isdigit() or len(digits) > 12 or (fraction and not fraction.isdigit()) or len(fraction) > 40:
            raise self._damaged(f"the time {shown(value)} of {shown(self._current)} is not a number")
        size = int(digits) * 10**9 + int(fraction[:9].ljust(9, b"0"))
        return -size if whole.startswith(b"-") else size

    def _damaged(self, why: str) -> InvalidError:
        at = f" near {shown(self._current)}" if self._current else ""
        return InvalidError(f"{self._name} is damaged{at}", why=why, fix="fetch it again, or pack it anew")


def _text(field_bytes: bytes) -> bytes:
    return field_bytes.partition(b"\0")[0]


def _signed_sum(block: bytes) -> int:
    """The checksum as some old tars computed it, with signed characters."""
    rest = block[:148] + block[156:]
    return sum(rest) - 256 * sum(byte > 127 for byte in rest) + 8 * 32
