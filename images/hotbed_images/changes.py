"""What one build step, layer or container changed in a tree, and how two trees differ.

`apply(base, change)` and `diff(base, other)` work on manifests alone. No disk is involved, so a hostile change can at most
produce an odd tree or a refusal: symlinks are resolved inside the index, with `/` as the root that `..` cannot leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hotbed_images.manifest import DIRECTORY, FILE, HARDLINK, ROOT, SYMLINK, Entry, Manifest, check_entry
from hotbed_images.paths import check_path, join, parent_of, shown, sort_key
from hotbed_proto.errors import InvalidError

SYMLINKS_MAX: Final = 40
"""Links followed for one path, as in the kernel."""
_RUNTIME_FOLDERS: Final = (b"dev", b"proc", b"sys")
EMPTY_MANIFEST: Final = Manifest((ROOT,))


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a tree, applied as: grafts and clearing of opaque folders, then removals, then entries in order.

    Attributes:
        entries: New or changed entries; of several with one path the last counts. A hard link may lead to a path of the base.
        removed: Paths taken out of the base with all below them.
        opaque: Folders whose content in the base is hidden.
        grafts: (path, path in the base) of folders that were renamed: they begin as a copy of what the base has there.
        stubs: (path, path in the base) of files of which only attributes changed: their content is the base's.
    """

    entries: tuple[Entry, ...] = ()
    removed: tuple[bytes, ...] = ()
    opaque: tuple[bytes, ...] = ()
    grafts: tuple[tuple[bytes, bytes], ...] = ()
    stubs: tuple[tuple[bytes, bytes], ...] = ()


def apply(base: Manifest, change: Change, *, entries_max: int = 4_000_000) -> Manifest:
    """The tree that a change makes of a base.

    Missing parents become folders (0755, root); parents that are symlinks are followed inside the tree, as when a layer
    is unpacked in a chroot. dev, proc and sys must stay folders, since every runtime mounts over them.

    Raises:
        InvalidError: Names the entry that cannot be applied. Cost: about 3 us per entry of base and change.
    """
    tree = _Tree(base, entries_max)
    # Copies are taken before anything changes. Then outer paths come first: a new folder's opaque mark must not empty what
    # was renamed into it, while one inside a renamed folder must.
    grafted = {path: tree.copy_below(source, path) for path, source in change.grafts}
    for path in sorted({*grafted, *change.opaque}, key=sort_key):
        if path in grafted:
            tree.graft(path, grafted[path])
        else:
            tree.clear(path)
    for path in change.removed:
        tree.remove(path)
    stubs = dict(change.stubs)
    for entry in change.entries:
        source = stubs.get(entry.path)
        tree.put(entry if source is None else _with_content(entry, base, source))
    for path in _RUNTIME_FOLDERS:
        node = tree.nodes.get(path)
        if node is not None and node.kind != DIRECTORY:
            raise _refusal(path, "dev, proc and sys must be folders: runtimes mount over them")
    return tree.manifest()


def diff(base: Manifest, other: Manifest) -> Change:
    """The smallest change such that `apply(base, diff(base, other)) == other`. Cost: about 0.5 us an entry."""
    before, after = base.by_path, other.by_path
    removed: list[bytes] = []
    for entry in base.entries:
        path = entry.path
        if path not in after:
            parent = after.get(parent_of(path))
            if parent is not None and parent.kind == DIRECTORY:
                removed.append(path)
    entries: list[Entry] = []
    renewed: set[bytes] = set()
    for entry in other.entries:
        # A link to a file that is written anew must be made anew, or it would keep the old inode.
        if before.get(entry.path) != entry or (entry.kind == HARDLINK and entry.target in renewed):
            entries.append(entry)
            renewed.add(entry.path)
    return Change(tuple(entries), tuple(removed))


def _with_content(entry: Entry, base: Manifest, source: bytes) -> Entry:
    origin = base.get(source)
    if origin is None or origin.kind != FILE:
        raise _refusal(entry.path, f"only its attributes changed, but the base has no file {shown(source)}")
    return entry._replace(size=origin.size, digest=origin.digest, chunks=origin.chunks)


class _Tree:
    """A tree being changed. Paths that share a node object are hard links of each other; a node's own path means nothing."""

    def __init__(self, base: Manifest, entries_max: int) -> None:
        nodes: dict[bytes, Entry] = {}
        children: dict[bytes, set[bytes]] = {}
        for entry in base.entries:
            path = entry.path
            nodes[path] = nodes[entry.target] if entry.kind == HARDLINK else entry
            if entry.kind == DIRECTORY:
                children[path] = set()
            if path:
                children[parent_of(path)].add(path)
        self.nodes, self._children, self._entries_max = nodes, children, entries_max
        self._copied = 0

    def put(self, entry: Entry) -> None:
        path = self._resolve(entry.path, create=True)
        entry = entry if path == entry.path else entry._replace(path=path)
        check_entry(entry)
        node = entry
        if entry.kind == HARDLINK:
            node = self._link_target(entry)
            if node is self.nodes.get(path):
                return
        old = self.nodes.get(path)
        if old is not None and not (old.kind == DIRECTORY and node.kind == DIRECTORY):
            if not path:
                raise _refusal(path, "the root must stay a folder")
            self._drop(path)
            old = None
        self.nodes[path] = node
        if old is None:
            self._attach(path, node)

    def remove(self, path: bytes) -> None:
        path = self._resolve(path)
        if not path:
            raise _refusal(path, "the root cannot be removed")
        if path in self.nodes:
            self._drop(path)

    def clear(self, path: bytes) -> None:
        for child in list(self._children.get(self._resolve(path), ())):
            self._drop(child)

    def copy_below(self, source: bytes, path: bytes) -> list[tuple[bytes, Entry]]:
        """What lies at and below a folder, parents first, named as if it lay at another path."""
        node = self.nodes.get(source)
        if node is None or node.kind != DIRECTORY or not source:
            raise _refusal(path, f"it was renamed from {shown(source)}, which is no folder of the base")
        copied = [(path + old[len(source) :], self.nodes[old]) for old in self._below(source)]
        self._copied += len(copied)
        if self._copied > self._entries_max:
            raise _refusal(path, f"renamed folders would hold more than {self._entries_max} entries")
        return copied

    def graft(self, path: bytes, nodes: list[tuple[bytes, Entry]]) -> None:
        # An upper directory has only real folders above what it holds; in the base something else may lie there.
        parts = path.split(b"/")
        for end in range(1, len(parts)):
            above = b"/".join(parts[:end])
            node = self.nodes.get(above)
            if node is not None and node.kind != DIRECTORY:
                self._drop(above)
                node = None
            if node is None:
                self.nodes[above] = ROOT._replace(path=above)
                self._attach(above, self.nodes[above])
        if path in self.nodes:
            self._drop(path)
        for new, node in nodes:
            check_path(new)
            self.nodes[new] = node
            self._attach(new, node)

    def manifest(self) -> Manifest:
        first: dict[int, bytes] = {}
        entries: list[Entry] = []
        for path in self._below(b""):
            node = self.nodes[path]
            if node.kind != DIRECTORY:
                owner = first.setdefault(id(node), path)
                if owner is not path:
                    entries.append(Entry(path, HARDLINK, target=owner))
                    continue
            entries.append(node if node.path == path else node._replace(path=path))
        return Manifest(tuple(entries))

    def _link_target(self, entry: Entry) -> Entry:
        node = self.nodes.get(self._resolve(entry.target))
        if node is None or node.kind == DIRECTORY:
            raise _refusal(entry.path, f"it is a hard link to {shown(entry.target)}, which is no file of this image")
        return node

    def _attach(self, path: bytes, node: Entry) -> None:
        if len(self.nodes) > self._entries_max:
            raise _refusal(path, f"the image would have more than {self._entries_max} entries")
        self._children[parent_of(path)].add(path)
        if node.kind == DIRECTORY:
            self._children.setdefault(path, set())

    def _drop(self, path: bytes) -> None:
        for below in [*self._below(path)]:
            del self.nodes[below]
            self._children.pop(below, None)
        self._children[parent_of(path)].discard(path)

    def _below(self, path: bytes) -> Iterator[bytes]:
        """The path and all below it, in canonical order: siblings bytewise, depth first."""
        pending = [path]
        while pending:
            at = pending.pop()
            yield at
            below = self._children.get(at)
            if below:
                pending += sorted(below, reverse=True)

    def _resolve(self, path: bytes, *, create: bool = False) -> bytes:
        """The path with every symlink among its parents followed inside the tree; the last name is not followed.

        With `create`, missing parents are made. Without, they are kept as given: nothing lies there.
        """
        parent = parent_of(path)
        if not path:
            return path
        node = self.nodes.get(parent)
        if node is not None and node.kind == DIRECTORY:
            return path
        followed = 0
        pending = path.split(b"/")[::-1]
        name, pending = pending[0], pending[1:]
        at = b""
        while pending:
            part = pending.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                at = parent_of(at)
                continue
            step = join(at, part)
            node = self.nodes.get(step)
            if node is None:
                if create:
                    check_path(step)
                    self.nodes[step] = ROOT._replace(path=step)
                    self._attach(step, self.nodes[step])
            elif node.kind == SYMLINK:
                followed += 1
                if followed > SYMLINKS_MAX or len(pending) > 4096:
                    raise _refusal(path, "its parents are symlinks in a circle")
                if node.target.startswith(b"/"):
                    at = b""
                pending += node.target.split(b"/")[::-1]
                continue
            elif node.kind != DIRECTORY:
                if not create:
                    return path
                raise _refusal(path, f"its parent {shown(step)} is not a folder")
            at = step
        resolved = join(at, name)
        check_path(resolved)
        return resolved


def _refusal(path: bytes, why: str) -> InvalidError:
    return InvalidError(f"refused the entry {shown(path)}", why=why)
