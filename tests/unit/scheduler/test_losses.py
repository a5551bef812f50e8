"""Containers and nodes that die, fail to start, or come too late: who pays, who is queued again, what is reported."""

from __future__ import annotations

import pytest

from hotbed_scheduler.actions import Dispatch, Fail, StartContainer, StopContainer
from hotbed_scheduler.events import (
    ContainerExited,
    ContainerFailed,
    FunctionRegistered,
    NodeDrain,
    NodeHeartbeat,
    NodeLost,
    OutputsReceived,
    Retry,
    Tick,
)
from support.scheduling import CoreBench


def busy(count: int = 4, **more: object) -> tuple[CoreBench, Dispatch]:
    """A warm container with `count` inputs of fc-map out."""
    bench = CoreBench()
    bench.warm(**more)  # type: ignore[arg-type]
    bench.submit(count=count, lane="fc-map")
    return bench, bench.one(Dispatch)


def revive(bench: CoreBench) -> list[Dispatch]:
    bench.start()
    return bench.of(Dispatch)


@pytest.mark.parametrize(
    ("reason", "code"), [("crashed", "container-lost"), ("oom", "out-of-memory"), ("timeout", "function-timeout")]
)
def test_only_the_running_input_pays(reason: str, code: str) -> None:
    bench, dispatch = busy()
    bench(ContainerExited(dispatch.container_id, reason, "", (("fc-map", 1),)))
    failure = bench.one(Fail)
    assert (failure.code, list(failure.indices)) == (code, [1])
    (again,) = revive(bench)
    assert list(again.indices) == [0, 2, 3]
    assert again.epoch > dispatch.epoch


def test_the_running_input_is_retried_while_it_has_attempts() -> None:
    bench, dispatch = busy(retry=Retry(1, 1.0))
    bench(ContainerExited(dispatch.container_id, "crashed", "", (("fc-map", 1),)))
    assert bench.of(Fail) == []
    assert [list(d.indices) for d in revive(bench)] == [[0, 2, 3]]
    bench.answer(bench.one(Dispatch))
    bench.tick(1.0)
    again = bench.one(Dispatch)
    assert list(again.indices) == [1]
    bench(ContainerExited(again.container_id, "crashed", "", (("fc-map", 1),)))
    assert bench.one(Fail).code == "container-lost"


def test_a_single_suspect_pays_even_if_nobody_saw_it() -> None:
    bench, dispatch = busy(1)
    bench(ContainerExited(dispatch.container_id, "crashed"))
    assert list(bench.one(Fail).indices) == [0]


def test_several_suspects_are_tried_alone_until_the_culprit_is_found() -> None:
    bench, dispatch = busy(4)
    bench(ContainerExited(dispatch.container_id, "crashed"))
    assert bench.of(Fail) == []
    bench.start()
    tried = []
    for _ in range(4):
        dispatch = bench.one(Dispatch)
        tried.append(list(dispatch.indices))
        if dispatch.indices[0] == 2:
            bench(ContainerExited(dispatch.container_id, "crashed"))
            assert list(bench.one(Fail).indices) == [2]
            bench.start()
        else:
            bench.answer(dispatch)
    assert tried == [[0], [1], [2], [3]]
    assert bench.core.lane_done("fc-map") == 4


def test_outputs_of_a_lost_container_are_refused() -> None:
    bench, dispatch = busy()
    bench(ContainerExited(dispatch.container_id, "crashed", "", (("fc-map", 0),)))
    assert bench(OutputsReceived(dispatch.container_id, dispatch.epoch, "fc-map", [1, 2])) == []


def test_a_lost_node_costs_nothing_until_the_limit_of_free_requeues() -> None:
    bench = CoreBench(free_requeues_max=2)
    bench.function()
    bench.submit(count=2)
    failed: list[Fail] = []
    for epoch in range(1, 4):
        bench.node(epoch=epoch)  # a new epoch: the one before counts as lost
        failed += bench.of(Fail)
        bench.start()
        assert bench.of(Dispatch)
    bench(NodeLost("no-1", 3, "gone"))
    failed += bench.of(Fail)
    assert {failure.code for failure in failed} == {"container-lost"}
    assert bench.core.lane_done("fc-1") == 2


def test_a_stale_loss_is_ignored() -> None:
    bench = CoreBench()
    bench.node(epoch=5)
    bench(NodeLost("no-1", 4, "late news"))
    assert len(bench.core.node_views()) == 1


def test_lease_runs_out_without_heartbeats() -> None:
    bench = CoreBench(lease_s=15.0)
    bench.node()
    for now_s in range(1, 29):
        bench(Tick(), float(now_s))
        if now_s == 14:
            bench(NodeHeartbeat("no-1", 1))
    bench(NodeHeartbeat("no-1", 9))  # of another life
    assert bench.core.node_views()
    bench(Tick(), 29.5)
    assert bench.core.node_views() == []


def test_a_suspended_machine_does_not_lose_its_nodes() -> None:
    bench = CoreBench(lease_s=15.0)
    bench.node()
    bench(Tick(), 1.0)
    bench(Tick(), 3600.0)
    assert bench.core.node_views()
    for step in range(1, 20):
        bench(Tick(), 3600.0 + step)
    assert bench.core.node_views() == []


def test_draining_stops_idle_containers_and_lets_busy_ones_finish() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(min_containers=2)
    bench.start()
    bench.submit()
    dispatch = bench.one(Dispatch)
    bench(NodeDrain("no-1"))
    assert bench.one(StopContainer).container_id != dispatch.container_id
    assert bench.of(StartContainer) == []
    bench.submit(1)
    assert bench.of(Dispatch) == []
    bench.answer(dispatch)
    assert bench.one(StopContainer).container_id == dispatch.container_id
    for view_id in ("co-00000001", "co-00000002"):
        bench(ContainerExited(view_id, "stopped"))
    bench.tick(1.0)
    stats = bench.core.function_stats("fu-1")
    assert stats is not None
    assert (stats.queued, stats.unplaceable_reason) == (1, "of 1 node: 1 draining")


def test_a_function_that_cannot_be_loaded_fails_its_queue_and_new_inputs_for_a_while() -> None:
    bench = CoreBench(broken_retry_s=10.0)
    bench.node()
    definition = bench.function(max_containers=1)
    bench.submit(count=3)
    start = bench.one(StartContainer)
    bench(ContainerFailed(start.container_id, "container-failed", "ModuleNotFoundError: nope", user_error=True))
    assert list(bench.one(Fail).indices) == [0, 1, 2]
    assert "nope" in bench.one(Fail).message + bench.one(Fail).why
    bench.submit(3)
    assert bench.one(Fail).code == "container-failed"
    assert bench.of(StartContainer) == []
    bench.now_s = 10.5
    bench.submit(4)
    assert bench.of(Fail) == []
    start = bench.one(StartContainer)
    bench(ContainerFailed(start.container_id, "container-failed", "again", user_error=True))
    bench(FunctionRegistered(definition))
    bench.submit(5)
    assert bench.of(StartContainer)


def test_failed_starts_back_off_avoid_the_node_and_end_after_three() -> None:
    bench = CoreBench()
    bench.node("no-1", milli_cpu=2000)
    bench.node("no-2", milli_cpu=4000)
    bench.function(max_containers=1)
    bench.submit()
    nodes, waits = [], []
    for _ in range(3):
        start = bench.one(StartContainer)
        nodes.append(start.node_id)
        bench(ContainerFailed(start.container_id, "container-failed", "no space left"))
        failed_s = bench.now_s
        if bench.of(Fail):
            break
        while not bench.of(StartContainer):
            bench.tick(bench.now_s + 0.05)
        waits.append(bench.now_s - failed_s)
    assert bench.one(Fail).code == "container-failed"
    assert "no space left" in bench.one(Fail).message + bench.one(Fail).why
    assert nodes[0] != nodes[1]
    assert waits[1] > 1.5 * waits[0]


def test_a_container_that_ends_before_it_is_ready_counts_as_a_failed_start() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(max_containers=1)
    bench.submit()
    bench(ContainerExited(bench.one(StartContainer).container_id, "crashed"))
    assert bench.of(StartContainer) == []


def test_startup_timeout() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(startup_timeout_s=5.0, max_containers=1)
    bench.submit()
    start = bench.one(StartContainer)
    bench.tick(4.9)
    assert bench.actions == []
    bench.tick(5.1)
    assert bench.one(StopContainer).container_id == start.container_id
    assert bench.one(Fail).code == "startup-timeout"


def test_a_late_container_fails_nothing_while_another_is_on_its_way() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(startup_timeout_s=5.0, max_containers=2)
    bench.submit()
    bench.tick(3.0)
    bench.submit(1)
    bench.tick(3.1)
    (later,) = bench.of(StartContainer)
    bench.tick(5.1)
    assert bench.of(Fail) == []
    assert len(bench.start(later.container_id)) == 1
    bench.answer(bench.one(Dispatch))
    bench.answer(bench.one(Dispatch))
    assert bench.core.lane_done("fc-1") == 2


def test_a_container_that_does_not_stop_is_told_again() -> None:
    bench = CoreBench(stop_repeat_s=15.0)
    container_id = bench.warm(scaledown_window_s=1.0)
    bench.tick(2.0)
    assert bench.one(StopContainer).container_id == container_id
    bench.tick(10.0)
    assert bench.of(StopContainer) == []
    bench.tick(18.0)
    assert bench.one(StopContainer).grace_s == 0.0
