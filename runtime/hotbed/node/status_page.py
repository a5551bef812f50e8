"""Reads the page on which a worker says what it runs. The writer is hostile: every value may be a lie or torn."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

_PAGE: Final = Struct("<IIQd")
PAGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Running:
    """One sighting of a running input; `started_s` is the worker's own claim on CLOCK_MONOTONIC."""

    lane: int
    index: int
    sequence: int
    started_s: float


class StatusPage:
    """The node's handle on one page. It is read with pread, never mapped: a truncated mapping would kill us by SIGBUS."""

    def __init__(self, out_dir: Path) -> None:
        self._descriptor = os.open(
            out_dir / ".status", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666
        )
        os.fchmod(self._descriptor, 0o666)  # the container's user is not ours; the folder above is
        os.ftruncate(self._descriptor, PAGE_BYTES)

    def running(self) -> Running | None:
        """What the worker says it runs; None when idle or unreadable."""
        data = os.pread(self._descriptor, _PAGE.size, 0)
        if len(data) < _PAGE.size:
            return None
        lane, index, sequence, started_s = _PAGE.unpack(data)
        return Running(lane, index, sequence, started_s) if sequence & 1 else None

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
