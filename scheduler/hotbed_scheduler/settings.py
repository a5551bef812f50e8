"""What an operator can set on a control plane; read once at the edge, frozen from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one control plane.

    Attributes:
        home: Folder of the server's own files (tokens). Created with mode 0700.
        host_id: Names this machine (its boot id); equal ids of client, server and node allow shared payload files.
        payload_dir: Shared payload folder of an embedded server; "" = payloads travel in frames and blobs only.
        client_grace_s: How long the synchronous lanes and ephemeral apps of a vanished client are kept.
        retention_s: How long durable results can be fetched.
        heartbeat_interval_s, lease_s: Told to nodes; a node silent for lease_s is lost.
        client_inputs_max, client_bytes_max: Unfinished inputs and their payload bytes one client may have.
        undelivered_bytes_max: Results waiting for a slow reader before its submissions are no longer read.
        durable_backlog_bytes_max: Uncommitted bytes before durable submissions are no longer read.
        node_queue_bytes_max: Commands waiting for a node's stream before that node counts as lost.
        log_buffer_bytes: Log bytes kept for a slow reader; older ones are dropped and counted.
        on_idle: Called about once a second with the seconds since anything last needed this server.
    """

    home: Path
    version: str = "0"
    host_id: str = ""
    payload_dir: str = ""
    client_grace_s: float = 30.0
    retention_s: float = 7 * 86400.0
    heartbeat_interval_s: float = 2.0
    lease_s: float = 10.0
    client_inputs_max: int = 2_000_000
    client_bytes_max: int = 2 * 2**30
    undelivered_bytes_max: int = 64 * 2**20
    durable_backlog_bytes_max: int = 64 * 2**20
    node_queue_bytes_max: int = 256 * 2**20
    log_buffer_bytes: int = 2**20
    on_idle: Callable[[float], None] | None = None
