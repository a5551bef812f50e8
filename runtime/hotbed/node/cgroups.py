"""Cgroups of containers on v1, v2 and hybrid hosts: where they are, what they tell, how they end.

The OCI runtime creates them and puts the container in; this module reads and removes them. A container's cgroup has the same
path, `<parent>/<container id>`, in every hierarchy. `parent` names one agent, so that two agents on a host do not take each
other's containers for leftovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_POLL_S = 0.002
_FREEZE_WAIT_S = 2.0
_REMOVE_WAIT_S = 5.0

Mode = Literal["v1", "v2", "hybrid", "none"]


@dataclass(frozen=True, slots=True)
class CgroupHost:
    """The hierarchies mounted on this host.

    Attributes:
        v1: Controller (or `name=...`) to mount point.
        v2: The cgroup2 mount point, or None. On a hybrid host it has no controllers that we use.
    """

    v1: Mapping[str, Path]
    v2: Path | None

    @property
    def mode(self) -> Mode:
        """Which of the layouts this is."""
        if self.v1:
            return "hybrid" if self.v2 else "v1"
        return "v2" if self.v2 else "none"

    def mounts(self) -> list[Path]:
        """Every hierarchy a container may have a cgroup in, once each."""
        return list(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))

    def missing_controllers(self) -> list[str]:
        """Which of memory, cpu and pids cannot be limited here."""
        wanted = ("memory", "cpu", "pids")
        if self.v1:
            return [name for name in wanted if name not in self.v1]
        if self.v2 is None:
            return list(wanted)
        present = (self.v2 / "cgroup.controllers").read_text().split()
        return [name for name in wanted if name not in present]

    def limits_swap(self) -> bool:
        """Whether memory and swap together can be limited."""
        if "memory" in self.v1:
            return (self.v1["memory"] / "memory.memsw.limit_in_bytes").exists()
        return self.v2 is not None and Path("/proc/swaps").exists()


def parse_mountinfo(text: str) -> CgroupHost:
    """Find the cgroup mounts in the text of a `/proc/<pid>/mountinfo`. Pure."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        if kind[0] == "cgroup2":
            v2 = v2 or point
        elif kind[0] == "cgroup":
            # `cpu,cpuacct` is one hierarchy under two names; rw and the like are options of the mount, not controllers.
            for name in kind[2].split(","):
                if name not in ("rw", "ro", "xattr", "clone_children", "noprefix") and "release_agent" not in name:
                    v1.setdefault(name, point)
    return CgroupHost(v1, v2)


def find() -> CgroupHost:
    """The cgroup mounts this process sees."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text())


class ContainerCgroup:
    """The cgroups of one container, whether they exist or not."""

    def __init__(self, host: CgroupHost, parent: str, container_id: str) -> None:
        self._host = host
        self._path = f"{parent}/{container_id}"

    def directory(self, controller: str) -> Path | None:
        """Where a controller keeps this container, or None when the host has no such controller."""
        if controller in self._host.v1:
            return self._host.v1[controller] / self._path
        return self._host.v2 / self._path if self._host.v2 and not self._host.v1 else None

    def directories(self) -> list[Path]:
        """All that exist now."""
        return [path for mount in self._host.mounts() if (path := mount / self._path).is_dir()]

    def pids(self) -> set[int]:
        """Host pids of every process in it or below it."""
        found: set[int] = set()
        for directory in self.directories():
            for procs in directory.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    found.update(int(line) for line in procs.read_text().split())
        return found - {0}

    def memory_bytes(self) -> int:
        """Memory charged now, page cache and tmpfs included; 0 when it cannot be told."""
        return _read_int(self.directory("memory"), ("memory.usage_in_bytes", "memory.current"))

    def oom_kills(self) -> int:
        """Processes the kernel has killed at the memory limit."""
        directory = self.directory("memory")
        if directory is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                for line in (directory / name).read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        return 0

    async def freeze(self) -> bool:
        """Freeze every process; whether all stood still within two seconds."""
        return await self._set_frozen(True)

    async def thaw(self) -> bool:
        """The opposite; true also when there is nothing to thaw."""
        return await self._set_frozen(False)

    async def _set_frozen(self, frozen: bool) -> bool:
        if (directory := self._host.v1.get("freezer")) is not None:
            state = directory / self._path / "freezer.state"
            order, done = ("FROZEN" if frozen else "THAWED"), "FROZEN" if frozen else "THAWED"
        elif self._host.v2 is not None:
            state = self._host.v2 / self._path / "cgroup.freeze"
            order, done = ("1" if frozen else "0"), f"frozen {int(frozen)}"
        else:
            return False
        told_by = state if state.name == "freezer.state" else state.with_name("cgroup.events")
        deadline = time.monotonic() + _FREEZE_WAIT_S
        while True:
            try:
                state.write_text(order)  # v1 may stop half way while processes fork: asking again goes on
                if done in told_by.read_text():
                    return True
            except FileNotFoundError:
                return not frozen
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL to everything in it, once. A frozen v1 cgroup must be thawed for this to take effect."""
        if self._host.v2 is not None:
            with contextlib.suppress(OSError):
                (self._host.v2 / self._path / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def remove(self) -> list[Path]:
        """Kill all and remove the directories; returns those that stayed (a process in uninterruptible sleep).

        Cost: well under 1 ms when the container has ended; at most 5 s.
        """
        deadline = time.monotonic() + _REMOVE_WAIT_S
        while left := self.directories():
            if self.pids():
                await self.thaw()
                self.kill()
            for directory in left:
                _remove_tree(directory)
            left = self.directories()
            if not left or time.monotonic() > deadline:
                return left
            await asyncio.sleep(_POLL_S)
        return []


def list_containers(host: CgroupHost, parent: str) -> set[str]:
    """Names of the cgroups below `parent` in any hierarchy."""
    names: set[str] = set()
    for mount in host.mounts():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names.update(entry.name for entry in os.scandir(mount / parent) if entry.is_dir(follow_symlinks=False))
    return names


def remove_parent(host: CgroupHost, parent: str) -> None:
    """Remove the agent's own cgroup, and the one above it, where they are empty."""
    for mount in host.mounts():
        for path in (mount / parent, *_above(parent, mount)):
            with contextlib.suppress(OSError):
                path.rmdir()


def _above(parent: str, mount: Path) -> Iterable[Path]:
    return [mount / str(path) for path in Path(parent).parents if str(path) != "."]


def _remove_tree(directory: Path) -> None:
    for path, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):  # still busy: the caller looks again
            os.rmdir(path)


def _read_int(directory: Path | None, names: Iterable[str]) -> int:
    if directory is None:
        return 0
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            return int((directory / name).read_text())
    return 0
