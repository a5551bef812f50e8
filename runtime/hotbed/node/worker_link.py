"""The node's end of a worker's socket. What comes out of it was written by user code for all we know."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from google.protobuf.message import DecodeError

from hotbed_proto.v1 import worker_pb2

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_UNSENT_BYTES_MAX: Final = 256 * 1024 * 1024


class WorkerLink(asyncio.BufferedProtocol):
    """Frames to and from one worker.

    Args:
        on_message: Every decoded frame, in order.
        on_violation: The peer broke the protocol; called once, with what it did. Nothing is delivered after it.
        on_closed: End of stream.
    """

    def __init__(
        self,
        on_message: Callable[[worker_pb2.FromWorker], None],
        on_violation: Callable[[str], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._on_message = on_message
        self._on_violation = on_violation
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._chunk = memoryview(bytearray(_READ_BYTES))
        self._buffer = bytearray()
        self._dead = False

    async def attach(self, ours: socket.socket) -> None:
        """Take the socket into the running loop."""
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the loop."""
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop; hands on every whole frame."""
        if self._dead:
            return
        buffer = self._buffer
        buffer += self._chunk[:nbytes]
        at, have = 0, len(buffer)
        while have - at >= 4 and not self._dead:
            size = int.from_bytes(buffer[at : at + 4], "little")
            if size > FRAME_BYTES_MAX:
                self._violate(f"a frame of {size} bytes is over the limit of {FRAME_BYTES_MAX}")
                return
            if have - at - 4 < size:
                break
            try:
                message = worker_pb2.FromWorker.FromString(bytes(memoryview(buffer)[at + 4 : at + 4 + size]))
            except DecodeError:
                self._violate("a frame is not a message of the protocol")
                return
            at += 4 + size
            self._on_message(message)
        if at:
            del buffer[:at]

    def send(self, message: worker_pb2.ToWorker) -> None:
        """Queue one frame. A worker that does not read is cut off at 256 MiB."""
        transport = self._transport
        if transport is None or self._dead or transport.is_closing():
            return
        data = message.SerializeToString()
        transport.write(len(data).to_bytes(4, "little") + data)
        if transport.get_write_buffer_size() > _UNSENT_BYTES_MAX:
            self._violate("the worker does not read its socket")

    def _violate(self, what: str) -> None:
        self._dead = True
        self._buffer.clear()
        self._on_violation(what)

    def eof_received(self) -> bool:
        """Called by the loop."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._on_closed()

    def close(self) -> None:
        """Close the socket; safe to repeat."""
        if self._transport is not None:
            self._transport.close()
