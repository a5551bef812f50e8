"""Queued inputs to ready containers and outputs back: frames, fairness, exactly one accepted result."""

from __future__ import annotations

import pytest

from hotbed_proto import frames
from hotbed_scheduler.actions import Accept, Dispatch, Fail, StartContainer, StopContainer
from hotbed_scheduler.events import ContainerReady, InputsSubmitted, OutputsReceived, Retry
from support.scheduling import CoreBench


def test_first_input_starts_a_container_and_is_sent_when_it_is_ready() -> None:
    bench = CoreBench()
    bench.node()
    bench.function()
    start = bench.one(StartContainer) if bench.submit() else None
    assert start is not None
    assert start.function_id == start.like_function_id == "fu-1"
    (dispatch,) = bench.start()
    assert isinstance(dispatch, Dispatch)
    assert list(dispatch.indices) == [0]
    assert bench.answer(dispatch) == [Accept("fc-1", None)]
    assert bench.core.lane_done("fc-1") == 1


def test_warm_call_is_dispatched_by_its_own_submission() -> None:
    bench = CoreBench()
    container_id = bench.warm()
    bench.submit(lane="fc-2")
    assert bench.one(Dispatch).container_id == container_id
    assert len(bench.actions) == 1


def test_unknown_cost_spreads_a_map_one_by_one() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(min_containers=4)
    bench.start()
    bench.submit(count=16)
    assert [len(d.indices) for d in bench.of(Dispatch)] == [1, 1, 1, 1]
    assert len({d.container_id for d in bench.of(Dispatch)}) == 4


def test_fast_function_gets_large_frames_and_refills_at_half() -> None:
    bench = CoreBench()
    bench.warm(each_s=1e-4)
    bench.submit(count=2000, lane="fc-map")
    sizes = []
    for _ in range(3):
        big = bench.one(Dispatch)
        sizes.append(len(big.indices))
        bench.answer(big, each_s=1e-4)
    assert sizes[0] == 64  # eight times the eight it has been seen to do
    assert sizes[1:] == [200, 200]  # 20 ms of work
    big = bench.one(Dispatch)
    bench.answer(big, big.indices[:99], each_s=1e-4)
    assert bench.of(Dispatch) == []
    bench.answer(big, big.indices[99:101], each_s=1e-4)
    assert len(bench.one(Dispatch).indices) == 101


def test_slow_function_gets_no_prefetch() -> None:
    bench = CoreBench()
    bench.warm(each_s=0.5)
    bench.submit(count=10, lane="fc-map")
    assert len(bench.one(Dispatch).indices) == 1


def test_concurrent_slots_are_refilled_one_by_one() -> None:
    bench = CoreBench()
    bench.warm(each_s=0.5, max_concurrent_inputs=4)
    bench.submit(count=10, lane="fc-map")
    dispatch = bench.one(Dispatch)
    assert len(dispatch.indices) == 4
    bench.answer(dispatch, [dispatch.indices[2]], each_s=0.5)
    assert len(bench.one(Dispatch).indices) == 1


def test_a_new_lane_is_served_in_the_next_dispatch_beside_a_huge_map() -> None:
    bench = CoreBench()
    bench.warm(each_s=0.5)
    bench.submit(count=1_000_000, lane="fc-map")
    running = bench.one(Dispatch)
    bench.submit(lane="fc-single")
    bench.answer(running, each_s=0.5)
    assert bench.one(Dispatch).lane_id == "fc-single"
    bench.answer(bench.one(Dispatch), each_s=0.5)
    assert bench.one(Dispatch).lane_id == "fc-map"


def test_two_busy_callers_do_not_starve_a_map() -> None:
    bench = CoreBench()
    bench.warm(each_s=0.5)
    bench.submit(count=1000, lane="fc-map")
    served: dict[str, int] = {}
    sent = {"fc-a": 0, "fc-b": 0}
    running = bench.one(Dispatch)
    for lane in sent:
        bench.submit(lane=lane)
    for _ in range(30):
        served[running.lane_id] = served.get(running.lane_id, 0) + 1
        bench.answer(running, each_s=0.5)
        done, running = running.lane_id, bench.one(Dispatch)
        if done in sent:
            sent[done] += 1
            bench.submit(sent[done], lane=done)
    assert all(8 <= count <= 12 for count in served.values()), served


def test_higher_priority_goes_first() -> None:
    bench = CoreBench()
    bench.warm(each_s=0.5)
    bench.submit(count=100, lane="fc-low")
    running = bench.one(Dispatch)
    bench.submit(count=3, lane="fc-high", priority=1)
    order = []
    for _ in range(4):
        bench.answer(running, each_s=0.5)
        running = bench.one(Dispatch)
        order.append(running.lane_id)
    assert order == ["fc-high", "fc-high", "fc-high", "fc-low"]


def test_resubmitted_indices_are_ignored() -> None:
    bench = CoreBench()
    bench.node()
    bench.function()
    bench.submit(count=10)
    bench.submit(count=10)
    bench.submit(first=5, count=10)
    assert bench.core.function_stats("fu-1").queued == 15  # type: ignore[union-attr]


def test_stale_unknown_and_repeated_outputs_are_refused_one_by_one() -> None:
    bench = CoreBench()
    bench.warm()
    bench.submit(count=6, lane="fc-map")
    dispatch = bench.one(Dispatch)
    assert list(dispatch.indices) == [0, 1, 2, 3, 4, 5]
    strange = OutputsReceived(dispatch.container_id, dispatch.epoch + 1000, "fc-map", [0])
    assert bench(strange) == []
    assert bench(OutputsReceived("co-other", dispatch.epoch, "fc-map", [0])) == []
    assert bench(OutputsReceived(dispatch.container_id, dispatch.epoch, "fc-other", [0])) == []
    assert bench(OutputsReceived(dispatch.container_id, dispatch.epoch, "fc-map", [0, 1], b"\0")) == []
    assert bench.answer(dispatch, [3, 3, 77]) == [Accept("fc-map", [0])]
    assert bench.answer(dispatch, [3]) == []
    assert bench.answer(dispatch, [5, 4, 2, 1, 0]) == [Accept("fc-map", None)]
    assert bench.answer(dispatch) == []
    assert bench.core.lane_done("fc-map") == 6


def test_generator_items_pass_and_only_the_end_finishes() -> None:
    bench = CoreBench()
    bench.warm()
    bench.submit(lane="fc-gen")
    dispatch = bench.one(Dispatch)
    items = bytes([frames.GENERATOR_ITEM, frames.GENERATOR_ITEM | frames.PAYLOAD_IS_REF])
    assert bench.answer(dispatch, [0, 0], items) == [Accept("fc-gen", None)]
    assert bench.core.lane_done("fc-gen") == 0
    bench.answer(dispatch, [0, 0], bytes([frames.GENERATOR_ITEM, frames.GENERATOR_END]))
    assert bench.core.lane_done("fc-gen") == 1


def test_an_exception_is_retried_after_its_backoff_and_the_last_one_is_accepted() -> None:
    bench = CoreBench()
    bench.warm(retry=Retry(2, 1.0, 2.0, 60.0))
    bench.submit(count=3, lane="fc-map")
    dispatch = bench.one(Dispatch)
    raised = bytes([frames.OK, frames.USER_EXCEPTION, frames.OK])
    assert bench.answer(dispatch, None, raised) == [Accept("fc-map", [0, 2])]
    bench.tick(0.9)
    assert bench.of(Dispatch) == []
    bench.tick(1.0)
    again = bench.one(Dispatch)
    assert list(again.indices) == [1]
    assert bench.answer(again, None, bytes([frames.USER_EXCEPTION])) == []
    bench.tick(2.9)
    assert bench.of(Dispatch) == []
    bench.tick(3.0)
    assert bench.answer(bench.one(Dispatch), None, bytes([frames.USER_EXCEPTION])) == [Accept("fc-map", None)]
    assert bench.core.lane_done("fc-map") == 3


def test_system_errors_are_final_even_with_retries() -> None:
    bench = CoreBench()
    bench.warm(retry=Retry(5))
    bench.submit(lane="fc-x")
    bench.answer(bench.one(Dispatch), None, bytes([frames.SYSTEM_ERROR]))
    assert bench.core.lane_done("fc-x") == 1


def test_single_use_container_stops_after_one_input() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(single_use=True)
    bench.submit(count=2)
    first = bench.of(StartContainer)[0]
    bench.start(first.container_id)
    dispatch = bench.one(Dispatch)
    assert len(dispatch.indices) == 1
    bench.answer(dispatch)
    assert bench.one(StopContainer).container_id == first.container_id
    assert all(d.container_id != first.container_id for d in bench.of(Dispatch))


def test_unknown_function_is_named_at_once() -> None:
    bench = CoreBench()
    bench.submit(count=3, function="fu-none")
    failure = bench.one(Fail)
    assert (failure.code, list(failure.indices)) == ("not-found", [0, 1, 2])


def test_the_queue_limit_fails_what_is_above_it() -> None:
    bench = CoreBench(max_queued_per_function=100)
    bench.function()
    bench.submit(count=150)
    failure = bench.one(Fail)
    assert (failure.code, list(failure.indices)) == ("limit-reached", list(range(100, 150)))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_any_order_of_outputs_finishes_all(order: list[int]) -> None:
    bench = CoreBench()
    bench.warm()
    bench.submit(count=4, lane="fc-map")
    dispatch = bench.one(Dispatch)
    for index in order:
        assert bench.answer(dispatch, [index]) == [Accept("fc-map", None)]
    assert bench.core.lane_done("fc-map") == 4


def test_time_does_not_run_backwards() -> None:
    bench = CoreBench()
    bench.warm(scaledown_window_s=5.0)
    bench.tick(4.0)
    bench.core.handle(InputsSubmitted("fc-2", "fu-1", 0, 1), -100.0)
    bench.core.check()
    assert bench.core.handle(ContainerReady("co-none"), -200.0) == []
