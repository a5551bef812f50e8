"""A container's OCI `config.json`, from its spec. Pure: same arguments, same document.

The root and all host mounts are prepared by `mounts.py` before the runtime starts, so the document names only kernel
filesystems. Nothing here gives a capability, a host path, or a device beyond the runtime's own null, zero, full, random and
tty and the GPUs that were granted.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotbed.node import seccomp
from hotbed.node.backend import ContainerSpec

USER_RANGE = 65536
"""Ids in a container's user namespace."""

_CPU_PERIOD_US = 100_000
_CPU_QUOTA_MIN_US = 1_000
OPEN_FILES = 65_536
"""Descriptors a process may have, unless the agent itself may have fewer."""
_OOM_SCORE = 500
"""Above the agent's, so that a host short of memory loses containers first."""

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel",
    "/sys/fs",
)
_READ_ONLY = ("/proc/fs", "/proc/irq", "/proc/sys")
_GPU_SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_NOTHING = ("nosuid", "noexec", "nodev")


@functools.cache
def _seccomp() -> dict[str, Any]:
    return seccomp.profile()


def config(
    spec: ContainerSpec,
    *,
    root: Path,
    user_base: int,
    cgroup_path: str,
    shm_bytes: int,
    swap_limited: bool,
    open_files: int = OPEN_FILES,
) -> dict[str, Any]:
    """The document for one container.

    Args:
        root: The prepared root, as the runtime sees it.
        user_base: Host id that the container's root becomes; it owns `USER_RANGE` ids from there.
        cgroup_path: Absolute within every hierarchy.
        shm_bytes: Size of /dev/shm.
        swap_limited: Whether this kernel can limit memory and swap together.
        open_files: Limit of descriptors; not above the agent's own hard limit, which a user namespace cannot raise.
    """
    namespaces = ["pid", "ipc", "uts", "mount", "user", "cgroup"] + ([] if spec.network == "full" else ["network"])
    mapping = [{"containerID": 0, "hostID": user_base, "size": USER_RANGE}]
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": {"path": str(root), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(spec.argv),
            "env": [f"{name}={value}" for name, value in spec.env.items()],
            "cwd": spec.workdir,
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": open_files, "hard": open_files},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
            "noNewPrivileges": True,
            "oomScoreAdj": _OOM_SCORE,
        },
        "mounts": _kernel_mounts(spec, shm_bytes),
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "cgroupsPath": cgroup_path,
            "resources": _resources(spec, swap_limited),
            "devices": gpu_devices(spec.gpu_indices),
            "seccomp": _seccomp(),
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "rootfsPropagation": "private",
        },
    }


def _kernel_mounts(spec: ContainerSpec, shm_bytes: int) -> list[dict[str, Any]]:
    def mount(kind: str, target: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": kind, "options": list(options)}

    mounts = [
        mount("proc", "/proc", *_NOTHING),
        mount("tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        mount("tmpfs", "/dev/shm", *_NOTHING, "mode=1777", f"size={shm_bytes}"),  # noqa: S108
        mount("mqueue", "/dev/mqueue", *_NOTHING),
    ]
    if spec.network != "full":
        # The kernel gives sysfs only to those who own the network namespace it shows; with the host's there is no /sys.
        mounts.append(mount("sysfs", "/sys", *_NOTHING, "ro"))
    return mounts


def gpu_devices(gpu_indices: Sequence[int], dev: Path = Path("/dev")) -> list[dict[str, Any]]:
    """Device nodes of these GPUs and the driver's shared ones, as far as the host has them; nothing without GPUs.

    Not run on a machine with a GPU yet. The driver's libraries are below /usr, which `Image.host()` shows.
    """
    if not gpu_indices:
        return []
    devices: list[dict[str, Any]] = []
    for name in (*(f"nvidia{index}" for index in gpu_indices), *_GPU_SHARED):
        try:
            found = (dev / name).stat()
        except OSError:
            continue
        if stat.S_ISCHR(found.st_mode):
            major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
            devices.append(
                {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0}
            )
    return devices


def _resources(spec: ContainerSpec, swap_limited: bool) -> dict[str, Any]:
    allowed = [
        {"allow": True, "type": "c", "major": device["major"], "minor": device["minor"], "access": "rw"}
        for device in gpu_devices(spec.gpu_indices)
    ]
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}, *allowed], "pids": {"limit": spec.pids}}
    if spec.memory_bytes:
        resources["memory"] = {"limit": spec.memory_bytes}
        if swap_limited:
            resources["memory"]["swap"] = spec.memory_bytes
    if spec.milli_cpu:
        quota = max(_CPU_QUOTA_MIN_US, spec.milli_cpu * _CPU_PERIOD_US // 1000)
        resources["cpu"] = {"quota": quota, "period": _CPU_PERIOD_US}
    if spec.milli_cpu_weight:
        resources.setdefault("cpu", {})["shares"] = min(262_144, max(2, spec.milli_cpu_weight * 1024 // 1000))
    return resources
