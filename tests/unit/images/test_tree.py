"""Folders to manifests and back, and overlay uppers as changes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotbed_images.changes import apply
from hotbed_images.digest import digest_of
from hotbed_images.manifest import CHUNK_BYTES, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Manifest
from hotbed_images.manifest_io import manifest_digest
from hotbed_images.materialise import materialise
from hotbed_images.tree import scan
from hotbed_images.upper import change_from_upper
from hotbed_proto.errors import InvalidError


class Blobs(dict[str, bytes]):
    """A store in memory."""

    def put(self, data: bytes, /) -> str:
        name = digest_of(data)
        self[name] = bytes(data)
        return name


def a_tree(root: Path) -> Path:
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/small").write_bytes(b"hello")
    os.link(root / "usr/lib/small", root / "usr/again")
    (root / "empty").touch()
    os.symlink("usr/lib", root / "lib")
    os.mkfifo(root / "pipe", 0o640)
    (root / "suid").write_bytes(b"#!")
    os.chmod(root / "suid", 0o4755)
    with open(os.fsencode(root) + b"/\xff\xfe name", "wb") as file:
        file.write(b"x")
    with open(root / "sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(6 * CHUNK_BYTES + 99)
        file.seek(4 * CHUNK_BYTES + 1000)
        file.write(b"middle")
    (root / "readonly").mkdir()
    (root / "readonly/file").write_bytes(b"inside")
    os.utime(root / "readonly/file", ns=(1_600_000_000_123_456_789,) * 2)
    os.utime(root / "readonly", ns=(-5_000_000_001,) * 2)
    os.chmod(root / "readonly", 0o555)
    return root


@contextlib.contextmanager
def user_xattrs(path: Path) -> Iterator[bool]:
    try:
        os.setxattr(path, "user.note", b"value\0more")
        yield True
    except OSError:
        yield False


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    source, blobs = a_tree(tmp_path / "source"), Blobs()
    with user_xattrs(source / "usr/lib/small") as has_xattrs:
        manifest = scan(source, blobs.put)
    kinds = {entry.path: entry.kind for entry in manifest}
    assert kinds[b"usr/again"] == FILE and kinds[b"usr/lib/small"] == HARDLINK
    assert (kinds[b"lib"], kinds[b"pipe"], kinds[b"\xff\xfe name"]) == (SYMLINK, FIFO, FILE)
    sparse = manifest.by_path[b"sparse"]
    assert [bool(raw) for raw in sparse.chunks] == [True, False, False, False, True, False, False]
    assert manifest.by_path[b"usr/again"].xattrs == (((b"user.note", b"value\0more"),) if has_xattrs else ())

    target = tmp_path / "target"
    assert materialise(manifest, blobs.__getitem__, target) == []
    assert scan(target) == manifest
    assert os.stat(target / "usr/again").st_ino == os.stat(target / "usr/lib/small").st_ino
    assert os.stat(target / "sparse").st_blocks * 512 < 3 * CHUNK_BYTES
    assert (target / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert os.stat(target / "readonly").st_mtime_ns == -5_000_000_001


def test_the_digest_does_not_know_where_holes_lay_or_the_order_of_creation(tmp_path: Path) -> None:
    source = a_tree(tmp_path / "source")
    dense = tmp_path / "dense"
    subprocess.run(["cp", "-a", "--sparse=never", str(source), str(dense)], check=True, timeout=20)
    assert manifest_digest(scan(source)) == manifest_digest(scan(dense, threads=4))


def test_time_policies(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.utime(tmp_path / "f", ns=(1_600_000_000_123_456_789,) * 2)
    found = [scan(tmp_path, mtime=policy).by_path[b"f"].mtime_ns for policy in ("keep", "seconds", "zero")]
    assert found == [1_600_000_000_123_456_789, 1_600_000_000_000_000_000, 0]


def test_sockets_and_devices_are_refused_by_name_and_can_be_skipped(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        with pytest.raises(InvalidError, match="'sock'"):
            scan(tmp_path)
        assert len(scan(tmp_path, skip=lambda path: path == b"sock")) == 1


@pytest.mark.root
def test_device_nodes_are_refused_by_name(tmp_path: Path) -> None:
    for number in (os.makedev(1, 3), os.makedev(0, 0)):
        os.mknod(tmp_path / "null", 0o20666, number)
        with pytest.raises(InvalidError, match="'null'"):
            scan(tmp_path)
        os.unlink(tmp_path / "null")


def test_a_store_that_fails_ends_the_scan_with_its_error_and_leaks_no_descriptor(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / str(folder)).mkdir()
        (tmp_path / str(folder) / "f").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))

    def fail(_: bytes, /) -> str:
        raise OSError("store is full")

    with pytest.raises(OSError, match="store is full"):
        scan(tmp_path, fail)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_that_swaps_folders_for_links_never_leads_a_scan_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"do not read me")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/key").write_bytes(b"harmless")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "a", root / "b")
            os.symlink(secret, root / "a")
            os.unlink(root / "a")
            os.rename(root / "b", root / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    blobs = Blobs()
    try:
        for _ in range(100):
            with contextlib.suppress(InvalidError, OSError):
                scan(root, blobs.put)
    finally:
        stop.set()
        thread.join(10)
    assert set(blobs.values()) <= {b"harmless"}


def test_materialise_refuses_damaged_blobs_and_full_folders(tmp_path: Path) -> None:
    blobs = Blobs()
    manifest = scan(a_tree(tmp_path / "source"), blobs.put)
    broken = Blobs({name: b"?" * len(data) for name, data in blobs.items()})
    with pytest.raises(InvalidError, match="is damaged"):
        materialise(manifest, broken.__getitem__, tmp_path / "target")
    with pytest.raises(InvalidError, match="not empty"):
        materialise(manifest, blobs.__getitem__, tmp_path / "source")


@contextlib.contextmanager
def overlay(tmp_path: Path, base: Path, options: str) -> Iterator[tuple[Path, Path]]:
    upper, work, merged = (tmp_path / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    data = f"lowerdir={base},upperdir={upper},workdir={work}{options}"
    made = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", data, str(merged)], capture_output=True, timeout=20)
    if made.returncode:
        pytest.skip(f"no overlay here: {made.stderr!r}")
    try:
        yield upper, merged
    finally:
        subprocess.run(["umount", str(merged)], check=True, timeout=20)


@pytest.mark.root
@pytest.mark.parametrize("options", ["", ",metacopy=on,redirect_dir=on"])
def test_an_overlay_upper_applied_to_its_base_is_the_merged_tree(tmp_path: Path, options: str) -> None:
    base = tmp_path / "base"
    for path in ("keep/a", "keep/b", "gone/x", "opaque/old", "moved/deep/file", "moved/deep/other", "moved/second/f", "meta"):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(path.encode() * 100)
    with overlay(tmp_path, base, options) as (upper, merged):
        (merged / "keep/a").write_bytes(b"changed")
        (merged / "keep/b").unlink()
        subprocess.run(["rm", "-r", str(merged / "gone"), str(merged / "opaque")], check=True, timeout=20)
        (merged / "opaque").mkdir()
        (merged / "opaque/new").write_bytes(b"new")
        (merged / "parent").mkdir()
        subprocess.run(["mv", str(merged / "moved"), str(merged / "parent/renamed")], check=True, timeout=20)
        subprocess.run(
            ["mv", str(merged / "parent/renamed/deep"), str(merged / "parent/renamed/deeper")], check=True, timeout=20
        )
        (merged / "parent/renamed/deeper/other").unlink()
        (merged / "parent/renamed/added").write_bytes(b"added")
        os.chmod(merged / "meta", 0o600)
        os.link(merged / "opaque/new", merged / "linked")
        os.mkfifo(merged / "pipe")
        os.sync()
        expected = scan(merged)
        change = change_from_upper(upper)
        found = apply(scan(base), change)
        if options:
            assert change.grafts and change.stubs, "this kernel should have redirected and copied up attributes only"
    assert _comparable(found) == _comparable(expected)


def _comparable(tree: Manifest) -> list[tuple[object, ...]]:
    # Overlay shows a merged folder's own time, which is the upper's: equal. Hard-linked stubs may be told apart.
    return [(entry.path, entry.kind, entry.mode, entry.size, entry.digest, entry.target) for entry in tree]


def test_unprivileged_whiteouts_and_bookkeeping(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "d").mkdir(parents=True)
    (upper / "d/hidden").touch()
    (upper / "o").mkdir()
    try:
        os.setxattr(upper / "d", "user.overlay.opaque", b"x")
        os.setxattr(upper / "d/hidden", "user.overlay.whiteout", b"y")
        os.setxattr(upper / "o", "user.overlay.opaque", b"y")
        os.setxattr(upper / "o", "user.overlay.overlay.mine", b"1")
        os.setxattr(upper / "o", "user.overlay.origin", b"junk")
    except OSError:
        pytest.skip("no user attributes on this filesystem")
    change = change_from_upper(upper)
    assert (change.removed, change.opaque) == ((b"d/hidden",), (b"o",))
    assert {entry.path: entry.xattrs for entry in change.entries}[b"o"] == ((b"user.overlay.mine", b"1"),)
    assert all(entry.kind == DIRECTORY for entry in change.entries)
    os.setxattr(upper / "o", "user.overlay.redirect", b"/../etc")
    with pytest.raises(InvalidError, match="leads nowhere"):
        change_from_upper(upper)
