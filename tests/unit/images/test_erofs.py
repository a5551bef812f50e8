"""The metadata image: judged by erofs-utils and by the kernel itself."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import random
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from hotbed_images.digest import digest_of, object_path, to_raw
from hotbed_images.erofs import crc32c, erofs_image
from hotbed_images.manifest import DIRECTORY, FILE, SYMLINK, Entry, Manifest
from hotbed_images.materialise import materialise
from hotbed_images.tree import scan
from hotbed_proto.errors import InvalidError

from .test_manifest import a_file, trees

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY = 1
needs_fsck = pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="fsck.erofs (erofs-utils) is not installed")


def mount(source: str, target: Path, kind: str, flags: int, data: str) -> int:
    """mount(2) itself: mount(8) would make a loop device for a file. Returns errno, 0 if it worked."""
    done = _LIBC.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() or None)
    return ctypes.get_errno() if done else 0


@contextlib.contextmanager
def mounted(source: str, target: Path, kind: str, data: str = "") -> Iterator[Path]:
    target.mkdir()
    failed = mount(source, target, kind, _MS_RDONLY, data)
    if failed:
        pytest.skip(f"this kernel does not mount {kind} so: {os.strerror(failed)}")
    try:
        yield target
    finally:
        assert _LIBC.umount2(os.fsencode(target), 0) == 0, "the mount must not stay behind"


def test_crc32c() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def test_equal_manifests_give_equal_images() -> None:
    tree = Manifest.build([a_file(b"f"), Entry(b"d", DIRECTORY)])
    assert erofs_image(tree) == erofs_image(Manifest.build(reversed(tree.entries)))


@needs_fsck
@settings(max_examples=25, deadline=None)
@given(trees())
def test_fsck_accepts_any_tree(tmp_path_factory: pytest.TempPathFactory, tree: Manifest) -> None:
    image = tmp_path_factory.mktemp("erofs") / "image"
    image.write_bytes(erofs_image(tree))
    done = subprocess.run(["fsck.erofs", str(image)], capture_output=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr


def _awkward_tree(folders: int = 40) -> Manifest:
    """Folders whose names just fit and just do not fit a block, links of every length, attributes of every size."""
    rng = random.Random(7)
    entries: list[Entry] = []
    for index in range(folders):
        path = b"d%03d" % index
        entries.append(Entry(path, DIRECTORY, 0o755, xattrs=((b"user.pad", bytes(rng.randrange(1, 3000))),)))
        for child in range(rng.choice((0, 1, 15, 16, 40, 300))):
            entries.append(a_file(path + b"/%03d" % child + b"n" * rng.randrange(0, 250), rng.randrange(0, 5000), mode=0o644))
    entries += [Entry(b"s%04d" % size, SYMLINK, 0o777, target=b"t" * size) for size in (1, 60, 2048, 2049, 3970, 4095)]
    return Manifest.build(entries)


@needs_fsck
def test_fsck_accepts_awkward_sizes_and_extracts_every_name(tmp_path: Path) -> None:
    tree = _awkward_tree()
    (tmp_path / "image").write_bytes(erofs_image(tree))
    done = subprocess.run(["fsck.erofs", str(tmp_path / "image")], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ids_are_shifted_also_inside_attributes() -> None:
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in ((1, 7, 0xFFFFFFFF), (2, 7, 33), (8, 5, 44)))
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    xattrs = ((b"security.capability", capability), (b"system.posix_acl_access", acl))
    tree = Manifest.build([a_file(b"f", uid=7, gid=8, xattrs=xattrs)])
    image = erofs_image(tree, id_shift=100_000)
    assert struct.pack("<II", 100_007, 100_008) in image
    assert struct.pack("<HHI", 2, 7, 100_033) in image and struct.pack("<HHI", 1, 7, 0xFFFFFFFF) in image
    assert struct.pack("<I", 0x03000001) + capability[4:] + struct.pack("<I", 100_000) in image
    assert erofs_image(tree) != image
    for broken in (
        a_file(b"f", uid=0xFFFFFFFE),
        a_file(b"f", xattrs=((b"system.posix_acl_access", acl[:-4] + b"\xfe\xff\xff\xff"),)),
    ):
        with pytest.raises(InvalidError, match="cannot be shifted"):
            erofs_image(Manifest.build([broken]), id_shift=100_000)


def test_attributes_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(InvalidError, match="refused the entry 'f'"):
        erofs_image(Manifest.build([a_file(b"f", xattrs=((b"other.name", b""),))]))


def test_forty_thousand_inodes_take_less_than_seconds() -> None:
    entries = [Entry(b"d%03d" % index, DIRECTORY, 0o755) for index in range(400)]
    entries += [a_file(b"d%03d/file-%d" % (index % 400, index), index + 1) for index in range(43_600)]
    tree = Manifest.build(entries)
    begin_s = time.perf_counter()
    erofs_image(tree)
    assert time.perf_counter() - begin_s < 4  # about 0.35 s alone; the bound is for a busy machine


@pytest.mark.root
def test_the_kernel_shows_an_awkward_tree_as_it_is(tmp_path: Path) -> None:
    tree = _awkward_tree()
    image = tmp_path / "image"
    image.write_bytes(erofs_image(tree, id_shift=1000))
    with mounted(str(image), tmp_path / "meta", "erofs") as meta:
        names = {os.fsencode(os.path.relpath(os.path.join(at, name), meta)) for at, d, f in os.walk(meta) for name in d + f}
        assert names == {entry.path for entry in tree if entry.path}
        for entry in tree:
            status = os.lstat(os.fsencode(meta) + b"/" + entry.path)
            assert (status.st_mode & 0o7777, status.st_uid) == (entry.mode, 1000)
            if entry.kind == FILE:
                assert status.st_size == entry.size
            elif entry.kind == SYMLINK:
                assert os.readlink(os.fsencode(meta) + b"/" + entry.path) == entry.target
            else:
                for name, value in entry.xattrs:
                    assert os.getxattr(os.fsencode(meta) + b"/" + entry.path, name) == value


@pytest.mark.root
def test_an_overlay_over_the_image_and_an_object_folder_is_the_source(tmp_path: Path) -> None:
    source, objects = _source(tmp_path), tmp_path / "objects"

    def put_object(raw: bytes, data: bytes) -> None:
        place = objects / object_path(raw).decode()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    blobs: dict[str, bytes] = {}

    def put(data: bytes, /) -> str:
        blobs[digest_of(data)] = data
        return digest_of(data)

    manifest = scan(source, put)
    for at, _, files in os.walk(source):
        for name in files:
            path = Path(at, name)
            if stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_size:
                put_object(hashlib.sha256(path.read_bytes()).digest(), path.read_bytes())
    image = tmp_path / "image"
    image.write_bytes(erofs_image(manifest))
    with mounted(str(image), tmp_path / "meta", "erofs") as meta:
        data = f"metacopy=on,redirect_dir=on,lowerdir={meta}::{objects}"
        with mounted("overlay", tmp_path / "merged", "overlay", data) as merged:
            shown = scan(merged)
            assert shown == manifest
            assert os.stat(merged / "a/one").st_nlink == 2
            # An attribute named like overlay's own is the file's, not a way to read other objects.
            assert os.getxattr(merged / "escape", "trusted.overlay.redirect") == b"/etc/passwd"
            assert (merged / "escape").read_bytes() == b"escape"
    # The third way, for hosts without either mount, gives the same tree.
    materialise(manifest, blobs.__getitem__, tmp_path / "plain")
    assert scan(tmp_path / "plain") == manifest
    assert to_raw(digest_of(b"escape")) in set(manifest.blobs())


def _source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/one").write_bytes(b"one" * 1000)
    os.link(source / "a/one", source / "a/b/two")
    (source / "empty").touch()
    (source / "escape").write_bytes(b"escape")
    os.setxattr(source / "escape", "trusted.overlay.redirect", b"/etc/passwd")
    (source / "large").write_bytes(random.Random(1).randbytes(3 << 20))
    (source / "large").chmod(0o4711)
    os.chown(source / "a/b", 12, 3_000_000_000)
    os.setxattr(source / "a/b", "user.color", b"blue")
    os.symlink("a/b/two", source / "link")
    os.mkfifo(source / "pipe")
    for index in range(700):
        (source / f"a/b/file-{index:04d}-{'x' * (index % 90)}").write_text(f"{index}\n")
    os.utime(source / "a/one", ns=(-1_500_000_000, -1_500_000_000))
    return source
