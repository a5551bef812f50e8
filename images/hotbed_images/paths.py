"""Paths inside images: bytes without a leading slash, `b""` is the root. Nothing here touches a disk."""

from __future__ import annotations

from typing import Final

from hotbed_proto.errors import InvalidError

NAME_BYTES_MAX: Final = 255
"""NAME_MAX of every Linux filesystem an image is mounted from or written to."""
PATH_BYTES_MAX: Final = 4095
"""PATH_MAX without its NUL: a longer path could be stored but never opened."""
TARGET_BYTES_MAX: Final = 4095
DEPTH_MAX: Final = 256
"""Folders below each other. The deepest node_modules trees seen stay under 60; walks keep one descriptor a level."""


def shown(path: bytes) -> str:
    """A path as an error message shows it: quoted, non-UTF-8 bytes escaped, cut at 200 characters."""
    text = path.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else text[:200] + "...")


def sort_key(path: bytes) -> bytes:
    """Canonical order: depth first, parents before children, siblings bytewise.

    `/` becomes NUL, which no name holds and which sorts before every other byte.
    """
    return path.replace(b"/", b"\0")


def parent_of(path: bytes) -> bytes:
    """The folder a path lies in; the root's is the root."""
    return path.rpartition(b"/")[0]


def join(parent: bytes, name: bytes) -> bytes:
    """A name inside a folder."""
    return parent + b"/" + name if parent else name


def check_path(path: bytes) -> None:
    """Refuse a path that no image may hold.

    Raises:
        InvalidError: Empty, `.` or `..` components, NUL, a leading slash, or a limit passed.
    """
    if not path:
        return
    why = ""
    parts = path.split(b"/")
    if len(path) > PATH_BYTES_MAX:
        why = f"the path has {len(path)} bytes, the limit is {PATH_BYTES_MAX}"
    elif len(parts) > DEPTH_MAX:
        why = f"it lies {len(parts)} folders deep, the limit is {DEPTH_MAX}"
    elif b"\0" in path:
        why = "it holds a NUL byte"
    elif b"" in parts:
        why = "it has an empty component"
    elif b"." in parts or b".." in parts:
        why = "it has a component . or .."
    elif any(len(part) > NAME_BYTES_MAX for part in parts):
        why = f"a name has more than {NAME_BYTES_MAX} bytes"
    if why:
        raise InvalidError(f"refused the entry {shown(path)}", why=why)


def from_member(name: bytes) -> bytes:
    """The image path an archive member's name stands for: `./usr//bin/` is `usr/bin`.

    Raises:
        InvalidError: Absolute, with a `..` component, or beyond a limit; names the member.
    """
    if name.startswith(b"/"):
        raise InvalidError(f"refused the entry {shown(name)}", why="its path is absolute")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidError(f"refused the entry {shown(name)}", why="its path leads upwards with ..")
    path = b"/".join(parts)
    check_path(path)
    return path
