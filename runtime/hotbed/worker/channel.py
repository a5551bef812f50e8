"""The worker's end of the socket: frames in, frames out. Reads and writes may come from two threads, one at a time each."""

from __future__ import annotations

import _socket
from _thread import allocate_lock
from typing import TYPE_CHECKING, Final

from hotbed.worker import wire

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES: Final = 256 * 1024
_DONT_WAIT: Final = _socket.MSG_DONTWAIT


class Closed(Exception):
    """The node has gone away; nothing is left to work for."""


class Channel:
    """Length-prefixed frames over an inherited stream socket.

    Args:
        descriptor: The socket; this object owns it from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = _socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._buffer = bytearray()
        self._chunk = bytearray(_READ_BYTES)
        self._view = memoryview(self._chunk)
        self._read_lock = allocate_lock()
        self._write_lock = allocate_lock()

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, message: wire.Message) -> None:
        """Write one frame, blocking until the kernel has it all."""
        frame = wire.encode_frame(message)
        with self._write_lock:
            try:
                self._socket.sendall(frame)
            except (BrokenPipeError, ConnectionResetError) as error:
                raise Closed from error

    def receive_now(self, handle: Callable[[wire.Message], None]) -> None:
        """Hand over every whole frame that is there; returns at once, also when the other thread is reading.

        `handle` runs before the other thread may read again: what it leaves for that thread is there when `receive` looks.

        Raises:
            Closed: End of stream.
        """
        if not self._read_lock.acquire(False):
            return
        try:
            for message in self._read(wait=False):
                handle(message)
        finally:
            self._read_lock.release()

    def receive(self, has_work: Callable[[], object]) -> list[wire.Message]:
        """Block until there is at least one whole frame; [] at once if `has_work` says so when nobody else reads any more.

        Raises:
            Closed: End of stream.
        """
        with self._read_lock:
            # The other thread may have taken the very frame this one came to wait for.
            return [] if has_work() else self._read(wait=True)

    def _read(self, *, wait: bool) -> list[wire.Message]:
        while True:
            messages = self._take()
            if messages:
                return messages
            try:
                size = self._socket.recv_into(self._chunk, 0, 0 if wait else _DONT_WAIT)
            except BlockingIOError:
                return []
            except ConnectionResetError as error:
                raise Closed from error
            if size == 0:
                raise Closed
            self._buffer += self._view[:size]

    def _take(self) -> list[wire.Message]:
        buffer = self._buffer
        at, have = 0, len(buffer)
        messages: list[wire.Message] = []
        while have - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "little")
            if size > wire.FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {size} bytes is over the limit of {wire.FRAME_BYTES_MAX}")
            if have - at - 4 < size:
                break
            message = wire.decode_envelope(wire.TO_WORKER, bytes(memoryview(buffer)[at + 4 : at + 4 + size]))
            at += 4 + size
            if message is not None:
                messages.append(message)
        if at:
            del buffer[:at]
        return messages
