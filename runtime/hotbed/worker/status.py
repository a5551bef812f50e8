"""The status page: which input runs now, readable by the node after this process has died.

Layout at offset 0, little-endian: u32 lane, u32 index, u64 sequence (odd = running), f64 CLOCK_MONOTONIC start in seconds.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

PAGE: Final = Struct("<IIQd")
PAGE_BYTES: Final = 4096


def open_page(path: str) -> memoryview:
    """Map the page the node made; a private buffer when there is none (a worker without a node, in tests)."""
    try:
        from mmap import mmap

        with open(path, "r+b", buffering=0) as file:
            return memoryview(mmap(file.fileno(), PAGE_BYTES))
    except (OSError, ValueError):
        return memoryview(bytearray(PAGE_BYTES))
