"""Payloads and progress of one lane: columns indexed by input index, no object per input."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from hotbed_proto.errors import RequestSizeError
from hotbed_proto.frames import FINAL_STATUSES, GENERATOR_ITEM, STATUS_MASK
from hotbed_proto.v1 import common_pb2

ABSENT: Final = 0
LIVE: Final = 1
DONE: Final = 2
TRIM_AT: Final = 4096
GAP_MAX: Final = 1 << 24
RECENT_BYTES: Final = 8 * 2**20


class Lane:
    """Inputs `base`.. of a lane; everything below `base` that was ever here is final and forgotten."""

    __slots__ = (
        "base",
        "bytes_live",
        "closed",
        "container_id",
        "durable",
        "flags",
        "function_id",
        "lane_id",
        "num_done",
        "num_inputs",
        "owner",
        "payloads",
        "recent",
        "recent_bytes",
        "result_files",
        "states",
        "subscribed",
        "trimmed",
        "undelivered",
        "undelivered_bytes",
    )

    def __init__(self, lane_id: str, function_id: str, owner: str, durable: bool) -> None:
        self.lane_id = lane_id
        self.function_id = function_id
        self.owner = owner
        self.durable = durable
        self.closed = False
        self.subscribed = False
        self.result_files = False
        self.base = 0
        self.trimmed = 0
        self.payloads: list[bytes | None] = []
        self.flags = bytearray()
        self.states = bytearray()
        self.num_inputs = 0
        self.num_done = 0
        self.bytes_live = 0
        self.undelivered: deque[common_pb2.OutputColumns] = deque()
        self.undelivered_bytes = 0
        self.recent: OrderedDict[int, common_pb2.OutputColumns] = OrderedDict()
        self.recent_bytes = 0

    @property
    def num_live(self) -> int:
        """Inputs without a final result."""
        return self.num_inputs - self.num_done

    def state(self, index: int) -> int:
        """ABSENT, LIVE or DONE."""
        at = index - self.base
        if at < 0:
            return DONE if index < self.trimmed else ABSENT
        return self.states[at] if at < len(self.states) else ABSENT

    def add(self, first: int, payloads: Sequence[bytes], flags: bytes) -> list[tuple[int, int]]:
        """Take a frame's inputs; known ones are ignored. Returns the runs (first, count) that are new.

        Raises:
            RequestSizeError: The frame leaves a gap of more than 16 million indices.
        """
        count = len(payloads)
        if not self.states and not self.trimmed:
            self.base = first
        end = self.base + len(self.states)
        if first == end:  # the usual case: the next frame of a growing lane
            self._append(payloads, flags)
            return [(first, count)]
        if abs(first - end) > GAP_MAX or abs(first - self.base) > GAP_MAX:
            raise RequestSizeError(f"input {first} is too far from input {end}, the next of its lane")
        if first < self.base and first >= self.trimmed:
            self._pad_left(self.base - first)
        if first + count > end:
            self._pad_right(first + count - end)
        runs: list[tuple[int, int]] = []
        for offset in range(count):
            index = first + offset
            at = index - self.base
            if at < 0 or self.states[at] != ABSENT:
                continue
            self.payloads[at] = payloads[offset]
            self.flags[at] = flags[offset] if offset < len(flags) else 0
            self.states[at] = LIVE
            self.bytes_live += len(payloads[offset])
            self.num_inputs += 1
            if runs and runs[-1][0] + runs[-1][1] == index:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((index, 1))
        return runs

    def _append(self, payloads: Sequence[bytes], flags: bytes) -> None:
        count = len(payloads)
        self.payloads.extend(payloads)
        self.flags += flags[:count].ljust(count, b"\0")
        self.states += b"\x01" * count
        self.num_inputs += count
        self.bytes_live += sum(map(len, payloads))

    def _pad_left(self, count: int) -> None:
        self.payloads[:0] = [None] * count
        self.flags[:0] = bytes(count)
        self.states[:0] = bytes(count)
        self.base -= count

    def _pad_right(self, count: int) -> None:
        self.payloads.extend([None] * count)
        self.flags += bytes(count)
        self.states += bytes(count)

    def fill(self, columns: common_pb2.InputColumns, indices: Sequence[int]) -> None:
        """Put these inputs' columns into a frame. Cost: about 0.1 us an input for a contiguous run."""
        columns.lane_id = self.lane_id
        columns.indices.extend(indices)
        low, high = indices[0] - self.base, indices[-1] + 1 - self.base
        if high - low == len(indices) and (
            isinstance(indices, range) or list(indices) == list(range(indices[0], indices[-1] + 1))
        ):
            payloads: list[bytes | None] = self.payloads[low:high]
            flags = bytes(self.flags[low:high])
        else:
            payloads = [self.payloads[i - self.base] for i in indices]
            flags = bytes([self.flags[i - self.base] for i in indices])
        columns.payloads.extend([p if p is not None else b"" for p in payloads] if None in payloads else payloads)  # type: ignore[list-item]
        if any(flags):
            columns.flags = flags

    def finish(self, columns: common_pb2.OutputColumns) -> int:
        """Note final outputs and drop their payloads; returns how many inputs became final."""
        statuses = columns.statuses
        if statuses and any(map(_OPEN.__contains__, statuses)):
            final = [i for i, s in zip(columns.indices, statuses, strict=False) if s & STATUS_MASK in FINAL_STATUSES]
        else:
            final = list(columns.indices)
        if not final:
            return 0
        low, high = final[0] - self.base, final[-1] + 1 - self.base
        if low >= 0 and high - low == len(final) and final == list(range(final[0], final[-1] + 1)):
            count = self.states.count(LIVE, low, high)
            if count == len(final):
                self.bytes_live -= sum(map(len, self.payloads[low:high]))  # type: ignore[arg-type]
                self.payloads[low:high] = [None] * count
                self.states[low:high] = b"\x02" * count
                self.num_done += count
                self._trim()
                return count
        count = 0
        for index in final:
            at = index - self.base
            if 0 <= at < len(self.states) and self.states[at] == LIVE:
                self.bytes_live -= len(self.payloads[at] or b"")
                self.payloads[at] = None
                self.states[at] = DONE
                count += 1
        self.num_done += count
        self._trim()
        return count

    def _trim(self) -> None:
        states, size = self.states, len(self.states)
        if size < TRIM_AT or states[0] != DONE or states[size // 2] != DONE:
            return
        ends = [at for at in (states.find(LIVE), states.find(ABSENT)) if at >= 0]  # memchr: no copy of what may be megabytes
        done = min(ends, default=size)
        if done * 2 >= size:  # amortised: each trim at least halves the columns
            del self.payloads[:done]
            del self.flags[:done]
            del self.states[:done]
            self.base += done
            self.trimmed = self.base

    def push(self, columns: common_pb2.OutputColumns) -> int:
        """Keep outputs until they are delivered; returns their size in bytes."""
        size = columns.ByteSize()
        self.undelivered.append(columns)
        self.undelivered_bytes += size
        return size

    def delivered(self, columns: common_pb2.OutputColumns) -> None:
        """Remember what was last written: the connection may break before the client has read it."""
        self.recent[id(columns)] = columns
        self.recent_bytes += columns.ByteSize()
        while self.recent_bytes > RECENT_BYTES and len(self.recent) > 2:
            self.recent_bytes -= self.recent.popitem(last=False)[1].ByteSize()


_OPEN = frozenset({GENERATOR_ITEM, GENERATOR_ITEM | 0x80})


def pick(columns: common_pb2.OutputColumns, positions: Sequence[int]) -> common_pb2.OutputColumns:
    """A new frame of some of the outputs."""
    chosen = common_pb2.OutputColumns(lane_id=columns.lane_id)
    indices, payloads, statuses = columns.indices, columns.payloads, columns.statuses
    chosen.indices.extend([indices[p] for p in positions])
    chosen.payloads.extend([payloads[p] for p in positions])
    if statuses:
        chosen.statuses = bytes([statuses[p] for p in positions])
    return chosen
