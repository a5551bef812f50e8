"""Store: one set of promises for every implementation, and what survives a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hotbed_scheduler.store import (
    AppRecord,
    FunctionRecord,
    InputsRecord,
    LaneClosedRecord,
    MemoryStore,
    Record,
    ResultsRecord,
    Store,
)
from hotbed_scheduler.store_sqlite import SqliteStore

WRITER = """
import sys
from pathlib import Path
from hotbed_scheduler.store import InputsRecord
from hotbed_scheduler.store_sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
n = 0
while True:
    store.write([InputsRecord("fc-killed00", "fu-killed00", n + i, 1, b"x" * 2000, 1.0) for i in range(50)])
    n += 50
    print(n, flush=True)
"""


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    make: dict[str, Callable[[], Store]] = {"memory": MemoryStore, "sqlite": lambda: SqliteStore(tmp_path / "state.db")}
    return make[request.param]()


def inputs(lane: str, first: int, count: int, at: float = 1.0) -> InputsRecord:
    return InputsRecord(lane, "fu-1", first, count, b"in%d" % first, at)


def results(lane: str, first: int, last: int, final: int, at: float = 1.0) -> ResultsRecord:
    return ResultsRecord(lane, first, last, final, b"out%d" % first, at)


def test_generations_count_up(store: Store) -> None:
    assert [store.next_generation() for _ in range(3)] == [1, 2, 3]


def test_apps_and_functions(store: Store) -> None:
    store.write([AppRecord("ap-1", "one", True, 5.0), AppRecord("ap-2", "two", False, 6.0)])
    store.write(
        [FunctionRecord("fu-1", "ap-1", b"a"), FunctionRecord("fu-2", "ap-2", b"b"), FunctionRecord("fu-1", "ap-1", b"c")]
    )
    assert sorted(store.apps(), key=lambda a: a.app_id) == [
        AppRecord("ap-1", "one", True, 5.0),
        AppRecord("ap-2", "two", False, 6.0),
    ]
    assert {f.function_id: f.spec for f in store.functions()} == {"fu-1": b"c", "fu-2": b"b"}
    store.write([AppRecord("ap-1", "one", True, 5.0, stopped=True), AppRecord("ap-2", "two", False, 6.0, stopped=True)])
    assert store.apps() == []
    assert store.functions() == []
    store.write([inputs("fc-1", 0, 1)])
    assert [f.function_id for f in store.functions()] == ["fu-1"], "an unfinished lane keeps its function"


def test_a_lane_from_first_input_to_last_result(store: Store) -> None:
    assert store.lane("fc-1") is None
    store.write([inputs("fc-1", 512, 100), inputs("fc-1", 0, 512), inputs("fc-1", 0, 512)])
    lane = store.lane("fc-1")
    assert lane is not None and (lane.num_inputs, lane.num_done, lane.closed) == (612, 0, False)
    assert [(r.first_index, r.count, r.data) for r in store.inputs("fc-1")] == [(0, 512, b"in0"), (512, 100, b"in512")]
    store.write([results("fc-1", 0, 511, 512), LaneClosedRecord("fc-1")])
    assert [x.lane_id for x in store.unfinished_lanes()] == ["fc-1"]
    store.write([results("fc-1", 512, 611, 100)])
    assert store.unfinished_lanes() == []
    lane = store.lane("fc-1")
    assert lane is not None and lane.closed and lane.num_done == 612
    assert [r.data for r in store.results("fc-1")] == [b"out0", b"out512"]
    assert [r.data for r in store.results("fc-1", [600])] == [b"out512"]
    assert store.results("fc-1", []) == []


def test_results_of_an_unknown_lane_are_nothing(store: Store) -> None:
    store.write([results("fc-x", 0, 0, 1), LaneClosedRecord("fc-x")])
    assert store.lane("fc-x") is None
    assert store.results("fc-x") == []


def test_sweep_expires_then_forgets_finished_lanes_only(store: Store) -> None:
    store.write([inputs("fc-old", 0, 1, 10.0), results("fc-old", 0, 0, 1, 20.0)])
    store.write([inputs("fc-open", 0, 1, 10.0)])
    store.write([inputs("fc-new", 0, 1, 10.0), results("fc-new", 0, 0, 1, 200.0)])
    assert store.sweep(100.0) == 1
    old = store.lane("fc-old")
    assert old is not None and old.expired
    assert store.results("fc-old") == []
    assert not any(lane.expired for lane in map(store.lane, ("fc-open", "fc-new")) if lane is not None)
    assert len(store.results("fc-new")) == 1
    assert store.sweep(100.0) == 0
    store.sweep(150.0)
    assert store.lane("fc-old") is None
    assert store.lane("fc-open") is not None


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")

    def broken() -> list[Record]:
        return [inputs("fc-1", 0, 1), InputsRecord("fc-2", None, 0, 1, b"", 1.0)]  # type: ignore[arg-type]

    with pytest.raises(Exception, match="NOT NULL"):
        store.write(broken())
    assert store.lane("fc-1") is None
    store.write([inputs("fc-1", 0, 1)])
    assert store.lane("fc-1") is not None


def test_everything_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = 0
        until = time.monotonic() + 0.7
        for line in writer.stdout:
            acknowledged = int(line)
            if time.monotonic() > until:
                break
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        writer.stdout.close()
        store = SqliteStore(path)
        stored = [r.first_index for r in store.inputs("fc-killed00")]
        assert acknowledged > 0
        assert set(range(acknowledged)) <= set(stored)
        assert len(stored) % 50 == 0, "whole transactions or nothing"
        lane = store.lane("fc-killed00")
        assert lane is not None and lane.num_inputs == len(stored)
        store.close()


def test_the_database_is_private(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "a" / "state.db").close()
    assert (tmp_path / "a" / "state.db").stat().st_mode & 0o077 == 0


def test_forty_thousand_inputs_a_second(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    started = time.perf_counter()
    for n in range(0, 20_000, 1000):
        store.write([InputsRecord("fc-1", "fu-1", i, 1, b"x" * 100, 1.0) for i in range(n, n + 1000)])
    rate = 20_000 / (time.perf_counter() - started)
    assert rate > 8_000, f"{rate:.0f} rows/s; one-row frames in groups of 1000 (40 k/s on a quiet machine)"
