"""A container's root, mounted where only its runtime sees it.

All of it happens on one thread that has left the host's mount namespace (`unshare(CLONE_NEWNS)` is per thread). So the host's
mount table never changes, an agent that dies leaves no mount behind, and runtimes started from that thread inherit its view:
crun 1.8 refuses a hybrid cgroup host unless the cgroup2 mount is out of sight, and here it is.

A root is an overlay of the image's skeleton and a tmpfs of limited size (charged to the container's memory), with the image's
read-only mounts and the spec's own mounts bound on top. After the runtime has taken its copy the root is detached again.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hotbed.node.backend import Mount
from hotbed_images.host import HostImage
from hotbed_proto.errors import InvalidError

_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # one number on every architecture
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_WRITABLE_MODE = {"root": 0o700}


class Syscalls(Protocol):
    """The few calls that need privilege; a seam for tests."""

    def unshare_mounts(self) -> None:
        """Give the calling thread a mount namespace of its own, private in both directions."""
        ...

    def mount(self, source: str, target: str, kind: str, flags: int, options: str) -> None:
        """mount(2). Raises OSError."""
        ...

    def unmount(self, target: str) -> None:
        """Lazy umount2(2) of a tree. Raises OSError."""
        ...

    def restrict(self, target: str, *, read_only: bool) -> None:
        """Make a bound tree nosuid and nodev, and perhaps read-only, with everything below. Raises OSError."""
        ...


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class LinuxSyscalls:
    """The real ones, through libc."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def unshare_mounts(self) -> None:
        """See `Syscalls`."""
        self._check(self._libc.unshare(_CLONE_NEWNS), "unshare", "mount namespace")
        self.mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")

    def mount(self, source: str, target: str, kind: str, flags: int, options: str) -> None:
        """See `Syscalls`."""
        done = self._libc.mount(
            source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
        )
        self._check(done, "mount", target)

    def unmount(self, target: str) -> None:
        """See `Syscalls`."""
        self._check(self._libc.umount2(target.encode(), _MNT_DETACH), "umount", target)

    def restrict(self, target: str, *, read_only: bool) -> None:
        """See `Syscalls`. Kernels before 5.12 cannot do it for a whole tree; there only its top is restricted."""
        attr = _MountAttr(_ATTR_NOSUID | _ATTR_NODEV | (_ATTR_RDONLY if read_only else 0), 0, 0, 0)
        done = self._libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_int(_AT_FDCWD),
            target.encode(),
            ctypes.c_uint(_AT_RECURSIVE),
            ctypes.byref(attr),
            ctypes.c_size_t(ctypes.sizeof(attr)),
        )
        if done != 0:
            flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
            self.mount("none", target, "", flags, "")

    def _check(self, result: int, call: str, path: str) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{call}: {os.strerror(number)}", path)


def enter_private_namespace(calls: Syscalls, *, stage: Path, hide: Path | None) -> None:
    """Run once, on the thread that will prepare roots: its own mount namespace with an empty `stage`.

    Args:
        stage: An existing folder whose parents everyone may enter (a container's root looks up its own root there).
        hide: A cgroup2 mount to unmount from this view, or None.
    """
    calls.unshare_mounts()
    if hide is not None:
        calls.unmount(str(hide))
    calls.mount("hotbed", str(stage), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0711,size=16m")


def prepare_root(
    calls: Syscalls, *, image: HostImage, stage: Path, name: str, user_base: int, scratch_bytes: int, mounts: Sequence[Mount]
) -> Path:
    """Mount one container's root below `stage` and return it. On the namespace's thread; about 1 ms.

    Args:
        user_base: Host id of the container's root, which owns what it may write.
        scratch_bytes: How much the container may write outside its mounts; memory it is charged for.

    Raises:
        InvalidError: A mount's target leads through a link. OSError: The kernel refuses.
    """
    base = stage / name
    base.mkdir(mode=0o711)
    calls.mount("hotbed", str(base), "tmpfs", _MS_NODEV | _MS_NOSUID, f"mode=0711,size={scratch_bytes},nr_inodes=1m")
    upper, work, root = base / "upper", base / "work", base / "root"
    upper.mkdir(mode=0o755)
    work.mkdir(mode=0o700)
    root.mkdir(mode=0o711)
    os.chown(upper, user_base, user_base)
    for folder in image.writable:
        path = upper / folder
        path.mkdir(mode=_WRITABLE_MODE.get(folder, 0o755))
        os.chown(path, user_base, user_base)
    calls.mount(
        "hotbed", str(root), "overlay", _MS_NODEV | _MS_NOSUID, f"lowerdir={image.root},upperdir={upper},workdir={work}"
    )
    for shown in image.mounts:
        _bind(calls, root, Mount(shown.source, shown.target))
    for mount in sorted(mounts, key=lambda mount: mount.target.count("/")):
        _bind(calls, root, mount)
    return root


def release_root(calls: Syscalls, *, stage: Path, name: str) -> None:
    """Detach a root from the namespace's thread; a running container keeps its copy. No error when it is gone."""
    base = stage / name
    try:
        calls.unmount(str(base))
    except OSError:
        if base.exists() and any(base.iterdir()):
            raise
    if base.exists():
        base.rmdir()


def _bind(calls: Syscalls, root: Path, mount: Mount) -> None:
    target = make_target(root, mount.target, folder=mount.source.is_dir())
    calls.mount(str(mount.source), str(target), "", _MS_BIND | _MS_REC, "")
    calls.restrict(str(target), read_only=mount.read_only)


def make_target(root: Path, target: str, *, folder: bool) -> Path:
    """The place for a mount below `root`, created where missing. Nobody else writes there yet; links are refused, not followed.

    Raises:
        InvalidError: The target is not absolute, has `..`, or an existing part of it is a link or of the wrong kind.
    """
    parts = Path(target).parts
    if len(parts) < 2 or parts[0] != "/" or ".." in parts:
        raise InvalidError(f"mount target {target!r} is not an absolute path below /", fix="name a folder such as /data")
    path = root
    for depth, part in enumerate(parts[1:], start=2):
        path = path / part
        last = depth == len(parts)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if last and not folder:
                path.touch(mode=0o644)
            else:
                path.mkdir(mode=0o755)
            continue
        if stat.S_ISLNK(mode) or stat.S_ISDIR(mode) != (folder or not last):
            raise InvalidError(
                f"mount target {target!r} cannot be used",
                why=f"/{path.relative_to(root)} is a link or of another kind in the image",
            )
    return path


def give_to_container(source: Path, user_base: int) -> None:
    """Make a folder that is mounted read-write belong to the container's root, with the files that lie in it now.

    Call before the container runs: nothing hostile has been in it yet.
    """
    folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(folder, user_base, user_base)
        for name in os.listdir(folder):
            os.chown(name, user_base, user_base, dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(folder)
