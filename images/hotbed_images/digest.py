"""Names of contents: `sha256:<hex of the plain bytes>` outside, the 32 raw bytes inside manifests."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from hotbed_proto.errors import InvalidError

RAW_BYTES: Final = 32
_PREFIX: Final = "sha256:"
_TEXT: Final = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """The name of these bytes."""
    return _PREFIX + hashlib.sha256(data).hexdigest()


def to_text(raw: bytes) -> str:
    """`sha256:<hex>` of 32 raw bytes."""
    return _PREFIX + raw.hex()


def to_raw(digest: str) -> bytes:
    """The 32 raw bytes of `sha256:<hex>`.

    Raises:
        InvalidError: Not a sha256 digest in lower-case hex.
    """
    if not _TEXT.fullmatch(digest):
        raise InvalidError(f"{digest[:100]!r} is not a content digest", fix="write it as sha256:<64 lower-case hex digits>")
    return bytes.fromhex(digest[len(_PREFIX) :])


def object_path(raw: bytes) -> bytes:
    """Where the object of a digest lies below an objects folder: `ab/cdef...`, no leading slash."""
    text = raw.hex()
    return f"{text[:2]}/{text[2:]}".encode("ascii")
