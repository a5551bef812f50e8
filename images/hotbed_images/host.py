"""`Image.host()`: the host's own /usr and one Python, read-only, with nothing else of the host visible.

`plan` decides from what it is told (pure but for reading links); `host_image` builds the skeleton the plan needs: a small
folder with the merged-usr links, synthesised /etc files and an empty folder for every mount. Containers share it read-only
below an overlay. Mounts go into our own skeleton only, never into a tree a container has written, so no link of a container's
can lead one of them astray.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotbed_proto.errors import InvalidError

_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC_COPIED = ("nsswitch.conf", "ld.so.cache", "ld.so.conf", "localtime", "timezone", "mime.types", "protocols", "services")
_EMPTY_FOLDERS = ("dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var", "var/tmp", "__hotbed")
WRITABLE_FOLDERS = ("etc", "home", "mnt", "opt", "root", "run", "srv", "var", "__hotbed")
"""Folders of the skeleton that each container gets as its own, so that its root may create files there."""

_PREFIX_QUESTION = (
    "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.executable]))"
)
_ASK_WAIT_S = 20.0
_TOO_WIDE = ("/", "/root", "/home", "/etc", "/var", "/tmp", "/run", "/dev", "/proc", "/sys", "/srv", "/mnt", "/media", "/boot")  # noqa: S108


@dataclass(frozen=True, slots=True)
class HostMount:
    """A path of the host shown read-only at `target` (absolute)."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class HostImage:
    """An image made of the running host.

    Attributes:
        root: The skeleton: lower layer of every container's root. Never written after it is built.
        mounts: What is shown on top of it, parents before children.
        python: The interpreter as seen inside.
        writable: Folders a container gets as its own, without leading slash.
    """

    root: Path
    mounts: tuple[HostMount, ...]
    python: str
    writable: tuple[str, ...] = WRITABLE_FOLDERS


def python_prefixes(interpreter: Path) -> list[Path]:
    """Folders that hold an interpreter and its standard library, as it names them itself.

    Raises:
        InvalidError: The interpreter does not run. Cost: about 20 ms.
    """
    try:
        done = subprocess.run(
            [str(interpreter), "-I", "-c", _PREFIX_QUESTION], capture_output=True, text=True, timeout=_ASK_WAIT_S, check=True
        )
        answers = [Path(answer) for answer in json.loads(done.stdout)]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise InvalidError(
            f"the Python at {interpreter} does not run", why=str(error), fix="name another interpreter for Image.host()"
        ) from error
    *prefixes, executable = answers
    # A venv's python is a link, perhaps to a link; every folder on the way must be there for it to start.
    link = executable
    while link.is_symlink():
        link = link.parent / os.readlink(link)
        if link.parent.name == "bin":
            prefixes.append(Path(os.path.normpath(link.parent.parent)))
    return list(dict.fromkeys(prefixes))


def plan(prefixes: Sequence[Path], *, host_root: Path = Path("/")) -> list[HostMount]:
    """The mounts of a host image whose Python lives in `prefixes`.

    Raises:
        InvalidError: A prefix is so wide (a whole home folder) that showing it would show other things.
    """
    mounts = [HostMount(host_root / "usr", "/usr")]
    for name in _TOP_LEVEL:
        path = host_root / name
        if path.is_dir() and not path.is_symlink():
            mounts.append(HostMount(path, f"/{name}"))
    if (certificates := host_root / "etc/ssl/certs").is_dir():
        mounts.append(HostMount(certificates, "/etc/ssl/certs"))
    for prefix in prefixes:
        # Shown under the name Python uses; where that name leads through links, under the real one as well.
        for target in dict.fromkeys((prefix, prefix.resolve())):
            _refuse_wide(target)
            mounts.append(HostMount(target.resolve(), str(target)))
    mounts.sort(key=lambda mount: (mount.target.count("/"), mount.target))
    kept: list[HostMount] = []
    for mount in mounts:
        shown = any(
            mount.target == parent.target
            or (
                mount.target.startswith(parent.target + "/")
                and str(mount.source) == mount.target
                and parent.target == str(parent.source)
            )
            for parent in kept
        )
        if not shown:
            kept.append(mount)
    return kept


def host_image(interpreter: Path, work_dir: Path) -> HostImage:
    """Build the skeleton under `work_dir` and return the image. Once per node; about 30 ms.

    Args:
        interpreter: The Python that containers run; a venv's is fine.
        work_dir: A folder of the node's own; the skeleton takes under 1 MiB.
    """
    mounts = plan(python_prefixes(interpreter))
    work_dir.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="host-image-", dir=work_dir))
    build_skeleton(root, mounts)
    return HostImage(root, tuple(mounts), str(interpreter.absolute()))


def build_skeleton(root: Path, mounts: Iterable[HostMount], *, host_root: Path = Path("/")) -> None:
    """Fill an empty folder with everything of the root that is not a mount."""
    root.chmod(0o755)
    for name in _EMPTY_FOLDERS:
        (root / name).mkdir(mode=0o755, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name in _TOP_LEVEL:
        if (host_root / name).is_symlink():
            (root / name).symlink_to(os.readlink(host_root / name))
    _write_etc(root / "etc", host_root / "etc")
    for mount in mounts:
        (root / mount.target.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _write_etc(etc: Path, host_etc: Path) -> None:
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 hotbed\n")
    (etc / "resolv.conf").touch()
    for name in _ETC_COPIED:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(host_etc / name, etc / name)  # follows links: contents, not where they lead
    if (host_etc / "alternatives").is_dir():
        # Names like /usr/bin/awk lead through here into /usr; links that lead nowhere inside do no harm.
        shutil.copytree(host_etc / "alternatives", etc / "alternatives", symlinks=True)
    (etc / "ssl").mkdir()
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(host_etc / "ssl/openssl.cnf", etc / "ssl/openssl.cnf")


def _refuse_wide(prefix: Path) -> None:
    home = len(prefix.parts) == 3 and prefix.parts[1] == "home"
    if str(prefix) in _TOO_WIDE or home:
        raise InvalidError(
            f"Image.host() would show all of {prefix} to every container",
            why="the Python it runs has its prefix there",
            fix="make a virtual environment in a folder of its own and run hotbed from it",
        )
