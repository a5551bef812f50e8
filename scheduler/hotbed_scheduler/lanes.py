"""Inputs of a lane as runs of indices, and the record of one dispatch.

A lane knows its inputs as `[start, stop)` runs; only what is unusual about an input (attempts used, a delay) has an entry of
its own. So queueing and finishing a frame of a thousand inputs touches a few integers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotbed_scheduler.state import Container, FunctionState


def runs_of(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The `[start, stop)` runs of ascending, distinct indices."""
    if isinstance(indices, range):
        if indices:
            yield indices.start, indices.stop
        return
    start = previous = None
    for index in indices:
        if previous is None or start is None:
            start = index
        elif index != previous + 1:
            yield start, previous + 1
            start = index
        previous = index
    if start is not None and previous is not None:
        yield start, previous + 1


class Lane:
    """One lane: which inputs it has, which wait, and what is special about some.

    Invariant: every known index is in exactly one of runs or solo (queued), delayed, a dispatch's pending, or done; `queued`,
    `dispatched` and `done` count them.
    """

    __slots__ = (
        "active",
        "attempts",
        "cancelled",
        "client_id",
        "delayed",
        "dispatched",
        "done",
        "durable",
        "forgotten",
        "free_requeues",
        "function",
        "known",
        "lane_id",
        "priority",
        "queued",
        "records",
        "runs",
        "sequence",
        "solo",
        "virtual_time",
    )

    def __init__(self, lane_id: str, function: FunctionState, durable: bool, client_id: str, priority: int) -> None:
        self.lane_id = lane_id
        self.function = function
        self.durable = durable
        self.client_id = client_id
        self.priority = priority
        self.known: list[list[int]] = []
        self.runs: deque[list[int]] = deque()
        self.solo: set[int] = set()
        self.delayed: dict[int, int] = {}  # index -> ticket of its entry in the core's heap
        self.attempts: dict[int, int] = {}
        self.free_requeues: dict[int, int] = {}
        self.records: dict[int, DispatchRecord] = {}
        self.queued = 0
        self.dispatched = 0
        self.done = 0
        self.cancelled = False
        self.forgotten = False
        self.active = False
        self.virtual_time = 0.0
        self.sequence = 0

    @property
    def known_count(self) -> int:
        """How many inputs were ever submitted. Cost: the number of holes."""
        return sum(stop - start for start, stop in self.known)

    def admit(self, first: int, count: int) -> list[tuple[int, int]]:
        """Note these indices as known; the runs of them that are new (usually one)."""
        known, stop = self.known, first + count
        if not known:
            known.append([first, stop])
            return [(first, stop)]
        last = known[-1]
        if first >= last[1]:
            if first == last[1]:
                last[1] = stop
            else:
                known.append([first, stop])
            return [(first, stop)]
        fresh: list[tuple[int, int]] = []
        position, at = max(0, bisect_right(known, [first, 0]) - 1), first
        merged_start, merged_stop, cut_from, cut_to = first, stop, None, position
        for here in range(position, len(known)):
            have_start, have_stop = known[here]
            if have_stop < first:
                cut_to = here + 1
                continue
            if have_start > stop:
                break
            if cut_from is None:
                cut_from = here
            cut_to = here + 1
            if have_start > at:
                fresh.append((at, min(have_start, stop)))
            at = max(at, have_stop)
            merged_start, merged_stop = min(merged_start, have_start), max(merged_stop, have_stop)
        if at < stop:
            fresh.append((at, stop))
        if cut_from is None:
            cut_from = cut_to
        known[cut_from:cut_to] = [[merged_start, merged_stop]]
        return fresh

    def append(self, start: int, stop: int) -> None:
        """Queue a run behind the others."""
        runs = self.runs
        if runs and runs[-1][1] == start:
            runs[-1][1] = stop
        else:
            runs.append([start, stop])
        self.queued += stop - start

    def requeue(self, indices: Sequence[int]) -> None:
        """Queue ascending indices before the others: they are older."""
        for start, stop in reversed(list(runs_of(indices))):
            if self.runs and self.runs[0][0] == stop:
                self.runs[0][0] = start
            else:
                self.runs.appendleft([start, stop])
            self.queued += stop - start

    def take(self, count: int) -> Sequence[int]:
        """Remove up to `count` (>= 1) queued indices from the front; the lane must have runs."""
        runs = self.runs
        run = runs[0]
        start, stop = run
        if stop - start > count:
            run[0] = start + count
            self.queued -= count
            return range(start, start + count)
        runs.popleft()
        if stop - start == count or not runs:
            self.queued -= stop - start
            return range(start, stop)
        taken = list(range(start, stop))
        while runs and len(taken) < count:
            run = runs[0]
            upto = min(run[1], run[0] + count - len(taken))
            taken.extend(range(run[0], upto))
            if upto == run[1]:
                runs.popleft()
            else:
                run[0] = upto
        self.queued -= len(taken)
        return taken

    def drop_queued(self, wanted: set[int] | None) -> list[int]:
        """Remove queued and delayed inputs (None: all of them) and return them; they are not yet counted as done."""
        dropped: list[int] = []
        kept: deque[list[int]] = deque()
        for start, stop in self.runs:
            if wanted is None:
                dropped.extend(range(start, stop))
                continue
            hits = sorted(wanted.intersection(range(start, stop)))
            at = start
            for hit in hits:
                if hit > at:
                    kept.append([at, hit])
                at = hit + 1
            if at < stop:
                kept.append([at, stop])
            dropped.extend(hits)
        self.runs = kept
        solo = set(self.solo) if wanted is None else self.solo & wanted
        self.solo -= solo
        dropped.extend(solo)
        self.queued -= len(dropped)
        delayed = list(self.delayed) if wanted is None else [index for index in self.delayed if index in wanted]
        for index in delayed:
            del self.delayed[index]
        dropped.extend(delayed)
        return dropped

    def forget_exceptions(self, indices: Iterable[int]) -> None:
        """Drop the sparse notes about finished inputs."""
        for notes in (self.attempts, self.free_requeues):
            if notes:
                for index in notes.keys() & set(indices):
                    del notes[index]


class DispatchRecord:
    """Inputs of one lane that one container got under one epoch, and which of them are still out.

    `low..high` while outputs come in order (the usual case), a set `pending` from the first one out of order.
    `ghosts` are inputs that already ended (cancelled) but still occupy the container.
    """

    __slots__ = ("container", "epoch", "ghosts", "high", "lane", "low", "pending")

    def __init__(self, epoch: int, container: Container, lane: Lane, indices: Sequence[int]) -> None:
        self.epoch = epoch
        self.container = container
        self.lane = lane
        self.pending: set[int] | None = None
        self.low = self.high = 0
        if isinstance(indices, range):
            self.low, self.high = indices.start, indices.stop
        else:
            self.pending = set(indices)
        self.ghosts: set[int] = set()

    def outstanding(self) -> int:
        """How many inputs are out, ghosts not counted."""
        return self.high - self.low if self.pending is None else len(self.pending)

    def indices(self) -> Sequence[int]:
        """The inputs that are out, ascending, ghosts not counted."""
        return range(self.low, self.high) if self.pending is None else sorted(self.pending)

    def as_set(self) -> set[int]:
        """`pending`, switched to from low..high if need be."""
        if self.pending is None:
            self.pending = set(range(self.low, self.high))
        return self.pending

    def holds(self, index: int) -> bool:
        """Whether this input is out under this dispatch."""
        return self.low <= index < self.high if self.pending is None else index in self.pending

    def discard(self, index: int) -> None:
        """One input that is out came back."""
        if self.pending is None and index == self.low:
            self.low += 1
        else:
            self.as_set().discard(index)

    def finish(self, indices: Sequence[int]) -> bool:
        """All of these came back, if they are distinct and out; otherwise False and nothing changes."""
        count = len(indices)
        if self.pending is None:
            low = self.low
            if count == 1:
                if indices[0] == low < self.high:
                    self.low = low + 1
                    return True
            elif low + count <= self.high and count:
                expected = range(low, low + count)
                if (indices == expected) if type(indices) is range else (list(expected) == list(indices)):
                    self.low = low + count
                    return True
        pending, back = self.as_set(), set(indices)
        if len(back) != count or not back <= pending:
            return False
        pending -= back
        return True

    def banish(self, indices: Iterable[int]) -> None:
        """These ended already; they only occupy the container from now on."""
        pending = self.as_set()
        for index in indices:
            if index in pending:
                pending.discard(index)
                self.ghosts.add(index)
