"""A container's stdout and stderr: read always, kept up to a rate, batched by lines, the rest counted as dropped."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final

BATCH_S: Final = 0.05
_READ_BYTES: Final = 64 * 1024
_HELD_MAX: Final = 256 * 1024
STDOUT: Final = 1
STDERR: Final = 2


class LogLimiter:
    """Token bucket over bytes: `rate` a second, one second's worth at once. Pure; the clock is passed in."""

    def __init__(self, rate_bytes_s: int, now_s: float) -> None:
        self._rate = rate_bytes_s
        self._tokens = float(rate_bytes_s)
        self._at_s = now_s

    def take(self, wanted: int, now_s: float) -> int:
        """How many of `wanted` bytes may pass now."""
        self._tokens = min(float(self._rate), self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted


class LogPipe:
    """One pipe of one container. The reader never blocks the writer: what is over the rate is read and dropped.

    Args:
        emit: Takes (data, dropped bytes before it); data ends with a line where possible.
    """

    def __init__(self, limiter: LogLimiter, emit: Callable[[bytes, int], None]) -> None:
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._limiter = limiter
        self._emit = emit
        self._held = bytearray()
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_end, self._on_readable)

    def close_write_end(self) -> None:
        """After the container has its copy."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def _on_readable(self) -> None:
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        room = min(len(data), _HELD_MAX - len(self._held))
        kept = self._limiter.take(room, time.monotonic())
        self._held += data[:kept]
        self._dropped += len(data) - kept
        if self._timer is None:
            self._timer = self._loop.call_later(BATCH_S, self._on_timer)

    def flush(self) -> None:
        """Send the whole lines that are in the pipe now. Cost: one failing read when there is nothing."""
        if self._read_end < 0:
            return
        self._on_readable()
        if self._held:
            self._send(whole_lines=True)

    def _on_timer(self) -> None:
        self._timer = None
        self._send(whole_lines=True)
        if self._held or self._dropped:
            self._timer = self._loop.call_later(BATCH_S * 4, self._on_late)

    def _on_late(self) -> None:
        self._timer = None
        self._send(whole_lines=False)  # a prompt without a newline is not held back for long

    def _send(self, *, whole_lines: bool) -> None:
        end = self._held.rfind(b"\n") + 1 if whole_lines else len(self._held)
        if whole_lines and not end and len(self._held) >= _HELD_MAX:
            end = len(self._held)
        if not end and not (self._dropped and not whole_lines):
            return
        data = bytes(self._held[:end])
        del self._held[:end]
        dropped, self._dropped = self._dropped, 0
        self._emit(data, dropped)

    def close(self) -> None:
        """Read what is left (bounded), send it, let go of the pipe. Safe to repeat."""
        self.close_write_end()
        if self._read_end < 0:
            return
        self._loop.remove_reader(self._read_end)
        for _ in range(16):
            try:
                data = os.read(self._read_end, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            kept = self._limiter.take(min(len(data), _HELD_MAX - len(self._held)), time.monotonic())
            self._held += data[:kept]
            self._dropped += len(data) - kept
        os.close(self._read_end)
        self._read_end = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send(whole_lines=False)
