"""The seam between the node agent and whatever isolates a container: one protocol, capabilities as data.

A backend creates process trees and tells when they end. It knows nothing of functions, inputs or the control plane.
Implementations: `backend_oci` (crun, runc), `backend_process` (no isolation, for tests). One contract suite
(`tests/contract/test_backend.py`) holds for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, asked before it is asked to do it.

    Attributes:
        isolated: Containers cannot see or touch the host and each other.
        enforces_limits: CPU, memory and pids limits are held by the kernel.
        checkpoint: Memory snapshots can be taken and restored.
        gpu: Devices can be given to a container.
        pause: The whole tree can be frozen and thawed.
        network: Network policies it can apply, of {"none", "full"}.
        rootless: Works without root.
        missing: What this host lacks for more, each with the command that adds it.
    """

    name: str
    isolated: bool
    enforces_limits: bool
    checkpoint: bool = False
    gpu: bool = False
    pause: bool = False
    network: frozenset[str] = frozenset()
    rootless: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path shown in the container; both absolute. The target is created in the container's own root only."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All of a container that a backend may let in. What is not named here stays outside.

    Attributes:
        argv: First program of the container, with absolute path as seen inside.
        stdin_fd: A descriptor of ours that becomes descriptor 0 inside (the worker's socket). Not closed by the backend.
        stdout_fd, stderr_fd: Descriptors of ours that become 1 and 2.
        memory_bytes: Hard limit; 0 = none. milli_cpu: hard limit; 0 = none. milli_cpu_weight: share of
            busy cores against other containers; 0 = the kernel's default. pids: hard limit, processes and threads.
        network: "none" (loopback alone) or "full" (the host's).
    """

    container_id: str
    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    mounts: Sequence[Mount]
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    memory_bytes: int = 0
    milli_cpu: int = 0
    milli_cpu_weight: int = 0
    pids: int = 4096
    disk_bytes: int = 0
    network: str = "none"
    hostname: str = "hotbed"
    gpu_indices: Sequence[int] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a container ended.

    Attributes:
        code: Exit code of its first process, or -SIGNAL when a signal ended it.
        oom: The kernel killed something in it at the memory limit.
    """

    code: int
    oom: bool = False


class Backend(Protocol):
    """Creates, signals and removes containers. Every method is safe to repeat and has a bounded run time.

    Errors: `hotbed_proto.errors.ContainerFailedError` when the runtime refuses, with its own last words in `why`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Fixed for the life of the backend; found by probing the host, never assumed."""
        ...

    async def create(self, spec: ContainerSpec) -> int:
        """Create and start; returns the pid (on the host) of the container's first process. Cost: about 30 ms with crun."""
        ...

    async def wait(self, container_id: str) -> ExitStatus:
        """Return when the first process has ended. Several waiters are fine. NotFoundError for an unknown id."""
        ...

    async def signal(self, container_id: str, number: int) -> None:
        """Send a signal to the first process; SIGKILL goes to the whole tree. No error when it is already gone."""
        ...

    async def pause(self, container_id: str) -> None:
        """Freeze the whole tree. Only with `capabilities.pause`."""
        ...

    async def resume(self, container_id: str) -> None:
        """Thaw it."""
        ...

    async def memory_bytes(self, container_id: str) -> int:
        """Memory charged to the container now; 0 where it cannot be told."""
        ...

    async def remove(self, container_id: str) -> None:
        """Kill what is left and remove every trace: processes, cgroups, mounts, files. No error when already gone."""
        ...

    async def list_leftovers(self) -> list[str]:
        """Ids of containers under this backend's state folder that this process did not create (a former agent's)."""
        ...

    async def close(self) -> None:
        """Remove everything this process created."""
        ...
