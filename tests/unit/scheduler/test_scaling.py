"""How many containers there are: scaling up and down, pools, eviction, and turns between apps."""

from __future__ import annotations

from hotbed_proto.resources import GpuRequest, Resources
from hotbed_scheduler.actions import AssignFunction, Dispatch, StartContainer, StopContainer
from hotbed_scheduler.events import ContainerBooted, ContainerExited, ContainerFailed
from support.scheduling import GIB, CoreBench, gpus

SECOND = Resources(1000, 128 << 20)


def test_ten_thousand_quick_inputs_do_not_start_a_crowd() -> None:
    bench = CoreBench()
    bench.node(milli_cpu=2000)
    bench.function()
    bench.submit(count=10_000)
    starts = len(bench.of(StartContainer))
    work = bench.start()
    now_s = 0.1
    while work:
        dispatch = work.pop(0)
        assert isinstance(dispatch, Dispatch)
        now_s += 0.001
        bench.now_s = now_s
        bench.answer(dispatch)
        starts += len(bench.of(StartContainer))
        work += bench.of(Dispatch)
    assert bench.core.lane_done("fc-1") == 10_000
    assert starts <= 2


def test_inputs_that_take_long_get_a_container_each_up_to_capacity() -> None:
    bench = CoreBench()
    bench.node(milli_cpu=4000)
    bench.function(resources=Resources(500))
    bench.submit(count=100)
    assert len(bench.of(StartContainer)) == 4  # nothing known: as many as there are cores
    bench.start()
    bench.tick(2.0)
    assert len(bench.of(StartContainer)) == 4  # the first ones are out for long: the rest of the machine


def test_one_slow_first_call_does_not_start_a_crowd() -> None:
    bench = CoreBench()
    bench.node(milli_cpu=2000)
    bench.function()
    bench.submit(count=10_000)
    bench.start()
    slow, quick = bench.of(Dispatch)
    bench.now_s = 0.3
    bench.answer(quick)
    bench.tick(0.35)
    assert len(bench.of(StartContainer)) <= 1
    bench.answer(slow, each_s=0.35)


def test_max_containers_holds() -> None:
    bench = CoreBench()
    bench.node(milli_cpu=64_000, memory_bytes=64 * GIB)
    bench.function(max_containers=3)
    bench.submit(count=100)
    assert len(bench.of(StartContainer)) == 3
    bench.start()
    bench.tick(5.0)
    assert bench.of(StartContainer) == []


def test_min_and_buffer_containers() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(min_containers=2, buffer_containers=1)
    assert len(bench.of(StartContainer)) == 2
    bench.start()
    bench.submit(count=2)
    bench.tick(0.1)
    assert len(bench.of(StartContainer)) == 1


def test_idle_containers_end_after_the_window_down_to_the_minimum() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(min_containers=1, scaledown_window_s=10.0)
    bench.start()
    bench.submit(count=4)
    first = bench.of(Dispatch)
    started = [a.container_id for a in bench.of(StartContainer)]
    first += [a for a in bench.start(*started) if isinstance(a, Dispatch)]
    for dispatch in first:
        bench.now_s = 1.0
        bench.answer(dispatch)
        first += bench.of(Dispatch)
    bench.tick(10.9)
    assert bench.of(StopContainer) == []
    bench.tick(11.1)
    assert len(bench.of(StopContainer)) == len(started)
    stats = bench.core.function_stats("fu-1")
    assert stats is not None
    assert stats.containers == 1 + len(started)  # those that are ending count until they have


def pooled() -> tuple[CoreBench, str]:
    """A pool with one booted container."""
    bench = CoreBench(pool_size=1, pool_idle_s=60.0)
    bench.node()
    bench.function(pool_key="k", scaledown_window_s=1.0)
    bench.submit()
    bench.start()
    bench.answer(bench.one(Dispatch))
    bench.tick(0.2)
    start = bench.one(StartContainer)
    assert (start.function_id, start.pool_key, start.like_function_id) == ("", "k", "fu-1")
    bench(ContainerBooted(start.container_id))
    return bench, start.container_id


def test_a_pooled_container_is_assigned_and_replaced() -> None:
    bench, container_id = pooled()
    bench.function("fu-2", "ap-2", pool_key="k", resources=Resources(1000, GIB))
    bench.submit(function="fu-2", lane="fc-2")
    assert bench.one(AssignFunction) == AssignFunction(container_id, "no-1", "fu-2")
    assert bench.of(StartContainer) == []
    bench.start(container_id)
    bench.answer(bench.one(Dispatch))
    bench.tick(0.5)
    assert bench.one(StartContainer).function_id == ""


def test_a_pooled_container_that_cannot_grow_is_not_taken() -> None:
    bench, _ = pooled()
    bench.node("no-2", milli_cpu=16_000, memory_bytes=64 * GIB)
    bench.function("fu-2", "ap-2", pool_key="k", resources=Resources(8000, GIB))
    bench.submit(function="fu-2", lane="fc-2")
    assert bench.one(StartContainer).node_id == "no-2"


def test_gpu_functions_do_not_use_the_pool() -> None:
    bench, _ = pooled()
    bench.node("no-2", gpus=gpus("T4", 1))
    bench.function("fu-2", "ap-2", pool_key="k", resources=Resources(gpus=(GpuRequest("T4"),)))
    bench.submit(function="fu-2", lane="fc-2")
    assert bench.one(StartContainer).gpu_indices == (0,)


def test_an_unused_pool_is_dropped() -> None:
    bench, container_id = pooled()
    bench.tick(59.0)
    assert container_id not in [s.container_id for s in bench.of(StopContainer)]
    bench.tick(61.0)
    assert container_id in [s.container_id for s in bench.of(StopContainer)]
    bench(ContainerExited(container_id, "stopped"))
    bench.tick(62.0)
    assert bench.of(StartContainer) == []


def test_a_pool_backs_off_when_its_containers_fail() -> None:
    bench, container_id = pooled()
    bench(ContainerExited(container_id, "crashed"))
    bench.tick(0.4)
    start = bench.one(StartContainer)
    bench(ContainerFailed(start.container_id, "container-failed", "no"))
    bench.tick(0.5)
    assert bench.of(StartContainer) == []
    bench.tick(1.5)
    assert bench.of(StartContainer)


def test_idle_containers_of_others_make_room() -> None:
    bench = CoreBench()
    bench.node(milli_cpu=1000)
    bench.function("fu-0", "ap-0", resources=SECOND)
    bench.submit(function="fu-0", lane="fc-0")
    bench.start()
    bench.answer(bench.one(Dispatch))
    bench.function(resources=SECOND)
    bench.submit()
    stop = bench.one(StopContainer)
    assert bench.of(StartContainer) == []
    bench(ContainerExited(stop.container_id, "stopped"))
    assert bench.one(StartContainer).function_id == "fu-1"


def test_the_least_valuable_idle_container_goes() -> None:
    bench = CoreBench()
    bench.node(milli_cpu=2000)
    for name, uses in (("fu-often", 5), ("fu-once", 1)):
        bench.function(name, "ap-0", resources=SECOND)
        bench.submit(function=name, lane=name)
        bench.start()
        for index in range(uses):
            if index:
                bench.submit(index, function=name, lane=name)
            dispatch = bench.one(Dispatch)
            bench.answer(dispatch)
    bench.function(resources=SECOND)
    bench.submit()
    assert bench.one(StopContainer).container_id == dispatch.container_id


def test_a_saturating_app_gives_room_to_another_ones_call() -> None:
    bench = CoreBench(yield_after_s=1.0)
    bench.node(milli_cpu=2000)
    bench.function("fu-big", "ap-big", resources=SECOND)
    bench.submit(count=1000, function="fu-big", lane="fc-big")
    bench.start()
    running = bench.of(Dispatch)
    assert len(running) == 2
    bench.function("fu-small", "ap-small", resources=SECOND)
    bench.tick(2.0)
    bench.submit(function="fu-small", lane="fc-small")
    bench.tick(2.1)
    stopped = []
    for dispatch in running:
        bench.answer(dispatch, each_s=2.0)
        stopped += bench.of(StopContainer)
    assert len(stopped) == 1
    bench(ContainerExited(stopped[0].container_id, "stopped"))
    assert bench.one(StartContainer).function_id == "fu-small"


def test_two_apps_share_a_small_cluster_evenly() -> None:
    bench = CoreBench()
    bench.function("fu-a", "ap-a", resources=SECOND)
    bench.function("fu-b", "ap-b", resources=SECOND)
    bench.submit(count=1000, function="fu-a", lane="fc-a")
    bench.submit(count=1000, function="fu-b", lane="fc-b")
    bench.node(milli_cpu=4000)
    starts = [start.function_id for start in bench.of(StartContainer)]
    assert sorted(starts) == ["fu-a", "fu-a", "fu-b", "fu-b"]


def test_a_new_definition_replaces_containers() -> None:
    bench = CoreBench()
    container_id = bench.warm()
    bench.function(max_containers=1, resources=Resources(500))
    assert bench.one(StopContainer).container_id == container_id
    bench.submit(lane="fc-2")
    assert bench.of(Dispatch) == []
    bench(ContainerExited(container_id, "stopped"))
    assert bench.one(StartContainer).function_id == "fu-1"
