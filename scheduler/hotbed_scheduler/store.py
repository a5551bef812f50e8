"""What outlives the server: apps, function specs, durable lanes with their inputs and results.

One `Store` is used from one thread (the server's writer thread). `write` is one transaction: when it returns, everything
in it survives a kill of the process and of the machine. Payload columns are opaque blobs, one row a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AppRecord:
    """An app; detached ones live on without their client."""

    app_id: str
    name: str
    detach: bool
    created_unix_s: float
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """A function's whole spec, serialised."""

    function_id: str
    app_id: str
    spec: bytes


@dataclass(frozen=True, slots=True)
class InputsRecord:
    """One submitted frame of a durable lane. Repeating (lane_id, first_index) changes nothing.

    Attributes:
        data: The serialised Submit.
    """

    lane_id: str
    function_id: str
    first_index: int
    count: int
    data: bytes
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class LaneClosedRecord:
    """No more inputs will come."""

    lane_id: str


@dataclass(frozen=True, slots=True)
class ResultsRecord:
    """Accepted outputs of a durable lane.

    Attributes:
        first_index, last_index: Least and greatest index among them.
        final_count: How many of them are final (generator items are not).
        data: Serialised OutputColumns.
    """

    lane_id: str
    first_index: int
    last_index: int
    final_count: int
    data: bytes
    at_unix_s: float


Record = AppRecord | FunctionRecord | InputsRecord | LaneClosedRecord | ResultsRecord


@dataclass(frozen=True, slots=True)
class LaneRecord:
    """A durable lane as stored."""

    lane_id: str
    function_id: str
    num_inputs: int
    num_done: int
    closed: bool
    expired: bool
    """Its inputs and results are past their retention and gone."""


class Store(Protocol):
    """Durable state. Errors of the medium come up as they are (sqlite3.Error, OSError)."""

    def next_generation(self) -> int:
        """Count one more start of a server on this state; 1 for the first. Durable when it returns."""
        ...

    def write(self, records: Iterable[Record]) -> None:
        """Store all or nothing. Cost: one fsync, and 1-2 us a row (SQLite)."""
        ...

    def apps(self) -> list[AppRecord]:
        """Every app that is not stopped."""
        ...

    def functions(self) -> list[FunctionRecord]:
        """Every function of an app that is not stopped, and every one that an unfinished lane needs."""
        ...

    def lane(self, lane_id: str) -> LaneRecord | None:
        """One lane, or None when it was never stored."""
        ...

    def unfinished_lanes(self) -> list[LaneRecord]:
        """Lanes with inputs that have no final result."""
        ...

    def inputs(self, lane_id: str) -> list[InputsRecord]:
        """The frames of a lane in index order."""
        ...

    def results(self, lane_id: str, indices: Sequence[int] | None = None) -> list[ResultsRecord]:
        """Result rows, oldest first; with `indices` those that may hold one of them (decided by their index range)."""
        ...

    def sweep(self, before_unix_s: float) -> int:
        """Expire finished lanes whose last change is older; returns how many. The lane itself stays, as expired, for as
        long again, so that a late reader hears "expired" and not "unknown"."""
        ...

    def close(self) -> None:
        """Release files. Nothing may be called afterwards."""
        ...


class MemoryStore:
    """A `Store` without a disk, for tests: everything is lost with the process."""

    def __init__(self) -> None:
        self._generation = 0
        self._apps: dict[str, AppRecord] = {}
        self._functions: dict[str, FunctionRecord] = {}
        self._lanes: dict[str, _MemoryLane] = {}

    def next_generation(self) -> int:
        """See `Store`."""
        self._generation += 1
        return self._generation

    def write(self, records: Iterable[Record]) -> None:
        """See `Store`."""
        for record in records:
            match record:
                case AppRecord():
                    self._apps[record.app_id] = record
                case FunctionRecord():
                    self._functions[record.function_id] = record
                case InputsRecord():
                    lane = self._lanes.setdefault(record.lane_id, _MemoryLane(record.function_id))
                    lane.inputs.setdefault(record.first_index, record)
                    lane.touched_unix_s = max(lane.touched_unix_s, record.at_unix_s)
                case ResultsRecord():
                    if (lane := self._lanes.get(record.lane_id)) is not None:
                        lane.results.append(record)
                        lane.touched_unix_s = max(lane.touched_unix_s, record.at_unix_s)
                case LaneClosedRecord():
                    if (lane := self._lanes.get(record.lane_id)) is not None:
                        lane.closed = True

    def apps(self) -> list[AppRecord]:
        """See `Store`."""
        return [app for app in self._apps.values() if not app.stopped]

    def functions(self) -> list[FunctionRecord]:
        """See `Store`."""
        live = {app.app_id for app in self.apps()}
        needed = {lane.function_id for lane in self.unfinished_lanes()}
        return [f for f in self._functions.values() if f.app_id in live or f.function_id in needed]

    def lane(self, lane_id: str) -> LaneRecord | None:
        """See `Store`."""
        lane = self._lanes.get(lane_id)
        if lane is None:
            return None
        done = sum(r.final_count for r in lane.results)
        count = sum(r.count for r in lane.inputs.values())
        return LaneRecord(lane_id, lane.function_id, count, done, lane.closed, lane.expired)

    def unfinished_lanes(self) -> list[LaneRecord]:
        """See `Store`."""
        lanes = [self.lane(lane_id) for lane_id in self._lanes]
        return [lane for lane in lanes if lane is not None and lane.num_done < lane.num_inputs]

    def inputs(self, lane_id: str) -> list[InputsRecord]:
        """See `Store`."""
        lane = self._lanes.get(lane_id)
        return [lane.inputs[first] for first in sorted(lane.inputs)] if lane else []

    def results(self, lane_id: str, indices: Sequence[int] | None = None) -> list[ResultsRecord]:
        """See `Store`."""
        lane = self._lanes.get(lane_id)
        rows = lane.results if lane else []
        if indices is None:
            return list(rows)
        return [r for r in rows if any(r.first_index <= i <= r.last_index for i in indices)]

    def sweep(self, before_unix_s: float) -> int:
        """See `Store`."""
        count = 0
        for lane_id, lane in list(self._lanes.items()):
            record = self.lane(lane_id)
            if lane.touched_unix_s >= before_unix_s or record is None or record.num_done < record.num_inputs:
                continue
            if lane.expired:
                del self._lanes[lane_id]
                continue
            lane.expired, lane.touched_unix_s = True, before_unix_s
            lane.inputs.clear()
            lane.results.clear()
            count += 1
        return count

    def close(self) -> None:
        """See `Store`."""


class _MemoryLane:
    def __init__(self, function_id: str) -> None:
        self.function_id = function_id
        self.inputs: dict[int, InputsRecord] = {}
        self.results: list[ResultsRecord] = []
        self.closed = False
        self.expired = False
        self.touched_unix_s = 0.0
