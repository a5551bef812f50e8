"""The upper directory of an overlay, read as a change of the image below it.

What overlay writes there: a character device 0:0 (or an empty file with overlay.whiteout) hides a path, overlay.opaque hides a
folder's lower content, overlay.redirect says where a renamed folder or data-less file was, overlay.metacopy marks a file of
which only attributes were copied up. Both the trusted.* and the unprivileged user.* names are known. The rest of overlay's
own attributes is bookkeeping of that one mount and left out; escaped ones (`overlay.overlay.*`) are a container's own.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from hotbed_images.changes import Change
from hotbed_images.chunking import EMPTY, PutBlob
from hotbed_images.manifest import DIRECTORY, FILE, HARDLINK, Entry
from hotbed_images.paths import join, parent_of, shown, sort_key
from hotbed_images.tree import Found, LinkGroups, MtimePolicy, Scan, complete
from hotbed_images.xattrs import Xattrs
from hotbed_proto.errors import InvalidError

_OVERLAY: Final = (b"trusted.overlay.", b"user.overlay.")
_ESCAPED: Final = b"overlay."


def change_from_upper(
    upper: Path,
    put_blob: PutBlob | None = None,
    *,
    threads: int = 2,
    mtime: MtimePolicy = "keep",
    entries_max: int = 1_000_000,
) -> Change:
    """Read a stopped container's upper directory; new contents go to `put_blob`.

    Raises:
        InvalidError: Names the entry that no image can hold, or overlay attributes that make no sense.
    """
    reader = Scan(upper, put_blob, threads=threads, mtime=mtime, entries_max=entries_max)
    found = sorted(reader.walk(), key=lambda item: sort_key(item.entry.path))
    builder = _Builder()
    for item in found:
        builder.add(item)
    return builder.change()


class _Builder:
    def __init__(self) -> None:
        self._links = LinkGroups()
        self._entries: list[Entry] = []
        self._removed: list[bytes] = []
        self._opaque: list[bytes] = []
        self._grafts: list[tuple[bytes, bytes]] = []
        self._stubs: list[tuple[bytes, bytes]] = []
        self._origins: dict[bytes, bytes | None] = {b"": b""}
        """Where in the base a folder of the upper has its lower content; None where it has none."""

    def change(self) -> Change:
        return Change(tuple(self._entries), tuple(self._removed), tuple(self._opaque), tuple(self._grafts), tuple(self._stubs))

    def add(self, found: Found) -> None:
        overlay, kept = _split_xattrs(found.xattrs)
        path = found.entry.path
        parent_origin = self._origins[parent_of(path)]
        origin = None if parent_origin is None else join(parent_origin, path.rpartition(b"/")[2]) if path else b""
        whiteout_file = b"whiteout" in overlay and found.entry.kind == FILE and found.content == EMPTY
        if stat.S_ISCHR(found.status.st_mode) or whiteout_file:
            if parent_origin is not None:
                self._removed.append(path)
            return
        found.xattrs = kept
        owner = self._links.first(found)
        if owner != path:
            self._entries.append(Entry(path, HARDLINK, target=owner))
            return
        redirect = overlay.get(b"redirect")
        if redirect is not None:
            origin = _redirected(path, redirect, parent_origin)
        if found.entry.kind == DIRECTORY:
            # "x" only says that whiteout files may lie inside; "y" hides everything below.
            if overlay.get(b"opaque") == b"y":
                self._opaque.append(path)
                origin = None
            elif redirect is not None and origin is not None:
                self._grafts.append((path, origin))
            self._origins[path] = origin
        elif b"metacopy" in overlay and found.entry.kind == FILE:
            if origin is None:
                raise _refusal(path, "overlay says its content is below, but nothing is below")
            self._stubs.append((path, origin))
            self._entries.append(complete(found)._replace(size=0, digest=b"", chunks=()))
            return
        self._entries.append(complete(found))


def _split_xattrs(xattrs: Xattrs) -> tuple[dict[bytes, bytes], Xattrs]:
    overlay: dict[bytes, bytes] = {}
    kept: list[tuple[bytes, bytes]] = []
    for name, value in xattrs:
        prefix = next((prefix for prefix in _OVERLAY if name.startswith(prefix)), None)
        if prefix is None:
            kept.append((name, value))
            continue
        short = name[len(prefix) :]
        if short.startswith(_ESCAPED):
            kept.append((prefix + short[len(_ESCAPED) :], value))
        else:
            overlay[short] = value
    return overlay, tuple(sorted(kept))


def _redirected(path: bytes, redirect: bytes, parent_origin: bytes | None) -> bytes:
    if redirect.startswith(b"/"):
        origin = redirect.strip(b"/")
    elif parent_origin is not None and b"/" not in redirect:
        origin = join(parent_origin, redirect)
    else:
        origin = b""
    if not origin or any(part in (b"", b".", b"..") for part in origin.split(b"/")):
        raise _refusal(path, f"its overlay redirect {shown(redirect)} leads nowhere")
    return origin


def _refusal(path: bytes, why: str) -> InvalidError:
    return InvalidError(f"refused the entry {shown(path)}", why=why)
