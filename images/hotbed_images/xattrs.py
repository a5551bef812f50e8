"""Which extended attributes belong to an image, and how they read from and are written to open files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Final

KEPT_PREFIXES: Final = (b"user.", b"trusted.")
KEPT_NAMES: Final = frozenset({b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"})
"""Not security.selinux, security.ima and the like: they are a host's policy, and would make digests differ between hosts."""
_NONE: Final = (errno.ENOTSUP, errno.ENODATA, errno.EPERM)

Xattrs = tuple[tuple[bytes, bytes], ...]


def is_kept(name: bytes) -> bool:
    """Whether an image records an attribute of this name."""
    return name.startswith(KEPT_PREFIXES) or name in KEPT_NAMES


def read_xattrs(file: int | bytes, *, keep: Callable[[bytes], bool] = is_kept) -> Xattrs:
    """Kept attributes of an open file, or of a path whose last name is not followed; sorted. Cost: 1 us if there are none."""
    follow = isinstance(file, int)
    try:
        listed = os.listxattr(file, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NONE:
            return ()
        raise
    if not listed:
        return ()
    names = sorted(name for name in map(os.fsencode, listed) if keep(name))
    return tuple((name, os.getxattr(file, name, follow_symlinks=follow)) for name in names)


def write_xattrs(file: int | bytes, pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Set attributes; returns the names that this filesystem or user may not set (no error: a fallback tree lives without)."""
    refused: list[bytes] = []
    for name, value in pairs:
        try:
            os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
        except OSError as error:
            if error.errno not in (*_NONE, errno.EINVAL):
                raise
            refused.append(name)
    return refused
