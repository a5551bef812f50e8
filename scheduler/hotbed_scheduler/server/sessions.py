"""Clients (which outlive a connection) and the outgoing side of one connection.

Memory: results wait in their lane and logs in a ring of `log_buffer_bytes`; over `undelivered_bytes_max` the
server stops reading the client's frames, so what can pile up is bounded by what was already submitted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from hotbed_proto.frames import FRAME_BYTES_MAX, FRAME_ITEMS_MAX
from hotbed_proto.v1 import client_pb2, common_pb2

from .lanes import Lane

LOG_TURN_BYTES = 256 * 1024
"""Of logs, this much goes out before control frames and results have their turn."""

Write = Callable[[client_pb2.ServerFrame], Awaitable[None]]


class Outbox:
    """Frames on their way to one connection; `pump` writes them, coalescing what one turn of the loop produced."""

    def __init__(self, log_bytes_max: int) -> None:
        self.control: deque[client_pb2.ServerFrame] = deque()
        self.stored: deque[common_pb2.OutputColumns] = deque()
        self.stored_bytes = 0
        self.ready: dict[Lane, None] = {}
        self.logs: deque[common_pb2.LogChunk] = deque()
        self._log_bytes = 0
        self._log_bytes_max = log_bytes_max
        self._log_dropped = 0
        self._wake = asyncio.Event()
        self.drained = asyncio.Event()
        self.drained.set()

    def send(self, frame: client_pb2.ServerFrame) -> None:
        """Queue a small frame."""
        self.control.append(frame)
        self._wake.set()

    def outputs(self, lane: Lane) -> None:
        """The lane has undelivered outputs."""
        self.ready[lane] = None
        self._wake.set()

    def stored_outputs(self, columns: common_pb2.OutputColumns) -> None:
        """Queue outputs that are in the store already."""
        self.stored.append(columns)
        self.stored_bytes += columns.ByteSize()
        self._wake.set()

    def log(self, chunk: common_pb2.LogChunk) -> None:
        """Queue a log chunk; the oldest go when the ring is full, and the next one sent counts their bytes."""
        self.logs.append(chunk)
        self._log_bytes += len(chunk.data)
        while self._log_bytes > self._log_bytes_max and len(self.logs) > 1:
            dropped = self.logs.popleft()
            self._log_bytes -= len(dropped.data)
            self._log_dropped += len(dropped.data) + dropped.dropped_bytes
        self._wake.set()

    async def pump(self, write: Write) -> None:
        """Write frames until cancelled or until `write` raises."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Logs first, so that what a function printed arrives before its result; a bounded piece, so that a flood waits.
            log_bytes = 0
            while self.logs and log_bytes < LOG_TURN_BYTES:
                log_bytes += len(self.logs[0].data) + 1
                await self._write_log(write)
            while self.control:
                await write(self.control.popleft())
            while self.stored:
                frame = client_pb2.ServerFrame()
                columns = self.stored.popleft()
                self.stored_bytes -= columns.ByteSize()
                frame.outputs.CopyFrom(columns)
                await write(frame)
            for lane in list(self.ready):
                await self._write_lane(lane, write)
            if self.control or self.ready or self.logs or self.stored:
                self._wake.set()
            else:
                self.drained.set()

    async def _write_log(self, write: Write) -> None:
        chunk = self.logs.popleft()
        self._log_bytes -= len(chunk.data)
        frame = client_pb2.ServerFrame()
        frame.log.CopyFrom(chunk)
        frame.log.dropped_bytes += self._log_dropped
        self._log_dropped = 0
        await write(frame)

    async def _write_lane(self, lane: Lane, write: Write) -> None:
        waiting = lane.undelivered
        if waiting:
            frame = client_pb2.ServerFrame()
            outputs = frame.outputs
            first = waiting.popleft()
            outputs.CopyFrom(first)
            size = first.ByteSize()
            while waiting and not outputs.statuses and not waiting[0].statuses:
                following = waiting[0].ByteSize()
                if len(outputs.indices) + len(waiting[0].indices) > FRAME_ITEMS_MAX or size + following > FRAME_BYTES_MAX:
                    break
                outputs.MergeFrom(waiting.popleft())
                size += following
            lane.undelivered_bytes = sum(c.ByteSize() for c in waiting) if waiting else 0
            lane.delivered(outputs)
            await write(frame)
        if not waiting:
            self.ready.pop(lane, None)


class Client:
    """One client by its id, or (container_id set) the calls made from inside one container."""

    def __init__(self, client_id: str, container_id: str = "", app_id: str = "") -> None:
        self.client_id = client_id
        self.container_id = container_id
        self.nested_app_id = app_id
        self.lanes: dict[str, Lane] = {}
        self.app_ids: set[str] = set()
        self.subscriptions: dict[str, set[int] | None] = {}
        self.outbox: Outbox | None = None
        self.want_logs = False
        self.same_host = False
        self.gone_since_s = 0.0
        self.live_inputs = 0
        self.live_bytes = 0

    @property
    def undelivered_bytes(self) -> int:
        """Results waiting for this client, synchronous and stored."""
        waiting = sum(lane.undelivered_bytes for lane in self.lanes.values())
        return waiting + (self.outbox.stored_bytes if self.outbox else 0)
