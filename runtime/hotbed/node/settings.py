"""What a node agent is told at start. Only the composition roots build it from arguments and the environment."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotbed.node.backend import Mount


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Settings of one agent.

    Attributes:
        state_dir: Kept over restarts: node id, unpacked sources, the worker's library.
        payload_dir: On tmpfs, shared with clients of this host; everything below `c/` and `out/` is this agent's.
        share_payload_dir: Clients and the control plane see the same folder (the embedded server).
        name: Shown to people; default the host's name.
        host_mounts: The read-only view of this machine that `Image.host()` stands for.
        interpreter: Absolute path of the Python that containers of that image run.
        default_isolation: For functions that name none.
        log_rate_bytes_s: Kept of one container's output per second; the rest is counted and dropped.
        source_bytes_max, source_files_max: Largest unpacked source archive.
    """

    state_dir: Path
    payload_dir: Path
    share_payload_dir: bool = True
    name: str = field(default_factory=platform.node)
    version: str = "0.1.0"
    host_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    host_mounts: tuple[Mount, ...] = ()
    interpreter: str = sys.executable
    default_isolation: str = "container"
    milli_cpu: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    log_rate_bytes_s: int = 4 * 2**20
    source_bytes_max: int = 512 * 2**20
    source_files_max: int = 50_000
    containers_max: int = 2000
    detect_gpus: bool = True

    def memory_total_bytes(self) -> int:
        """What the node offers in all."""
        return self.memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def loose_limit_bytes(self) -> int:
        """Hard limit of containers that name only a request: they may use what is idle, but one alone cannot take the node."""
        return self.memory_total_bytes() // 2


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How to reach the control plane of a cluster.

    Attributes:
        address: host:port.
        token: The node token.
        reconnect_grace_s: Without a stream containers are kept this long, then killed; must be below the lease.
    """

    address: str
    token: str
    reconnect_grace_s: float = 8.0
    backoff_max_s: float = 5.0
