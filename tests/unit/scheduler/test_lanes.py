"""Runs of indices against a plain set: whatever is done to a lane, both agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hotbed_scheduler.events import FunctionDef
from hotbed_scheduler.lanes import DispatchRecord, Lane, runs_of
from hotbed_scheduler.state import FunctionState


def lane() -> Lane:
    return Lane("fc-1", FunctionState(FunctionDef("fu-1", "ap-1", "f"), 0), False, "cl-1", 0)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12))
def test_admit_returns_each_index_once(submissions: list[tuple[int, int]]) -> None:
    it, model = lane(), set[int]()
    for first, count in submissions:
        fresh = [index for start, stop in it.admit(first, count) for index in range(start, stop)]
        assert sorted(fresh) == sorted(set(range(first, first + count)) - model)
        assert len(fresh) == len(set(fresh))
        model |= set(fresh)
        assert it.known_count == len(model)
        assert all(a[1] < b[0] for a, b in zip(it.known, it.known[1:], strict=False)), "runs that touch are merged"


@given(
    st.sets(st.integers(0, 60), min_size=1), st.lists(st.integers(1, 9), min_size=1, max_size=40), st.sets(st.integers(0, 60))
)
def test_take_requeue_and_drop_lose_nothing(queued: set[int], takes: list[int], dropped: set[int]) -> None:
    it = lane()
    for start, stop in runs_of(sorted(queued)):
        it.append(start, stop)
    out: list[int] = []
    for count in takes:
        if it.runs:
            took = it.take(count)
            assert 1 <= len(took) <= count
            out += took
    assert out == sorted(queued)[: len(out)]
    it.requeue(out)
    assert it.queued == len(queued)
    assert sorted(it.drop_queued(dropped)) == sorted(queued & dropped)
    rest = [index for run in it.runs for index in range(*run)]
    assert rest == sorted(queued - dropped)
    assert it.queued == len(rest)


@given(st.integers(1, 30), st.lists(st.lists(st.integers(-2, 32), max_size=6), max_size=12))
def test_finish_takes_exactly_what_is_out(count: int, frames: list[list[int]]) -> None:
    record, model = DispatchRecord(1, None, lane(), range(count)), set(range(count))  # type: ignore[arg-type]
    for frame in frames:
        valid = bool(frame) and len(set(frame)) == len(frame) and set(frame) <= model
        assert record.finish(frame) == valid or not frame
        if valid:
            model -= set(frame)
        assert set(record.indices()) == model
        assert record.outstanding() == len(model)
