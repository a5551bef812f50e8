"""Byte values of the columns that travel between client, control plane, node and worker.

One byte an item keeps a frame of a thousand results at a thousand bytes of bookkeeping. The low bits say what the
item is, the high bit says where its payload lies.
"""

from __future__ import annotations

from typing import Final

PAYLOAD_IS_REF: Final = 0x80
"""The payload is a serialised `PayloadRef` (a shared file or a blob), not the pickled bytes themselves."""

# --- OutputColumns.statuses -------------------------------------------------------------------------------------
OK: Final = 0
"""The result of the input, pickled."""
USER_EXCEPTION: Final = 1
"""The input raised; the payload is a pickled `(exception_pickle | None, class name, message, traceback text)` tuple."""
SYSTEM_ERROR: Final = 2
"""hotbed could not run it; the payload is a serialised `ErrorInfo`."""
GENERATOR_ITEM: Final = 3
"""One item of a generator; more outputs of this input follow."""
GENERATOR_END: Final = 4
"""The generator is exhausted; payload: 8 bytes little-endian, how many items it yielded."""

STATUS_MASK: Final = 0x7F

FINAL_STATUSES: Final = frozenset({OK, USER_EXCEPTION, SYSTEM_ERROR, GENERATOR_END})

# --- Limits -----------------------------------------------------------------------------------------------------
INLINE_REMOTE_LIMIT_BYTES: Final = 2 * 1024 * 1024
"""Largest payload inside a frame between hosts; above it a blob. Keeps a frame under gRPC's message limit."""
INLINE_LOCAL_LIMIT_BYTES: Final = 64 * 1024
"""Same host: from here on shared files win over copying through sockets (measured: gRPC is 4x slower at 64 MiB)."""
FRAME_ITEMS_MAX: Final = 1024
"""Most inputs or outputs in one frame: 5-20 ms of work at the speeds measured."""
FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
"""A sender starts a new frame above this; a receiver refuses frames above `MESSAGE_BYTES_MAX`."""
MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024
