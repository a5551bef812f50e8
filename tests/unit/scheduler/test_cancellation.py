"""Cancelling inputs, lanes and apps: the user hears at once, the container's place is free when the worker says so."""

from __future__ import annotations

from hotbed_proto import frames
from hotbed_scheduler.actions import Accept, CancelOnContainer, Dispatch, Fail, StartContainer, StopContainer
from hotbed_scheduler.events import AppStopped, ContainerExited, InputsCancelled, LaneForgotten
from support.scheduling import CoreBench


def slow() -> tuple[CoreBench, Dispatch]:
    """One container of a slow function, one input of fc-map at it and four queued."""
    bench = CoreBench()
    bench.warm(each_s=0.5)
    bench.submit(count=5, lane="fc-map")
    return bench, bench.one(Dispatch)


def test_queued_inputs_end_at_once() -> None:
    bench, _ = slow()
    bench(InputsCancelled("fc-map", (2, 3, 99)))
    assert (bench.one(Fail).code, list(bench.one(Fail).indices)) == ("cancelled", [2, 3])
    assert len(bench.actions) == 1


def test_a_running_input_ends_now_and_keeps_its_place_until_the_worker_is_rid_of_it() -> None:
    bench, dispatch = slow()
    bench(InputsCancelled("fc-map", (0,)))
    assert list(bench.one(Fail).indices) == [0]
    cancel = bench.one(CancelOnContainer)
    assert (cancel.container_id, list(cancel.indices), cancel.kill_after_s) == (dispatch.container_id, [0], 5.0)
    assert bench.of(Dispatch) == []
    bench.answer(dispatch, None, bytes([frames.SYSTEM_ERROR]), each_s=0.5)
    assert bench.of(Accept) == []
    assert list(bench.one(Dispatch).indices) == [1]


def test_cancelling_a_lane_covers_inputs_to_come() -> None:
    bench, _ = slow()
    bench(InputsCancelled("fc-map"))
    assert list(bench.one(Fail).indices) == [0, 1, 2, 3, 4]
    bench.submit(5, lane="fc-map")
    assert (bench.one(Fail).code, list(bench.one(Fail).indices)) == ("cancelled", [5])


def test_terminate_stops_the_container() -> None:
    bench, dispatch = slow()
    bench(InputsCancelled("fc-map", (0,), terminate_containers=True))
    assert bench.one(StopContainer).container_id == dispatch.container_id
    assert bench.of(CancelOnContainer) == []
    bench(ContainerExited(dispatch.container_id, "stopped", "", (("fc-map", 0),)))
    assert bench.of(Fail) == []
    assert bench.of(StartContainer)


def test_a_killed_cancelled_input_costs_its_neighbours_nothing() -> None:
    bench = CoreBench()
    bench.warm()
    bench.submit(count=4, lane="fc-map")
    dispatch = bench.one(Dispatch)
    bench(InputsCancelled("fc-map", (1,)))
    bench(ContainerExited(dispatch.container_id, "cancelled", "", (("fc-map", 1),)))
    assert bench.of(Fail) == []
    bench.start()
    assert list(bench.one(Dispatch).indices) == [0, 2, 3]


def test_cancelling_twice_or_too_late_says_nothing() -> None:
    bench, dispatch = slow()
    bench.answer(dispatch, each_s=0.5)
    assert bench(InputsCancelled("fc-map", (0,))) == []
    bench(InputsCancelled("fc-map", (3,)))
    assert bench(InputsCancelled("fc-map", (3,))) == []
    assert bench(InputsCancelled("fc-none")) == []


def test_a_forgotten_lane_ends_without_results() -> None:
    bench, dispatch = slow()
    bench(LaneForgotten("fc-map"))
    assert bench.of(Fail) == []
    assert list(bench.one(CancelOnContainer).indices) == [0]
    assert bench.answer(dispatch, each_s=0.5) == []
    stats = bench.core.function_stats("fu-1")
    assert stats is not None
    assert (stats.queued, stats.running) == (0, 0)
    bench.submit(lane="fc-map")  # a new lane by that name
    assert list(bench.one(Dispatch).indices) == [0]


def test_stopping_an_app_ends_everything() -> None:
    bench, dispatch = slow()
    bench(AppStopped("ap-1", "done"))
    assert list(bench.one(Fail).indices) == [0, 1, 2, 3, 4]
    assert bench.one(StopContainer).container_id == dispatch.container_id
    assert bench.answer(dispatch, each_s=0.5) == []
    bench(ContainerExited(dispatch.container_id, "stopped"))
    assert bench.actions == []
    (node,) = bench.core.node_views()
    assert (node.free_milli_cpu, node.containers) == (4000, 0)
    bench.submit(9, lane="fc-late")
    assert bench.one(Fail).code == "not-found"
