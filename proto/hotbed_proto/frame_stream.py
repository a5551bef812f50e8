"""Length-prefixed messages over a unix socket: the same frames as the gRPC streams, for processes of one user on one host.

A gRPC hop costs 0.3 ms and two threads on each side; this costs 0.1 ms. Only the socket's file mode and the peer's user id
guard it, so it never listens on anything but a unix socket. Frame: little-endian uint32 length, then the serialised message.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from hotbed_proto.frames import MESSAGE_BYTES_MAX

LANE_SUFFIX: Final = ".lane"
"""The raw socket lies beside the gRPC socket, under its name with this at the end."""

_READ_BYTES: Final = 256 * 1024
_PEER: Final = struct.Struct("3i")


class Serialisable(Protocol):
    """A protobuf message, as far as this module cares."""

    def SerializeToString(self) -> bytes: ...


class FrameStream:
    """One connection: frames in order, both ways. One reader and one writer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    async def read(self) -> bytes:
        """The next frame.

        Raises:
            ConnectionError: The other side is gone, or sent a frame over the limit.
        """
        buffer = self._buffer
        while True:
            if len(buffer) >= 4:
                size = int.from_bytes(buffer[:4], "little")
                if size > MESSAGE_BYTES_MAX:
                    raise ConnectionError(f"a frame of {size} bytes is over the limit of {MESSAGE_BYTES_MAX}")
                if len(buffer) >= 4 + size:
                    frame = bytes(memoryview(buffer)[4 : 4 + size])
                    del buffer[: 4 + size]
                    return frame
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise ConnectionError("the other side closed the connection")
            buffer += data

    async def write(self, message: Serialisable) -> None:
        """Send one frame; waits while the other side is slow.

        Raises:
            ConnectionError: The other side is gone.
        """
        data = message.SerializeToString()
        self._writer.write(len(data).to_bytes(4, "little") + data)
        await self._writer.drain()

    def cancel(self) -> None:
        """Close; a pending read ends."""
        self._writer.close()


async def connect(path: str) -> FrameStream:
    """Open the raw socket at `path`. Raises OSError when nobody listens there."""
    return FrameStream(*await asyncio.open_unix_connection(path, limit=2 * _READ_BYTES))


async def listen(path: Path, serve: Callable[[FrameStream], Awaitable[None]]) -> asyncio.AbstractServer:
    """Serve connections of this user (and root) on a unix socket of mode 0600."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = FrameStream(reader, writer)
        try:
            if _peer_user(writer.get_extra_info("socket")) in (os.getuid(), 0):
                await serve(stream)
        finally:
            stream.cancel()

    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(accepted, path, limit=2 * _READ_BYTES)
    finally:
        os.umask(mask)


def _peer_user(connection: socket.socket) -> int:
    return _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
