"""Who goes first: lanes within a function, apps and functions for room on the nodes."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotbed_scheduler.lanes import Lane


_SERVED = 2**60
"""Puts a lane that was just served behind one that just woke up, at equal virtual time."""


class LaneQueue:
    """Start-time fair queueing over the lanes of one function that have queued inputs; higher priority strictly first.

    A lane's virtual time grows by the inputs it was given. A lane that wakes up starts at the queue's own virtual time, which
    is behind every lane that has been served: a single call goes out next beside a map of a million, and a lane that keeps
    waking up cannot starve one that is always there. Cost: one heap push and pop a turn.
    """

    __slots__ = ("_heap", "_sequence", "_virtual_time")

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, int, Lane]] = []
        self._sequence = 0
        self._virtual_time = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def wake(self, lane: Lane) -> None:
        """A lane has queued inputs (again)."""
        if not lane.active:
            lane.active = True
            lane.virtual_time = max(lane.virtual_time, self._virtual_time)
            self._sequence += 1
            heapq.heappush(self._heap, (-lane.priority, lane.virtual_time, self._sequence, lane))

    def head(self) -> Lane | None:
        """The lane whose turn it is; None when nothing is queued."""
        heap = self._heap
        while heap:
            lane = heap[0][3]
            if lane.runs:
                return lane
            heapq.heappop(heap)
            lane.active = False
        return None

    def served(self, lane: Lane, count: int) -> None:
        """The head was given `count` places."""
        heap = self._heap
        assert heap[0][3] is lane, "only the head is served"
        self._virtual_time = max(self._virtual_time, lane.virtual_time)
        lane.virtual_time += count
        if lane.runs:
            self._sequence += 1
            heapq.heapreplace(heap, (-lane.priority, lane.virtual_time, _SERVED + self._sequence, lane))
        else:
            heapq.heappop(heap)
            lane.active = False


def claim(app_containers: int, function_containers: int, order: int) -> tuple[int, int, int]:
    """Sort key for room on the nodes, smallest first: max-min between apps, then between functions, then first come."""
    return (app_containers, function_containers, order)


def may_displace(mine: int, theirs: int) -> bool:
    """Whether a claimant with `mine` containers may ask a holder of `theirs` to give one up.

    Holders and claimants are apps, or functions when the app is the same. Having none justifies taking the last one too:
    the two then take turns, at the pace of `CoreSettings.yield_after_s`.
    """
    return theirs >= mine + 2 or (mine == 0 and theirs >= 1)
