"""What a server of one home may not leave on the host: processes, cgroups, mounts, shared memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from hotbed.daemon import payload_dir


def leftovers_of(home: Path) -> list[str]:
    """One line for each thing that is still there because of this home's server; [] after a clean stop."""
    return [*_processes(home), *_cgroups(home), *_mounts(home), *_shared(home)]


def until_nothing_left(home: Path, timeout_s: float = 10.0) -> list[str]:
    """What a stopped server of this home leaves; waits a little, because the kernel reaps killed processes at leisure."""
    deadline_s = time.monotonic() + timeout_s
    while (left := leftovers_of(home)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return left


def processes_of(home: Path) -> list[int]:
    """The daemon of this home and whatever runs in its containers."""
    found: list[int] = []
    group = f"/hotbed/{cgroup_name(home)}/"
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            names_home = any(word == os.fsencode(home) or word.startswith(os.fsencode(home) + b"/") for word in words)
            is_ours = names_home and any(b"hotbed.daemon" in word or b"crun" in word or b"runc" in word for word in words)
            in_group = group in Path(f"/proc/{entry}/cgroup").read_text()
            if is_ours or in_group:
                found.append(int(entry))
    return found


def cgroup_name(home: Path) -> str:
    """Under /hotbed in the cgroup tree: the hash by which an agent tells its containers from another agent's."""
    return hashlib.sha256(str(home / "node" / "oci").encode()).hexdigest()[:12]


def _processes(home: Path) -> list[str]:
    found: list[str] = []
    for pid in processes_of(home):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"process {pid}: {words}")
    return found


def _cgroups(home: Path) -> list[str]:
    root = Path("/sys/fs/cgroup")
    return [
        f"cgroup {path}"
        for pattern in (f"hotbed/{cgroup_name(home)}", f"*/hotbed/{cgroup_name(home)}")
        for path in root.glob(pattern)
    ]


def _mounts(home: Path) -> list[str]:
    return [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f"{home}/" in line]


def _shared(home: Path) -> list[str]:
    shared = payload_dir(home)
    return [f"shared memory {shared}"] if shared.exists() else []
